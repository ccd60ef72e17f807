"""IQ4_NL: 32 weights with 16 levels that lie denser around zero, 4.5 bits per weight.

w = d * level[q]                            q in 0..15; levels from -127 to 113

qs[j]    7 6 5 4      3 2 1 0               j = 0..15
         q[j + 16]    q[j]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, lookup, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.codebooks import codebook
from gguf_jax.formats.ggml_type import GGMLType

LAYOUT = np.dtype([("d", "<f2"), ("qs", "u1", 16)])


def levels(qs: Array, xp: Any) -> Array:
    """uint8 `[..., n]` -> int8 `[..., 2 * n]`, bytes in runs of 16; IQ4_XS too."""
    return lookup(codebook("iq4_nl"), unpack(qs, 4, 16, xp), xp)


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    return ungrouped(grouped(planes["d"].astype(np.float32), levels(planes["qs"], xp)))


IQ4_NL = BlockFormat(GGMLType.IQ4_NL, 32, LAYOUT, decode)

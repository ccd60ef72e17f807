"""IQ2_XXS: 256 weights in 8 groups of 32, 2.0625 bits per weight.

    w = d * (scale + 1/2) / 4 * +-grid[index]               scale in 0..15, one a group

Eight weights at a time are one of 256 vectors with elements 8, 25, 43, and eight signs of which seven are stored (see
`even_signs`). The four 16-bit words of a group are two of 32 bits:

    first     31..24      23..16      15..8       7..0
              index[3]    index[2]    index[1]    index[0]
    second    31..28      27..21      20..14      13..7       6..0
              scale       signs[3]    signs[2]    signs[1]    signs[0]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import even_signs, grouped, little_endian, lookup, negate, ungrouped
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.codebooks import codebook
from gguf_jax.formats.ggml_type import GGMLType

LAYOUT = np.dtype([("d", "<f2"), ("qs", "<u2", 32)])


def signs_of_word(word: Array) -> Array:
    """Four sets of seven signs in the low 28 bits: uint32 `[..., n]` -> uint8 `[..., 4 * n]`; IQ3_XXS too."""
    return even_signs(ungrouped((word[..., None] >> np.arange(0, 28, 7, dtype=np.uint32)) & 127))


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    qs = planes["qs"]
    qs = qs.reshape(*qs.shape[:-1], 8, 4)
    index = ungrouped(xp.stack([qs[..., :2] & 255, qs[..., :2] >> 8], axis=-1))
    word = little_endian(qs[..., 2:], 16)
    vectors = ungrouped(lookup(codebook("iq2_xxs"), ungrouped(index), xp))
    scale = planes["d"].astype(np.float32) * ((word >> 28).astype(np.float32) + 0.5) / 4
    return ungrouped(grouped(scale, negate(vectors, signs_of_word(word), xp)))


IQ2_XXS = BlockFormat(GGMLType.IQ2_XXS, 256, LAYOUT, decode)

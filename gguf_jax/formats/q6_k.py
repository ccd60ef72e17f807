"""Q6_K: 256 weights in 16 groups of 16, 6.5625 bits per weight.

w = d * scale * (q - 32)                    q in 0..63; scale int8, one a group

ql[64 h + l]    7 6 5 4                 3 2 1 0                            h = 0, 1; l = 0..63
                q[128 h + 64 + l]       q[128 h + l]                       bits 3..0
qh[32 h + l]    7 6           5 4           3 2           1 0              l = 0..31
                q[128h+96+l]  q[128h+64+l]  q[128h+32+l]  q[128h+l]        bits 5..4
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.ggml_type import GGMLType

LAYOUT = np.dtype([("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")])


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    scale = planes["d"].astype(np.float32) * planes["scales"].astype(np.float32)
    q = unpack(planes["ql"], 4, 64, xp) | (unpack(planes["qh"], 2, 32, xp) << 4)
    return ungrouped(grouped(scale, q.astype(np.int8) - 32))


Q6_K = BlockFormat(GGMLType.Q6_K, 256, LAYOUT, decode)

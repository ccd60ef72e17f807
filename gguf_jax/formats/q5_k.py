"""Q5_K: 256 weights in 8 groups of 32, 5.5 bits per weight.

    w = d * scale * q - dmin * minimum          q in 0..31; scale and minimum in 0..63, one pair a group

`scales` and the four low bits in `qs` are packed as in Q4_K. The fifth bit of the l-th weight of group g is bit g of
qh[l]:

    qh[l]           7           6          ...    0                l = 0..31
                    q[224 + l]  q[192 + l]        q[l]             bit 4
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, pack, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.formats.q4_k import scales_and_minima, search
from gguf_jax.formats.scale_search import affine_factors

LAYOUT = np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", 128)])


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    scale, minimum = scales_and_minima(planes, xp)
    q = unpack(planes["qs"], 4, 32, xp) | (unpack(planes["qh"], 1, 32, xp) << 4)
    return ungrouped(grouped(scale, q) - minimum[..., None])


def encode(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_q5_K_ref`, with importance `quantize_row_q5_K_impl`."""
    codes, planes = search(values, importance, 31, affine_factors(31, -0.5, 0.1, 15), xp)
    return {**planes, "qh": pack(codes >> 4, 1, 32, xp), "qs": pack(codes & 15, 4, 32, xp)}


Q5_K = BlockFormat(GGMLType.Q5_K, 256, LAYOUT, decode, encode)

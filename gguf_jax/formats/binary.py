"""Q1_0 and Q2_0: one or two bits a weight in the order of the bits, one float16 scale.

Q1_0   d * (2 q - 1)    q in 0..1: -d or d            128 weights, 1.125 bits per weight
Q2_0   d * (q - 1)      q in 0..3: -d, 0, d, 2 d       64 weights, 2.25 bits per weight

Q1_0   qs[j // 8]    bit j % 8 is q[j]
Q2_0   qs[j // 4]    7 6       5 4       3 2       1 0              j a multiple of 4
                     q[j+3]    q[j+2]    q[j+1]    q[j]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, pack, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.formats.rounding import away, product, quotient, total

Q1_0_LAYOUT = np.dtype([("d", "<f2"), ("qs", "u1", 16)])
Q2_0_LAYOUT = np.dtype([("d", "<f2"), ("qs", "u1", 16)])


def decode_q1_0(planes: Mapping[str, Array], xp: Any) -> Array:
    q = 2 * unpack(planes["qs"], 1, 1, xp).astype(np.int8) - 1
    return ungrouped(grouped(planes["d"].astype(np.float32), q))


def decode_q2_0(planes: Mapping[str, Array], xp: Any) -> Array:
    q = unpack(planes["qs"], 2, 1, xp).astype(np.int8) - 1
    return ungrouped(grouped(planes["d"].astype(np.float32), q))


def encode_q1_0(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_q1_0_ref`, which has no use for an importance: d is the mean magnitude."""
    d = total(xp.moveaxis(xp.abs(values), -1, 0)) / np.float32(128)
    return {"d": d[..., None].astype(np.float16), "qs": pack(values >= 0, 1, 1, xp)}


def encode_q2_0(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_q2_0_ref`, which has no use for an importance: d is the largest magnitude."""
    d = xp.max(xp.abs(values), axis=-1, keepdims=True)
    q = away(product(values, quotient(np.float32(1), d, xp), xp), xp) + np.float32(1)
    return {"d": d.astype(np.float16), "qs": pack(xp.clip(q, 0, 3), 2, 1, xp)}


Q1_0 = BlockFormat(GGMLType.Q1_0, 128, Q1_0_LAYOUT, decode_q1_0, encode_q1_0)
Q2_0 = BlockFormat(GGMLType.Q2_0, 64, Q2_0_LAYOUT, decode_q2_0, encode_q2_0)

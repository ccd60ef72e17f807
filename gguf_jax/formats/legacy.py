"""Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32 weights, one float16 scale, and a float16 offset in the `_1` types.

    Q4_0   d * (q - 8)     4.5 bits per weight
    Q4_1   d * q + m       5.0
    Q5_0   d * (q - 16)    5.5
    Q5_1   d * q + m       6.0
    Q8_0   d * q           8.5

The four low bits of weights j and j + 16 share byte j of `qs`; the fifth bit of weight j is bit j of the 32 in `qh`:

    qs[j]       7 6 5 4       3 2 1 0
                q[j + 16]     q[j]
    qh[j // 8]  bit j % 8 is worth 16 in q[j]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.ggml_type import GGMLType

Q4_0_LAYOUT = np.dtype([("d", "<f2"), ("qs", "u1", 16)])
Q4_1_LAYOUT = np.dtype([("d", "<f2"), ("m", "<f2"), ("qs", "u1", 16)])
Q5_0_LAYOUT = np.dtype([("d", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)])
Q5_1_LAYOUT = np.dtype([("d", "<f2"), ("m", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)])
Q8_0_LAYOUT = np.dtype([("d", "<f2"), ("qs", "i1", 32)])


def _five_bits(planes: Mapping[str, Array], xp: Any) -> Array:
    return unpack(planes["qs"], 4, 16, xp) | (unpack(planes["qh"], 1, 1, xp) << 4)


def _scaled(planes: Mapping[str, Array], q: Array) -> Array:
    return ungrouped(grouped(planes["d"].astype(np.float32), q))


def decode_q4_0(planes: Mapping[str, Array], xp: Any) -> Array:
    return _scaled(planes, unpack(planes["qs"], 4, 16, xp).astype(np.int8) - 8)


def decode_q4_1(planes: Mapping[str, Array], xp: Any) -> Array:
    return _scaled(planes, unpack(planes["qs"], 4, 16, xp)) + planes["m"].astype(np.float32)


def decode_q5_0(planes: Mapping[str, Array], xp: Any) -> Array:
    return _scaled(planes, _five_bits(planes, xp).astype(np.int8) - 16)


def decode_q5_1(planes: Mapping[str, Array], xp: Any) -> Array:
    return _scaled(planes, _five_bits(planes, xp)) + planes["m"].astype(np.float32)


def decode_q8_0(planes: Mapping[str, Array], xp: Any) -> Array:
    return _scaled(planes, planes["qs"])


Q4_0 = BlockFormat(GGMLType.Q4_0, 32, Q4_0_LAYOUT, decode_q4_0)
Q4_1 = BlockFormat(GGMLType.Q4_1, 32, Q4_1_LAYOUT, decode_q4_1)
Q5_0 = BlockFormat(GGMLType.Q5_0, 32, Q5_0_LAYOUT, decode_q5_0)
Q5_1 = BlockFormat(GGMLType.Q5_1, 32, Q5_1_LAYOUT, decode_q5_1)
Q8_0 = BlockFormat(GGMLType.Q8_0, 32, Q8_0_LAYOUT, decode_q8_0)

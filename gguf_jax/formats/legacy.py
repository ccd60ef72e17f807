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


def _divided(values: Array, d: Array, xp: Any) -> Array:
    """`values / d`, as the reference has it: times the float32 reciprocal, 0 where d is 0.

    The maximum changes nothing, but keeps XLA on the CPU from fusing the product into a sum that follows: both have to
    be rounded for the codes to be the reference's.
    """
    reciprocal = xp.where(d == 0, np.float32(0), np.float32(1) / xp.where(d == 0, np.float32(1), d))
    return xp.maximum(values * reciprocal, np.finfo(np.float32).min)


def encode_q4_0(values: Array, xp: Any) -> dict[str, Array]:
    """float32 `[..., n_blocks, 32]` -> planes `[..., n_blocks, width]`, byte for byte ggml's `quantize_row_q4_0_ref`:
    the weight of largest magnitude (the first of equals) becomes the code 0, that is -8."""
    largest = xp.take_along_axis(values, xp.argmax(xp.abs(values), axis=-1, keepdims=True), axis=-1)
    d = largest / np.float32(-8)
    q = xp.minimum(_divided(values, d, xp) + np.float32(8.5), np.float32(15)).astype(np.uint8)
    return {"d": d.astype(np.float16), "qs": q[..., :16] | (q[..., 16:] << np.uint8(4))}


def encode_q8_0(values: Array, xp: Any) -> dict[str, Array]:
    """float32 `[..., n_blocks, 32]` -> planes `[..., n_blocks, width]`, byte for byte ggml's `quantize_row_q8_0_ref`:
    halves are rounded away from zero."""
    most = xp.max(xp.abs(values), axis=-1, keepdims=True)
    # XLA would replace a division by a constant by a product with its reciprocal, which is off by a bit at times
    d = most / xp.where(most < np.inf, np.float32(127), np.float32(1))
    x = _divided(values, d, xp)
    whole = xp.trunc(x)
    q = whole + xp.where(xp.abs(x - whole) >= np.float32(0.5), xp.sign(x), np.float32(0))
    return {"d": d.astype(np.float16), "qs": q.astype(np.int8)}


Q4_0 = BlockFormat(GGMLType.Q4_0, 32, Q4_0_LAYOUT, decode_q4_0)
Q4_1 = BlockFormat(GGMLType.Q4_1, 32, Q4_1_LAYOUT, decode_q4_1)
Q5_0 = BlockFormat(GGMLType.Q5_0, 32, Q5_0_LAYOUT, decode_q5_0)
Q5_1 = BlockFormat(GGMLType.Q5_1, 32, Q5_1_LAYOUT, decode_q5_1)
Q8_0 = BlockFormat(GGMLType.Q8_0, 32, Q8_0_LAYOUT, decode_q8_0)

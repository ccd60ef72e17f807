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

from gguf_jax.formats.bits import grouped, pack, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.formats.rounding import away, divided, elements_first, elements_last, loop, product, quotient, square
from gguf_jax.formats.scale_search import affine, affine_factors, importance_weights, symmetric

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


def _times_inverse(values: Array, d: Array, xp: Any) -> Array:
    """`values / d` as the reference has it: times the rounded reciprocal, 0 where d is 0."""
    return product(values, quotient(np.float32(1), d, xp), xp)


def _nibbles(q: Array) -> Array:
    """Codes 0..15, uint8 `[..., 32]` -> uint8 `[..., 16]`."""
    return q[..., :16] | (q[..., 16:] << np.uint8(4))


def _fifth_bits(q: Array, xp: Any) -> dict[str, Array]:
    """The planes of codes 0..31, uint8 `[..., 32]`."""
    return {"qh": pack(q >> np.uint8(4), 1, 1, xp), "qs": _nibbles(q & np.uint8(15))}


def _around_zero(values: Array, importance: Array | None, most: int, xp: Any) -> tuple[Array, Array]:
    """d float16 `[..., 1]` and codes 0..2 most - 1, uint8, such that w = d * (q - most). Without importance the weight
    of largest magnitude (the first of equals) becomes the code 0."""
    if importance is None:
        largest = xp.take_along_axis(values, xp.argmax(xp.abs(values), axis=-1, keepdims=True), axis=-1)
        d = largest / np.float32(-most)  # a power of two
        q = _times_inverse(values, d, xp) + np.float32(most + 0.5)
        return d.astype(np.float16), xp.minimum(q, np.float32(2 * most - 1)).astype(np.uint8)
    x, weights = _weighted(values, importance, xp)
    codes, d = symmetric(x, weights, most, xp)
    return d.astype(np.float16), elements_last(codes, xp).astype(np.uint8)


def _above_minimum(values: Array, importance: Array | None, most: int, xp: Any) -> tuple[dict[str, Array], Array]:
    """The planes d and m, and codes 0..most, uint8, such that w = d * q + m."""
    if importance is None:
        low, high = xp.min(values, axis=-1, keepdims=True), xp.max(values, axis=-1, keepdims=True)
        d = divided(high - low, most, xp)
        q = xp.minimum(_times_inverse(values - low, d, xp) + np.float32(0.5), np.float32(most)).astype(np.uint8)
        return {"d": d.astype(np.float16), "m": low.astype(np.float16)}, q
    x, weights = _weighted(values, importance, xp)
    codes, d, minimum = affine(x, weights, most, affine_factors(most, -0.9, 0.05, 36), xp)
    planes = {"d": d.astype(np.float16), "m": (-minimum).astype(np.float16)}
    return planes, elements_last(codes, xp).astype(np.uint8)


def _weighted(values: Array, importance: Array, xp: Any) -> tuple[Array, Array]:
    """Elements first, `[32, ..., n_blocks, 1]`, and their weights. The mean square is that of the whole row."""
    x = elements_first(values, 32, xp)
    *lead, n_blocks, size = values.shape
    n = n_blocks * size
    row = xp.moveaxis(square(values, xp).reshape(*lead, n), -1, 0)
    rows = loop(n, lambda i, s: s + row[i], xp.zeros(lead, np.float32), xp)
    mean_square = divided(rows, n, xp)[..., None, None]
    return x, importance_weights(x, elements_first(importance, 32, xp), mean_square, xp)


def encode_q4_0(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_q4_0_ref`, with importance `quantize_row_q4_0_impl`."""
    d, q = _around_zero(values, importance, 8, xp)
    return {"d": d, "qs": _nibbles(q)}


def encode_q4_1(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_q4_1_ref`, with importance `quantize_row_q4_1_impl`."""
    planes, q = _above_minimum(values, importance, 15, xp)
    return {**planes, "qs": _nibbles(q)}


def encode_q5_0(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_q5_0_ref`, with importance `quantize_row_q5_0_impl`."""
    d, q = _around_zero(values, importance, 16, xp)
    return {"d": d, **_fifth_bits(q, xp)}


def encode_q5_1(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_q5_1_ref`, with importance `quantize_row_q5_1_impl`."""
    planes, q = _above_minimum(values, importance, 31, xp)
    return {**planes, **_fifth_bits(q, xp)}


def encode_q8_0(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_q8_0_ref`, which has no use for an importance."""
    d = divided(xp.max(xp.abs(values), axis=-1, keepdims=True), 127, xp)
    return {"d": d.astype(np.float16), "qs": away(_times_inverse(values, d, xp), xp).astype(np.int8)}


Q4_0 = BlockFormat(GGMLType.Q4_0, 32, Q4_0_LAYOUT, decode_q4_0, encode_q4_0)
Q4_1 = BlockFormat(GGMLType.Q4_1, 32, Q4_1_LAYOUT, decode_q4_1, encode_q4_1)
Q5_0 = BlockFormat(GGMLType.Q5_0, 32, Q5_0_LAYOUT, decode_q5_0, encode_q5_0)
Q5_1 = BlockFormat(GGMLType.Q5_1, 32, Q5_1_LAYOUT, decode_q5_1, encode_q5_1)
Q8_0 = BlockFormat(GGMLType.Q8_0, 32, Q8_0_LAYOUT, decode_q8_0, encode_q8_0)

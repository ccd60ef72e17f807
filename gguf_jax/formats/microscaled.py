"""MXFP4 and NVFP4: four-bit floats (E2M1) under an eight-bit float scale.

    w = scale * value[q]                 value[q]: 0, 1/2, 1, 3/2, 2, 3, 4, 6 for q < 8, their negatives above

    MXFP4   32 weights, 4.25 bits per weight; e is the exponent of a power of two, 2^(e - 127)       (E8M0)
    NVFP4   64 weights in 4 groups of 16, 4.5 bits per weight; d[g] is an unsigned float with
            4 exponent and 3 fraction bits, bias 7; 0x7f, its NaN, counts as 0                       (UE4M3)

    MXFP4   qs[j]          7 6 5 4      3 2 1 0                j = 0..15
                           q[j + 16]    q[j]
    NVFP4   qs[8 g + j]    7 6 5 4             3 2 1 0         g = 0..3; j = 0..7
                           q[16 g + 8 + j]     q[16 g + j]

As in ggml the doubled values 0, 1, 2, 3, 4, 6, 8, 12 are integers and the scale is halved, a negative zero decodes as
zero, an MXFP4 exponent of 255 is 2^128 and no NaN, and bit 7 of an NVFP4 scale is ignored (though 0xff is no NaN).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, lookup, pack, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.formats.rounding import divided, product

MXFP4_LAYOUT = np.dtype([("e", "u1"), ("qs", "u1", 16)])
NVFP4_LAYOUT = np.dtype([("d", "u1", 4), ("qs", "u1", 32)])

DOUBLED_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)


@functools.cache
def _mxfp4_values() -> np.ndarray:
    """Every weight that MXFP4 can express, float32 `[256 * 16]` at e * 16 + q.

    The smallest are subnormal. A table holds them where a multiplication would not: XLA on the CPU flushes to zero.
    """
    with np.errstate(over="ignore"):
        return np.ldexp(DOUBLED_E2M1.astype(np.float32), np.arange(256)[:, None] - 128).reshape(-1)


@functools.cache
def _half_ue4m3() -> np.ndarray:
    """Half the value of each NVFP4 scale, float32 `[256]`."""
    code = np.arange(256)
    exponent, fraction = (code >> 3) & 15, code & 7
    significand = np.where(exponent == 0, fraction, fraction + 8).astype(np.float32)
    return np.where(code == 0x7F, np.float32(0), np.ldexp(significand, np.maximum(exponent, 1) - 11))


def decode_mxfp4(planes: Mapping[str, Array], xp: Any) -> Array:
    row = planes["e"].astype(np.uint16) << 4
    return lookup(_mxfp4_values(), row | unpack(planes["qs"], 4, 16, xp), xp)


def decode_nvfp4(planes: Mapping[str, Array], xp: Any) -> Array:
    scale = lookup(_half_ue4m3(), planes["d"], xp)
    return ungrouped(grouped(scale, lookup(DOUBLED_E2M1, unpack(planes["qs"], 4, 8, xp), xp)))


def _closest(x: Array, candidate: Callable[[int], Array], xp: Any) -> Array:
    """The code whose value `candidate(code)` is closest to x, the first of equals: uint8 like x."""
    code = xp.zeros(x.shape, np.uint8)
    least = xp.abs(candidate(0) - x)
    for i in range(1, 16):
        error = xp.abs(candidate(i) - x)
        code = xp.where(error < least, np.uint8(i), code)
        least = xp.minimum(error, least)
    return code


@functools.cache
def _rounds_up() -> np.ndarray:
    """For each biased exponent of a float32, the least fraction (of 23 bits) whose logarithm to base 2 rounds up to the
    next whole number in float32, 2^23 where none does: uint32 `[256]`. The reference takes the floor of `log2f`."""
    fraction = np.arange((1 << 23) - 256, 1 << 23)
    least = np.full(256, 1 << 23, np.uint32)
    for biased in range(1, 255):
        logarithm = (np.log1p(fraction / 2.0**23) / np.log(2) + (biased - 127)).astype(np.float32)
        up = logarithm >= biased - 126
        least[biased] = fraction[up][0] if up.any() else 1 << 23
    return least


def encode_mxfp4(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_mxfp4_ref`, which has no use for an importance."""
    most = xp.max(xp.abs(values), axis=-1, keepdims=True)
    bits = most.view(np.uint32)
    biased = bits >> np.uint32(23)
    up = (bits & np.uint32(0x7FFFFF)) >= lookup(_rounds_up(), biased, xp)
    exponent = xp.maximum(biased.astype(np.int32) + up.astype(np.int32) - 2, 0)
    exponent = xp.where(most > 0, exponent, 0).astype(np.uint8)
    row = exponent.astype(np.uint16) << np.uint16(4)
    q = _closest(values, lambda i: lookup(_mxfp4_values(), row | np.uint16(i), xp), xp)
    return {"e": exponent, "qs": pack(q, 4, 16, xp)}


def _ue4m3(x: Array, xp: Any) -> Array:
    """A scale of NVFP4, nearest with halves up: float32 -> uint8 (`ggml_fp32_to_ue4m3`)."""
    x = xp.minimum(x, np.float32(448))
    bits = x.view(np.uint32)
    exponent = (bits >> np.uint32(23)).astype(np.int32) - 120
    fraction = ((bits >> np.uint32(20)) & np.uint32(7)) + ((bits >> np.uint32(19)) & np.uint32(1))
    normal = xp.minimum(exponent * 8 + fraction.astype(np.int32), 0x7E)  # a fraction of 8 carries into the exponent
    normal = xp.where(exponent >= 15, 0x7E, normal)
    subnormal = xp.minimum(xp.trunc(x * np.float32(512) + np.float32(0.5)), np.float32(7)).astype(np.int32)
    return xp.where(x > 0, xp.where(exponent <= 0, subnormal, normal), 0).astype(np.uint8)


def encode_nvfp4(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_row_nvfp4_ref`, which has no use for an importance."""
    x = values.reshape(*values.shape[:-1], 4, 16)
    d = _ue4m3(divided(xp.max(xp.abs(x), axis=-1), 6, xp), xp)
    scale = lookup(_half_ue4m3(), d, xp)[..., None]
    q = _closest(x, lambda i: product(np.float32(DOUBLED_E2M1[i]), scale, xp), xp)
    return {"d": d, "qs": pack(ungrouped(q), 4, 8, xp)}


MXFP4 = BlockFormat(GGMLType.MXFP4, 32, MXFP4_LAYOUT, decode_mxfp4, encode_mxfp4)
NVFP4 = BlockFormat(GGMLType.NVFP4, 64, NVFP4_LAYOUT, decode_nvfp4, encode_nvfp4)

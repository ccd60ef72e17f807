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
from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, lookup, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.ggml_type import GGMLType

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


MXFP4 = BlockFormat(GGMLType.MXFP4, 32, MXFP4_LAYOUT, decode_mxfp4)
NVFP4 = BlockFormat(GGMLType.NVFP4, 64, NVFP4_LAYOUT, decode_nvfp4)

"""IQ4_NL: 32 weights with 16 levels that lie denser around zero, 4.5 bits per weight.

w = d * level[q]                            q in 0..15; levels from -127 to 113

qs[j]    7 6 5 4      3 2 1 0               j = 0..15
         q[j + 16]    q[j]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, lookup, pack, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.codebooks import codebook
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.formats.rounding import (
    divided,
    elements_first,
    elements_last,
    largest,
    loop,
    product,
    quotient,
    square,
    total,
)
from gguf_jax.formats.scale_search import EPSILON, block_weights

LAYOUT = np.dtype([("d", "<f2"), ("qs", "u1", 16)])


def levels(qs: Array, xp: Any) -> Array:
    """uint8 `[..., n]` -> int8 `[..., 2 * n]`, bytes in runs of 16; IQ4_XS too."""
    return lookup(codebook("iq4_nl"), unpack(qs, 4, 16, xp), xp)


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    return ungrouped(grouped(planes["d"].astype(np.float32), levels(planes["qs"], xp)))


def _value(x: Array, xp: Any) -> tuple[Array, Array]:
    """The code and the value, both float32, of the level that is closest to x, the upper one in the middle."""
    level = codebook("iq4_nl").astype(np.float32)
    code, value = xp.zeros_like(x), xp.full_like(x, level[0])
    for i in range(15):
        above = x >= (level[i] + level[i + 1]) / 2
        code = code + above.astype(np.float32)
        value = xp.where(above, level[i + 1], value)
    return code, value


def closest(x: Array, xp: Any) -> Array:
    """The code of the level that is closest to x, uint8."""
    return _value(x, xp)[0].astype(np.uint8)


def search(values: Array, importance: Array | None, xp: Any) -> tuple[Array, Array]:
    """Groups of 32 elements first, `[32, ..., n_blocks, groups]`, and their best scales `[..., n_blocks, groups]`;
    IQ4_XS too."""
    x = elements_first(values, 32, xp)
    weights = block_weights(values, importance, 32, 2, xp)
    magnitude, extreme = largest(x, xp)
    lowest = np.float32(codebook("iq4_nl")[0])

    def sums(inverse: Array) -> tuple[Array, Array]:
        _, q = _value(product(inverse, x, xp), xp)
        weighted = product(weights, q, xp)
        return total(product(weighted, x, xp)), total(product(weighted, q, xp))

    # the reference's inverse scale, of a rounded scale
    sum_qx, sum_q2 = sums(quotient(np.float32(1), divided(-extreme, float(lowest), xp), xp))
    scale = xp.where(sum_q2 > 0, quotient(sum_qx, sum_q2, xp), np.float32(0))

    def attempt(i: Any, best: tuple[Array, Array]) -> tuple[Array, Array]:
        sum_qx, sum_q2 = sums(quotient(tries[i], extreme, xp))
        better = (sum_q2 > 0) & (square(sum_qx, xp) > product(best[0], sum_q2, xp))
        scale = quotient(sum_qx, sum_q2, xp)
        return xp.where(better, product(scale, sum_qx, xp), best[0]), xp.where(better, scale, best[1])

    tries = xp.asarray(lowest + np.arange(-7, 8, dtype=np.float32))
    _, scale = loop(15, attempt, (product(scale, sum_qx, xp), scale), xp)
    return x, xp.where(magnitude < EPSILON, np.float32(0), scale)


def encode(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_iq4_nl`."""
    x, scale = search(values, importance, xp)
    codes = elements_last(closest(product(quotient(np.float32(1), scale, xp), x, xp), xp), xp)
    return {"d": scale.astype(np.float16), "qs": pack(codes, 4, 16, xp)}


IQ4_NL = BlockFormat(GGMLType.IQ4_NL, 32, LAYOUT, decode, encode)

"""IQ1_M: 256 weights in 16 groups of 16, 1.75 bits per weight.

    w = d * (2 * scale + 1) * (grid[index] +- 1/8)          scale in 0..7, one a group

The vectors are those of IQ1_S, but each has its own side. qs[k] is the low part of the index of vector k, nibble k of
`qh` (low nibble first) the rest. There is no field for the float16 d: its four nibbles, lowest first, are the tops of
the four little-endian 16-bit words that `scales` consists of:

    qh[k // 2]    7                   6 5 4             3                   2 1 0             k even
                  1: subtract 1/8     index[k+1]>>8     1: subtract 1/8     index[k]>>8
    word[i]       15..12           11 10 9             8 7 6               5 4 3               2 1 0
                  nibble i of d    scale[4 i + 3]      scale[4 i + 2]      scale[4 i + 1]      scale[4 i]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, little_endian, pack, ungrouped, unpack
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.formats.grid_search import groups_last, scale_codes
from gguf_jax.formats.iq1_s import DELTA, eighths, entry_values, running, snapped, sorted_group, splits
from gguf_jax.formats.rounding import elements_first, elements_last, loop, product, quotient, square, total
from gguf_jax.formats.scale_search import block_weights

LAYOUT = np.dtype([("qs", "u1", 32), ("qh", "u1", 16), ("scales", "u1", 8)])

SHIFTS = ((1, 1), (1, -1), (-1, 1), (-1, -1))
"""Whether the first and the second eight of a group are moved up or down, in the order in which they are tried."""


def _scale(scales: Array) -> Array:
    """uint8 `[..., 8]` -> d * (2 * scale + 1), float32 `[..., 16]`."""
    words = scales[..., 0::2] | (scales[..., 1::2].astype(np.uint16) << 8)
    tops = words >> 12
    d = tops[..., 0:1] | (tops[..., 1:2] << 4) | (tops[..., 2:3] << 8) | (tops[..., 3:4] << 12)
    scale = ungrouped((words[..., None] >> np.arange(0, 12, 3, dtype=np.uint16)) & 7)
    return d.view(np.float16).astype(np.float32) * (2 * scale + 1).astype(np.float32)


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    high = unpack(planes["qh"], 4, 1, xp)
    index = planes["qs"] | ((high & 7).astype(np.uint16) << 8)
    return ungrouped(grouped(_scale(planes["scales"]) / 8, eighths(index, high >> 3, xp)))


def encode(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_iq1_m`: as IQ1_S, where either half of a group of 16 may be moved up or down."""
    x = elements_first(values, 16, xp)
    weights = block_weights(values, importance, 16, 2, xp)
    order, place = sorted_group(x, xp)
    in_first = order < 8
    weighted = xp.take_along_axis(product(weights, x, xp), order, axis=0)
    ordered = xp.take_along_axis(weights, order, axis=0)
    halves = (in_first, ~in_first)
    sums_x = [running(xp.where(half, weighted, np.float32(0)), xp) for half in halves]
    sums_w = [running(xp.where(half, ordered, np.float32(0)), xp) for half in halves]
    firsts, seconds = (xp.asarray(cut) for cut in splits(16))
    levels = {shift: [np.float32(level) + shift * DELTA for level in (-1, 0, 1)] for shift in (1, -1)}

    def attempt(t: Any, best: tuple[Array, ...]) -> tuple[Array, ...]:
        i, j = firsts[t], seconds[t]
        qx, q2 = {}, {}
        for h in (0, 1):
            sx, sw = sums_x[h], sums_w[h]
            for shift, (low, middle, high) in levels.items():
                qx[h, shift] = product(sx[16], high, xp) - (sx[i] + sx[j])
                q2[h, shift] = (
                    product(product(sw[16], high, xp), high, xp)
                    + product(sw[i], low * low - middle * middle, xp)
                    + product(sw[j], middle * middle - high * high, xp)
                )
        for k, (a, b) in enumerate(SHIFTS):
            sum_qx, sum_q2 = qx[0, a] + qx[1, b], q2[0, a] + q2[1, b]
            better = (sum_q2 > 0) & (square(sum_qx, xp) > product(best[0], sum_q2, xp))
            scale = quotient(sum_qx, sum_q2, xp)
            new = (product(scale, sum_qx, xp), scale, i, j, np.int32(k))
            best = tuple(xp.where(better, n, o) for n, o in zip(new, best, strict=True))
        return best

    none = xp.full(x.shape[1:], -1, np.int32)
    start = (xp.full(x.shape[1:], np.finfo(np.float32).min), xp.zeros(x.shape[1:], np.float32), none, none, none)
    _, scale, i, j, k = loop(len(splits(16)[0]), attempt, start, xp)
    empty = (xp.max(xp.abs(x), axis=0) < np.float32(1e-7)) | (k < 0)
    codes = ((place >= i).astype(np.int32) + (place >= j).astype(np.int32)).astype(np.float32)
    codes = xp.where(scale < 0, np.float32(2) - codes, codes)
    k = xp.where(empty, 0, xp.where(scale < 0, 3 - k, k))
    delta = xp.where(xp.stack([k & 2, k & 1]) == 0, DELTA, -DELTA)
    entry, scale = snapped(x, weights, codes, xp.abs(scale), delta, xp)
    entry = xp.where(empty, 0, entry)
    scale_code, d = scale_codes(xp.where(empty, 0, scale), 15, 7, xp)
    nothing = d == 0

    # the best scale of the whole block, now that the sub-scales are whole numbers
    q = product(entry_values(entry, delta, xp), (2 * scale_code + 1).astype(np.float32), xp)
    weighted = product(weights, q, xp)
    in_order = (elements_last(product(weighted, each, xp), xp) for each in (x, q))
    sum_qx, sum_q2 = (total(xp.moveaxis(terms, -1, 0)) for terms in in_order)
    d = xp.where(sum_q2 > 0, quotient(sum_qx, sum_q2, xp), d)
    # the factor is the reference's
    bits = product(d, np.float32(1.1125), xp).astype(np.float16).view(np.uint16)
    bits = xp.where(nothing, np.uint16(0), bits)

    tops = (bits[..., None] >> np.arange(0, 16, 4, dtype=np.uint16)) & np.uint16(15)
    codes_of_word = scale_code.reshape(*scale_code.shape[:-1], 4, 4)
    word = little_endian(codes_of_word, 3).astype(np.uint16) | (tops << np.uint16(12))
    scales = xp.stack([word & np.uint16(255), word >> np.uint16(8)], axis=-1).astype(np.uint8)
    minus = xp.where(nothing[..., None], 0, xp.stack([k >> 1, k & 1]))
    high = groups_last((entry >> 8) | (minus << 3), xp)
    return {
        "qs": groups_last((entry & 255).astype(np.uint8), xp),
        "qh": pack(high, 4, 1, xp),
        "scales": scales.reshape(*scales.shape[:-2], 8),
    }


IQ1_M = BlockFormat(GGMLType.IQ1_M, 256, LAYOUT, decode, encode)

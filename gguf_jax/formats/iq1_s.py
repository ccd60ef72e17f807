"""IQ1_S: 256 weights in 8 groups of 32, 1.5625 bits per weight.

    w = d * (2 * scale + 1) * (grid[index] +- 1/8)          scale in 0..7, one a group

Eight weights at a time are one of 2048 vectors with elements -1, 0, 1, all moved by one eighth to one side. Byte
qs[4 g + k] is the low part of the index of vector k of group g, qh[g] the rest:

    qh[g]    15                 14 13 12    11 10 9        8 7 6          5 4 3          2 1 0
             1: subtract 1/8    scale       index[3]>>8    index[2]>>8    index[1]>>8    index[0]>>8
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.formats.bits import grouped, little_endian, lookup, ungrouped
from gguf_jax.formats.block_format import Array, BlockFormat
from gguf_jax.formats.codebooks import codebook
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.formats.grid_search import best_neighbour, grid, groups_last, number, scale_codes
from gguf_jax.formats.rounding import elements_first, loop, product, quotient, square, total
from gguf_jax.formats.scale_search import block_weights

LAYOUT = np.dtype([("d", "<f2"), ("qs", "u1", 32), ("qh", "<u2", 8)])


def eighths(index: Array, minus: Array, xp: Any) -> Array:
    """8 * (grid[index] +- 1/8) as int8: `[..., n]`, and 1 in `minus` to go down -> `[..., 8 * n]`; IQ1_M too."""
    vectors = 8 * lookup(codebook("iq1_s"), index, xp)
    return ungrouped(vectors + (1 - 2 * minus.astype(np.int8))[..., None])


def decode(planes: Mapping[str, Array], xp: Any) -> Array:
    qs, qh = planes["qs"], planes["qh"]
    high = ungrouped((qh[..., None] >> np.arange(0, 12, 3, dtype=np.uint16)) & 7)
    minus = xp.repeat(qh >> 15, 4, axis=-1)
    scale = planes["d"].astype(np.float32) * (2 * ((qh >> 12) & 7) + 1).astype(np.float32)
    return ungrouped(grouped(scale / 8, eighths(qs | (high << 8), minus, xp)))


DELTA = np.float32(0.125)


def sorted_group(x: Array, xp: Any) -> tuple[Array, Array]:
    """`[n, ...]` -> the order that sorts a group, ascending and stable, and every element's place in it; IQ1_M too."""
    order = xp.argsort(x, axis=0, stable=True)
    return order, xp.argsort(order, axis=0)


def running(terms: Array, xp: Any) -> Array:
    """Sums of the first 0, 1, ..., n terms: `[n, ...]` -> `[n + 1, ...]`; IQ1_M too."""
    sums = [xp.zeros_like(terms[0])]
    for i in range(len(terms)):
        sums.append(sums[-1] + terms[i])
    return xp.stack(sums)


def splits(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Every way to cut a sorted group of n into -1, 0 and 1, as the numbers of elements before each cut; IQ1_M too."""
    first, second = np.triu_indices(n + 1)
    return first.astype(np.int32), second.astype(np.int32)


def snapped(x: Array, weights: Array, codes: Array, scale: Array, delta: Array, xp: Any) -> tuple[Array, Array]:
    """Codes 0, 1, 2 `[n, ...]` -> the entries of the codebook and the best scale for them; IQ1_M too.

    Args:
        delta: what every vector is moved by, +-1/8: `[n / 8, ...]`.

    Returns:
        entries `[n / 8, ...]` and scale `[...]`.
    """
    book = grid("iq1_s")
    k = len(x) // 8
    xs, ws, cs = (xp.swapaxes(a.reshape(k, 8, *a.shape[1:]), 0, 1) for a in (x, weights, codes))
    combination = number(cs, 3)
    entry = best_neighbour(xs, ws, scale[None], combination, book, lambda code: code - np.float32(1) + delta, xp)
    values = entry_values(entry, delta, xp)
    weighted = product(weights, values, xp)
    sum_qx, sum_q2 = total(product(weighted, x, xp)), total(product(weighted, values, xp))
    off_grid = ~xp.all(lookup(book.on_grid, combination, xp), axis=0)
    solved = off_grid & (sum_qx > 0) & (sum_q2 > 0)
    return entry, xp.where(solved, quotient(sum_qx, sum_q2, xp), scale)


def entry_values(entry: Array, delta: Array, xp: Any) -> Array:
    """Entries and what they are moved by, `[k, ...]` -> values `[8 * k, ...]`."""
    vectors = xp.moveaxis(lookup(grid("iq1_s").codes.astype(np.float32), entry, xp), -1, 1)
    return (vectors - np.float32(1) + delta[:, None]).reshape(8 * len(entry), *entry.shape[1:])


def encode(values: Array, importance: Array | None, xp: Any) -> dict[str, Array]:
    """ggml's `quantize_iq1_s`: of all ways to cut a sorted group into three runs, the one of least weighted error."""
    x = elements_first(values, 32, xp)
    weights = block_weights(values, importance, 32, 2, xp)
    order, place = sorted_group(x, xp)
    sum_x = running(xp.take_along_axis(product(weights, x, xp), order, axis=0), xp)
    sum_w = running(xp.take_along_axis(weights, order, axis=0), xp)
    firsts, seconds = (xp.asarray(cut) for cut in splits(32))

    def attempt(t: Any, best: tuple[Array, ...]) -> tuple[Array, ...]:
        i, j = firsts[t], seconds[t]
        parts_x = (sum_x[i] - sum_x[0], sum_x[j] - sum_x[i], sum_x[32] - sum_x[j])
        parts_w = (sum_w[i] - sum_w[0], sum_w[j] - sum_w[i], sum_w[32] - sum_w[j])
        for shift in (1, -1):
            levels = [np.float32(level) + shift * DELTA for level in (-1, 0, 1)]
            pairs = [list(zip(parts, levels, strict=True)) for parts in (parts_x, parts_w)]
            sum_qx = total([product(part, q, xp) for part, q in pairs[0]])
            sum_q2 = total([product(product(part, q, xp), q, xp) for part, q in pairs[1]])
            better = (sum_q2 > 0) & (square(sum_qx, xp) > product(best[0], sum_q2, xp))
            scale = quotient(sum_qx, sum_q2, xp)
            new = (product(scale, sum_qx, xp), scale, i, j, np.int32(shift))
            best = tuple(xp.where(better, n, o) for n, o in zip(new, best, strict=True))
        return best

    none = xp.full(x.shape[1:], -1, np.int32)
    start = (xp.full(x.shape[1:], np.finfo(np.float32).min), xp.zeros(x.shape[1:], np.float32), none, none, 0 * none)
    _, scale, i, j, shift = loop(len(splits(32)[0]), attempt, start, xp)
    empty = (xp.max(xp.abs(x), axis=0) < np.float32(1e-12)) | (shift == 0)
    codes = ((place >= i).astype(np.int32) + (place >= j).astype(np.int32)).astype(np.float32)
    codes = xp.where(scale < 0, np.float32(2) - codes, codes)
    shift = xp.where(scale < 0, -shift, shift)
    delta = xp.broadcast_to(shift.astype(np.float32) * DELTA, (4, *shift.shape))
    entry, scale = snapped(x, weights, codes, xp.abs(scale), delta, xp)
    entry = xp.where(empty, 0, entry)
    scale_code, d = scale_codes(xp.where(empty, 0, scale), 15, 7, xp)
    down = (shift == -1) & ~empty & (d > 0)[..., None]
    high = little_endian(xp.moveaxis(entry >> 8, 0, -1), 3).astype(np.uint16)
    qh = high | (scale_code.astype(np.uint16) << np.uint16(12)) | (down.astype(np.uint16) << np.uint16(15))
    # the factor is the reference's
    d = product(d, np.float32(1.125), xp)[..., None].astype(np.float16)
    return {"d": d, "qs": groups_last((entry & 255).astype(np.uint8), xp), "qh": qh}


IQ1_S = BlockFormat(GGMLType.IQ1_S, 256, LAYOUT, decode, encode, True)

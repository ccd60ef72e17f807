"""The searches of the IQ types: groups of 4 or 8 weights become vectors of a codebook, under one scale.

Rounding every weight on its own gives a combination of codes that may be no vector of the codebook. The reference then
asks the vectors around it (those at the few smallest distances) which of them is the least weighted error away
(`iq2_find_best_neighbour` and its kin). Arrays are as in `scale_search.py`, elements first; the arithmetic is that of
`rounding.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_jax.formats.bits import little_endian, lookup
from gguf_jax.formats.block_format import Array
from gguf_jax.formats.codebooks import codebook
from gguf_jax.formats.rounding import divided, loop, nearest, product, quotient, square, total

F = np.float32

SHELLS = {"iq1_s": 3, "iq2_xxs": 2, "iq2_xs": 2, "iq2_s": 1, "iq3_xxs": 2, "iq3_s": 3}
"""Distances, from the smallest on, at which the vectors count as neighbours."""


@dataclass(frozen=True)
class Grid:
    """A codebook as the encoders see it.

    Attributes:
        codes: int8 `[entries, size]`: the vectors, each element as the number of its level, from 0.
        base: levels. A combination of codes c has the number sum c[i] * base^i.
        first, count: int32 `[base^size]`: where the neighbours of a combination are in `members`, and how many; a
            vector of the codebook has itself alone.
        members: int32: entries, those of a combination by distance and then by number.
        on_grid: bool `[base^size]`: the combinations that are vectors of the codebook.
    """

    codes: np.ndarray
    base: int
    first: np.ndarray
    count: np.ndarray
    members: np.ndarray
    on_grid: np.ndarray

    @property
    def size(self) -> int:
        return self.codes.shape[1]


@functools.cache
def grid(name: str) -> Grid:
    """The grid of a codebook, made when it is first asked for (some tenths of a second)."""
    vectors = codebook(name)
    levels = np.unique(vectors)
    codes = np.searchsorted(levels, vectors).astype(np.int8)
    base, size = len(levels), vectors.shape[1]
    powers = base ** np.arange(size)
    numbers = codes.astype(np.int64) @ powers
    combinations = np.arange(base**size)[:, None] // powers % base
    p, v = combinations.astype(np.float32), codes.astype(np.float32)
    distance = (np.sum(p * p, 1)[:, None] + np.sum(v * v, 1) - 2 * p @ v.T).astype(np.int16)  # exact: small integers
    reach = np.full(len(p), -1, np.int16)
    for _ in range(SHELLS[name]):
        beyond = np.where(distance > reach[:, None], distance, np.int16(1 << 14))
        reach = np.min(beyond, axis=1)
    reach[numbers] = 0
    of, members = np.nonzero(distance <= reach[:, None])
    order = np.lexsort((members, distance[of, members], of))
    count = np.bincount(of, minlength=len(p)).astype(np.int32)
    on_grid = np.zeros(len(p), bool)
    on_grid[numbers] = True
    first = (np.cumsum(count) - count).astype(np.int32)
    return Grid(codes, base, first, count, members[order].astype(np.int32), on_grid)


def number(codes: Array, base: int) -> Array:
    """Codes as floats, `[size, ...]` -> the number of the combination, int32 `[...]`."""
    result = codes[0].astype(np.int32)
    for i in range(1, len(codes)):
        result = result + codes[i].astype(np.int32) * np.int32(base**i)
    return result


def best_neighbour(
    x: Array, weights: Array, scale: Array, combination: Array, grid: Grid, value: Callable[[Array], Array], xp: Any
) -> Array:
    """The entry of the codebook next to a combination that is closest to x, the first of equals, int32 `[...]`.

    Args:
        x, weights: `[size, ...]`.
        scale, combination: `[...]`.
        value: what a code, a float, is worth before it is scaled.
    """
    first, count = lookup(grid.first, combination, xp), lookup(grid.count, combination, xp)
    levels = [np.ascontiguousarray(column).astype(np.float32) for column in grid.codes.T]

    def ask(j: Any, best: tuple[Array, Array]) -> tuple[Array, Array]:
        entry = lookup(grid.members, first + xp.minimum(j, count - 1), xp)
        error = xp.zeros(entry.shape, np.float32)
        for i in range(grid.size):
            difference = product(scale, value(lookup(levels[i], entry, xp)), xp) - x[i]
            error = error + product(product(weights[i], difference, xp), difference, xp)
        better = (j < count) & (error < best[0])
        return xp.where(better, error, best[0]), xp.where(better, entry, best[1])

    start = (xp.full(first.shape, np.finfo(np.float32).max), lookup(grid.members, first, xp))
    return loop(xp.max(count), ask, start, xp)[1]


def search(
    x: Array,
    weights: Array,
    grid: Grid,
    tries: np.ndarray,
    span: Array,
    scale: Array,
    again: Callable[[Array], Array],
    xp: Any,
    start_on_grid: bool = True,
) -> tuple[Array, Array]:
    """`x ~ scale * (2 * code + 1)` with the codes of `grid`.

    Args:
        x, weights: `[n, ...]`.
        tries: inverse scales to try, times `span` `[...]`.
        scale: what it is if no try is any good.
        again: from whether vectors are what plain rounding gave (bool `[n / size, ...]`), which ones to look for once
            more under the final scale.
        start_on_grid: what `again` is told where no try was any good.

    Returns:
        entries of the codebook, int32 `[n / size, ...]`, and the scale `[...]`, of either sign.
    """
    n, size = len(x), grid.size
    k = n // size

    def vectors(elements: Array) -> Array:  # [n, ...] -> [size, k, ...]
        return xp.swapaxes(elements.reshape(k, size, *elements.shape[1:]), 0, 1)

    levels = grid.codes.astype(np.float32)
    xs, roots = vectors(x), vectors(xp.sqrt(weights))
    weighted = product(weights, x, xp)

    def snapped(inverse: Array, scale: Array) -> tuple[Array, Array]:
        codes = nearest((product(inverse, x, xp) - F(1)) * F(0.5), xp)
        combination = number(vectors(xp.clip(codes, F(0), F(grid.base - 1))), grid.base)
        entry = best_neighbour(xs, roots, scale[None], combination, grid, lambda code: F(2) * code + F(1), xp)
        return entry, lookup(grid.on_grid, combination, xp)

    def sums(entry: Array) -> tuple[Array, Array]:
        codes = xp.moveaxis(lookup(levels, entry, xp), -1, 1)  # [k, size, ...]
        q = F(2) * codes.reshape(n, *codes.shape[2:]) + F(1)
        return total(product(weighted, q, xp)), total(product(product(weights, q, xp), q, xp))

    table = xp.asarray(tries)

    def attempt(i: Any, best: tuple[Array, ...]) -> tuple[Array, ...]:
        inverse = quotient(table[i], span, xp)
        entry, on_grid = snapped(inverse, quotient(F(1), inverse, xp))
        sum_qx, sum_q2 = sums(entry)
        better = (sum_q2 > 0) & (square(sum_qx, xp) > product(best[0], sum_q2, xp))
        scale = quotient(sum_qx, sum_q2, xp)
        new = (product(scale, sum_qx, xp), scale, entry, on_grid)
        return tuple(xp.where(better, n, o) for n, o in zip(new, best, strict=True))

    shape = (k, *x.shape[1:])
    lowest = xp.full(shape, int(grid.members[grid.first[0]]), np.int32)
    start = (xp.zeros(x.shape[1:], np.float32), scale, lowest, xp.full(shape, start_on_grid))
    _, scale, entry, on_grid = loop(len(tries), attempt, start, xp)
    once_more = again(on_grid) & (scale > 0)
    inverse = quotient(F(1), scale, xp)
    entry = xp.where(once_more, snapped(inverse, scale)[0], entry)
    sum_qx, sum_q2 = sums(entry)
    solved = xp.any(once_more, axis=0) & (sum_q2 > 0)
    return entry, xp.where(solved, quotient(sum_qx, sum_q2, xp), scale)


def magnitudes(x: Array, weights: Array, even: bool, xp: Any) -> tuple[Array, Array]:
    """`[n, ...]` -> |x| and the signs of eight weights each, uint8 `[n / 8, ...]`, bit i set for the i-th below zero.

    `even`: a set with an odd number of signs changes that of its least important weight, whose magnitude then is
    negative.
    """
    negative = x < 0
    bits = negative.reshape(len(x) // 8, 8, *x.shape[1:])
    magnitude = xp.abs(x)
    if even:
        cost = product(product(weights, x, xp), x, xp).reshape(bits.shape)
        odd = xp.sum(bits.astype(np.int32), axis=1) % 2 == 1
        least = xp.argmin(cost, axis=1)
        where = xp.arange(8).reshape(1, 8, *(1,) * (x.ndim - 1))
        flipped = odd[:, None] & (where == least[:, None])
        bits = bits ^ flipped
        magnitude = xp.where(flipped.reshape(x.shape), -magnitude, magnitude)
    return magnitude, little_endian(xp.moveaxis(bits, 1, -1), 1).astype(np.uint8)


def scale_codes(scale: Array, steps: int, most: int, xp: Any) -> tuple[Array, Array]:
    """Scales >= 0, `[..., groups]`, as codes 0..most, uint8, that stand for `d * (2 * code + 1)`, and d `[...]`, such
    that the largest scale would be `steps * d`."""
    d = divided(xp.max(scale, axis=-1), steps, xp)
    inverse = quotient(F(1), d, xp)[..., None]
    codes = xp.clip(nearest((product(inverse, scale, xp) - F(1)) * F(0.5), xp), 0, F(most))
    return codes.astype(np.uint8), d


def groups_last(vectors: Array, xp: Any) -> Array:
    """`[k, ..., n_blocks, groups]` -> `[..., n_blocks, groups * k]`."""
    moved = xp.moveaxis(vectors, 0, -1)
    *lead, groups, k = moved.shape
    return moved.reshape(*lead, groups * k)


def steps(middle: float, reach: int, step: float) -> np.ndarray:
    """`middle + i * step` for i in -reach .. reach, as C rounds it: float32."""
    return np.array([F(middle) + F(F(i) * F(step)) for i in range(-reach, reach + 1)], np.float32)

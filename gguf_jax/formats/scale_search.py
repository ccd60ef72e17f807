"""The searches for scales that the legacy and K types share: ggml's `make_*_quants`, over all groups at once.

A group of n weights is approximated by integer codes under one scale, `x ~ scale * code` or `x ~ scale * code -
minimum`. Every search tries some scales around the obvious one, rounds the group under each, solves for the scale that
suits those codes best in the weighted least squares sense, and keeps the best (functions and constants:
ggml-quants.c; the arithmetic: `rounding.py`). Arrays are `[n, ...]` for a group's elements, `[...]` for groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gguf_jax.formats.block_format import Array
from gguf_jax.formats.rounding import (
    divided,
    elements_first,
    elements_last,
    half,
    largest,
    loop,
    nearest,
    product,
    quotient,
    square,
    total,
    with_row,
)

F = np.float32
EPSILON = F(1e-15)
"""A group whose largest magnitude is less counts as zero (GROUP_MAX_EPS)."""


def affine_factors(most: int, first: float, step: float, steps: int) -> np.ndarray:
    """What `affine` divides by the span of a group: float32 `[steps + 1]`, rounded as C does."""
    return np.array([F(F(F(first) + F(step) * F(i)) + F(most)) for i in range(steps + 1)], F)


def affine(
    x: Array, weights: Array, most: int, factors: np.ndarray, xp: Any, absolute: bool = False
) -> tuple[Array, Array, Array]:
    """`x ~ scale * codes - minimum`, codes in 0..most, minimum >= 0 (`make_qkx2_quants`, `make_qkx3_quants`).

    Args:
        x, weights: float32 `[n, ...]`.
        factors: the inverse scales to try, times the group's span (`affine_factors`).
        absolute: the error to minimise is weighted absolute, not square.

    Returns:
        codes `[n, ...]` as float32, scale `[...]`, minimum `[...]`. A constant group has the scale and the codes 0.
    """
    zero = F(0)
    low, high = xp.minimum(xp.min(x, axis=0), zero), xp.max(x, axis=0)
    sum_w, sum_x = total(weights), total(product(weights, x, xp))

    def rounded(inverse: Array, offset: Array) -> Array:
        return xp.clip(nearest(product(inverse, x - offset, xp), xp), zero, F(most))

    def error(codes: Array, scale: Array, offset: Array) -> Array:
        difference = product(scale, codes, xp) + offset - x
        return total(product(weights, xp.abs(difference) if absolute else square(difference, xp), xp))

    inverse = quotient(F(most), high - low, xp)
    codes, scale = rounded(inverse, low), quotient(F(1), inverse, xp)
    table = xp.asarray(factors)

    def attempt(i: Any, best: tuple[Array, ...]) -> tuple[Array, ...]:
        # the span of a group is that above the best offset so far
        trial = rounded(quotient(table[i], high - best[3], xp), best[3])
        weighted = product(weights, trial, xp)
        sum_l, sum_l2 = total(weighted), total(product(weighted, trial, xp))
        sum_xl = total(product(weighted, x, xp))
        determinant = product(sum_w, sum_l2, xp) - product(sum_l, sum_l, xp)
        scale = quotient(product(sum_w, sum_xl, xp) - product(sum_x, sum_l, xp), determinant, xp)
        offset = quotient(product(sum_l2, sum_x, xp) - product(sum_l, sum_xl, xp), determinant, xp)
        positive = offset > 0
        scale = xp.where(positive, quotient(sum_xl, sum_l2, xp), scale)
        offset = xp.where(positive, zero, offset)
        found = error(trial, scale, offset)
        better = (determinant > 0) & (found < best[0])
        return tuple(xp.where(better, new, old) for new, old in zip((found, trial, scale, offset), best, strict=True))

    start = (error(codes, scale, low), codes, scale, low)
    _, codes, scale, offset = loop(len(factors), attempt, start, xp)
    constant = high == low
    return xp.where(constant, zero, codes), xp.where(constant, zero, scale), -xp.where(constant, low, offset)


def symmetric(x: Array, weights: Array, most: int, xp: Any) -> tuple[Array, Array]:
    """`x ~ scale * (codes - most)`, codes in 0..2 most - 1 (`make_qx_quants` with rmse_type 1).

    Args:
        x, weights: float32 `[n, ...]`.

    Returns:
        codes `[n, ...]` as float32, scale `[...]` of either sign. A zero group has the scale and the codes 0.
    """
    magnitude, extreme = largest(x, xp)
    factors = np.array([-F(most + F(0.1) * F(i)) for i in range(-9, 10) if i], F)
    table = xp.asarray(factors)

    def rounded(inverse: Array) -> tuple[Array, Array, Array]:
        codes = xp.clip(nearest(product(inverse, x, xp), xp), F(-most), F(most - 1))
        sum_lx = total(product(product(weights, x, xp), codes, xp))
        return codes, sum_lx, total(product(product(weights, codes, xp), codes, xp))

    codes, sum_lx, sum_l2 = rounded(quotient(F(-most), extreme, xp))
    scale = quotient(sum_lx, sum_l2, xp)

    def attempt(i: Any, best: tuple[Array, ...]) -> tuple[Array, ...]:
        trial, sum_lx, sum_l2 = rounded(quotient(table[i], extreme, xp))
        better = (sum_l2 > 0) & (square(sum_lx, xp) > product(best[0], sum_l2, xp))
        scale = quotient(sum_lx, sum_l2, xp)
        new = (product(scale, sum_lx, xp), trial, scale)
        return tuple(xp.where(better, n, old) for n, old in zip(new, best, strict=True))

    _, codes, scale = loop(len(factors), attempt, (product(scale, sum_lx, xp), codes, scale), xp)
    empty = magnitude < EPSILON
    return xp.where(empty, F(0), codes + F(most)), xp.where(empty, F(0), scale)


def _settled(
    x: Array, weights: Array, codes: Array, sum_lx: Array, sum_l2: Array, low: float, high: float, signed: bool, xp: Any
) -> tuple[Array, Array]:
    """Moves one code after the other to where it suits the others best, at most five times over all.

    `signed` is `make_q3_quants`'s variant, else `make_qp_quants`'s: they ask for a positive sum of squares at
    different moments. Returns codes and scale.
    """
    weighted = product(weights, x, xp)

    def move(i: Any, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        codes, sum_lx, sum_l2 = state
        old = codes[i]
        lx = sum_lx - product(weighted[i], old, xp)
        l2 = sum_l2 - product(product(weights[i], old, xp), old, xp)
        allowed = lx > 0 if signed else (lx > 0) & (l2 > 0)
        code = nearest(quotient(product(x[i], l2, xp), lx, xp), xp)
        code = xp.clip(code, F(low), F(high)) if signed else xp.minimum(code, F(high))
        lx = lx + product(weighted[i], code, xp)
        l2 = l2 + product(product(weights[i], code, xp), code, xp)
        better = product(square(lx, xp), sum_l2, xp) > product(square(sum_lx, xp), l2, xp)
        moved = allowed & (code != old) & better
        if signed:
            moved = moved & (l2 > 0)
        codes = with_row(codes, i, xp.where(moved, code if signed else _byte(code, xp), old), xp)
        return codes, xp.where(moved, lx, sum_lx), xp.where(moved, l2, sum_l2)

    def once(_: Any, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        return loop(len(x), move, state, xp)

    codes, sum_lx, sum_l2 = loop(5, once, (codes, sum_lx, sum_l2), xp)
    return codes, xp.where(sum_l2 > 0, quotient(sum_lx, sum_l2, xp), F(0))


def _byte(code: Array, xp: Any) -> Array:
    """A code as the reference keeps it, in a byte without a sign."""
    return xp.where(code < 0, code + F(256), code)


def settled_q3(x: Array, xp: Any) -> tuple[Array, Array]:
    """`x ~ scale * (codes - 4)`, codes in 0..7, weighted by x^2 (`make_q3_quants`). Arrays as `symmetric`."""
    most = 4
    magnitude, extreme = largest(x, xp)
    weights = square(x, xp)
    codes = xp.clip(nearest(product(quotient(F(-most), extreme, xp), x, xp), xp), F(-most), F(most - 1))
    sum_lx = total(product(product(weights, x, xp), codes, xp))
    sum_l2 = total(product(product(weights, codes, xp), codes, xp))
    codes, scale = _settled(x, weights, codes, sum_lx, sum_l2, -most, most - 1, True, xp)
    empty = magnitude < EPSILON
    return xp.where(empty, F(0), codes + F(most)), xp.where(empty, F(0), scale)


def positive(x: Array, weights: Array, most: int, xp: Any) -> tuple[Array, Array]:
    """`x ~ scale * codes`, codes in 0..most (`make_qp_quants`). Arrays as `symmetric`.

    It is meant for x >= 0. A negative element gives a code that wraps around a byte, as it does in the reference.
    """
    top = xp.maximum(xp.max(x, axis=0), F(0))
    inverse = quotient(F(most), top, xp)
    scale = quotient(F(1), inverse, xp)

    def error(scale: Array, codes: Array) -> Array:
        difference = x - product(scale, codes, xp)
        return total(product(product(weights, difference, xp), difference, xp))

    start = error(scale, _byte(nearest(product(inverse, x, xp), xp), xp))
    table = xp.asarray(np.array([F(F(0.1) * F(i)) + F(most) for i in range(-4, 5) if i], F))

    def attempt(i: Any, best: tuple[Array, Array]) -> tuple[Array, Array]:
        trial = quotient(table[i], top, xp)
        codes = xp.minimum(nearest(product(trial, x, xp), xp), F(most))
        found = error(quotient(F(1), trial, xp), codes)
        better = found < best[0]
        return xp.where(better, found, best[0]), xp.where(better, trial, best[1])

    _, inverse = loop(8, attempt, (start, inverse), xp)
    codes = xp.minimum(nearest(product(inverse, x, xp), xp), F(most))
    sum_lx = total(product(product(weights, x, xp), codes, xp))
    sum_l2 = total(product(product(weights, codes, xp), codes, xp))
    codes, scale = _settled(x, weights, _byte(codes, xp), sum_lx, sum_l2, 0, most, False, xp)
    empty = top < EPSILON
    return xp.where(empty, F(0), codes), xp.where(empty, F(0), scale)


def importance_weights(x: Array, importance: Array, mean_square: Array, xp: Any) -> Array:
    """`importance * sqrt(mean_square + x^2)`: an important weight counts more, and a large one too."""
    return product(importance, xp.sqrt(mean_square + square(x, xp)), xp)


def block_mean_square(values: Array, factor: int, xp: Any) -> Array:
    """`factor` times the mean of the squares of each block, `[..., n_blocks, 1]`; blocks are a power of two long."""
    size = values.shape[-1]
    return F(factor) * total(square(elements_first(values, size, xp), xp)) / F(size)


def block_weights(values: Array, importance: Array | None, size: int, factor: int, xp: Any) -> Array:
    """What each weight counts, in groups of `size`, elements first: `importance_weights` against `block_mean_square`,
    without importance its square."""
    x = elements_first(values, size, xp)
    if importance is None:
        return square(x, xp)
    return importance_weights(x, elements_first(importance, size, xp), block_mean_square(values, factor, xp), xp)


def affine_block(
    values: Array,
    importance: Array | None,
    plain: Callable[[Array], tuple[Array, Array, Array]],
    *,
    size: int,
    most: int,
    scale_most: int,
    factor: int,
    xp: Any,
) -> tuple[Array, Array, Array, dict[str, Array]]:
    """What Q2_K, Q4_K and Q5_K share: groups of `size` weights, `w = d * scale * q - dmin * minimum`.

    Args:
        plain: `affine` of the groups, elements first, where there is no importance.
        most, scale_most: the largest code of weights, and of scales and minima.
        factor: see `block_weights`.

    Returns:
        codes uint8 `[..., n_blocks, 256]`; scales and minima uint8 `[..., n_blocks, groups]`; the planes d and dmin.
    """
    x = elements_first(values, size, xp)
    if importance is None:
        codes, scale, minimum = plain(x)
        scale_codes, d = _codes_of_largest(scale, scale_most, xp)
        minimum_codes, dmin = _codes_of_largest(minimum, scale_most, xp)
    else:
        weights = block_weights(values, importance, size, factor, xp)
        codes, scale, minimum = affine(x, weights, most, affine_factors(most, -0.9, 0.05, 36), xp)
        scale_codes, d = _codes_of_best(scale, total(weights), scale_most, xp)
        minimum_codes, dmin = _codes_of_best(minimum, total(weights), scale_most, xp)
    stored_d, d = half(d)
    stored_dmin, dmin = half(dmin)
    scale = product(d[..., None], scale_codes.astype(F), xp)
    minimum = product(dmin[..., None], minimum_codes.astype(F), xp)
    again = xp.clip(nearest(quotient(x + minimum, scale, xp), xp), 0, F(most))
    codes = elements_last(xp.where(scale == 0, codes, again), xp).astype(np.uint8)
    return codes, scale_codes, minimum_codes, {"d": stored_d, "dmin": stored_dmin}


def _codes_of_largest(scale: Array, most: int, xp: Any) -> tuple[Array, Array]:
    """Scales `[..., groups]` as codes in 0..most of the largest, uint8, and the scale of those codes `[...]`."""
    top = xp.maximum(xp.max(scale, axis=-1), 0)
    inverse = quotient(F(most), top, xp)
    codes = nearest(product(inverse[..., None], scale, xp), xp).astype(np.int32).astype(np.uint8)
    return xp.minimum(codes, np.uint8(most)), divided(top, most, xp)


def _codes_of_best(scale: Array, sum_w: Array, most: int, xp: Any) -> tuple[Array, Array]:
    """The same by `positive`, weighted by `sum_w [..., groups]`."""
    codes, d = positive(xp.moveaxis(scale, -1, 0), xp.moveaxis(sum_w, -1, 0), most, xp)
    return xp.moveaxis(codes, 0, -1).astype(np.uint8), d

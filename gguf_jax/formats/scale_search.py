"""The searches for scales that the legacy and K types share: ggml's `make_*_quants`, over all groups at once.

A group of n weights is approximated by integer codes under one scale, `x ~ scale * code` or `x ~ scale * code -
minimum`. Every search tries some scales around the obvious one, rounds the group under each, solves for the scale that
suits those codes best in the weighted least squares sense, and keeps the best (functions and constants:
ggml-quants.c; the arithmetic: `rounding.py`). Arrays are `[n, ...]` for a group's elements, `[...]` for groups.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguf_jax.formats.block_format import Array
from gguf_jax.formats.rounding import largest, loop, nearest, product, quotient, square, total, with_row

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
    divisor = top
    inverse = quotient(F(most), divisor, xp)
    scale = quotient(F(1), inverse, xp)

    def error(scale: Array, codes: Array) -> Array:
        difference = x - product(scale, codes, xp)
        return total(product(product(weights, difference, xp), difference, xp))

    start = error(scale, _byte(nearest(product(inverse, x, xp), xp), xp))
    table = xp.asarray(np.array([F(F(0.1) * F(i)) + F(most) for i in range(-4, 5) if i], F))

    def attempt(i: Any, best: tuple[Array, Array]) -> tuple[Array, Array]:
        trial = quotient(table[i], divisor, xp)
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

"""Arithmetic of the encoders: float32 with every step rounded, in a fixed order, in NumPy and under `jax.jit` alike.

An encoder's bytes hang on the last bit of its sums: a candidate scale wins or loses by it. The C reference computes in
float32, one operation after the other, without fused multiply-adds. XLA takes liberties with that: on the CPU and on
GPUs it contracts `a * b + c`, it turns a division by a constant into a product with the reciprocal and `1 / (a / b)`
into `b / a`, and it sums in any order. The functions here leave it none. A maximum with the lowest float changes no
value, and neither contraction nor simplification sees through it (`optimization_barrier` and `reduce_precision` are
gone before LLVM contracts).

Elements of a group lie along the first axis, so that one step of a sum is one operation on everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from gguf_jax.formats.block_format import Array

LOWEST = np.finfo(np.float32).min

Carry = TypeVar("Carry")


def opaque(value: Array, xp: Any) -> Array:
    """`value`, which XLA now has to compute as it is written."""
    return value if xp is np else xp.maximum(value, LOWEST)


def product(a: Array, b: Array, xp: Any) -> Array:
    """`a * b`, rounded before anything is added to it."""
    return opaque(a * b, xp)


def quotient(a: Array, b: Array, xp: Any) -> Array:
    """`a / b`, rounded; 0 where `b` is 0, for lanes whose result is not used."""
    return opaque(xp.where(b == 0, np.float32(0), a / xp.where(b == 0, np.float32(1), b)), xp)


def divided(a: Array, constant: float, xp: Any) -> Array:
    """`a / constant`, rounded. XLA must not know that the divisor is a constant."""
    if xp is np:
        return a / np.float32(constant)
    return a / xp.where(a < np.inf, np.float32(constant), np.float32(1))


def square(a: Array, xp: Any) -> Array:
    return product(a, a, xp)


def total(terms: Array) -> Array:
    """The sum along the first axis, first to last."""
    result = terms[0]
    for i in range(1, len(terms)):
        result = result + terms[i]
    return result


def nearest(value: Array, xp: Any) -> Array:
    """The nearest whole number, halves to even, still a float (`nearest_int`)."""
    return xp.rint(value)


def away(value: Array, xp: Any) -> Array:
    """The nearest whole number, halves away from zero (`roundf`)."""
    whole = xp.trunc(value)
    return whole + xp.where(xp.abs(value - whole) >= np.float32(0.5), xp.sign(value), np.float32(0))


def loop(n: int, body: Callable[[Any, Carry], Carry], carry: Carry, xp: Any) -> Carry:
    """`carry = body(i, carry)` for i in 0 .. n - 1; under JAX one compiled body."""
    if xp is np:
        for i in range(n):
            carry = body(i, carry)
        return carry
    import jax  # a traced encoder runs where JAX is already imported

    return jax.lax.fori_loop(0, n, body, carry)


def with_row(rows: Array, i: Any, row: Array, xp: Any) -> Array:
    """`rows` with `row` at index i of the first axis."""
    if xp is not np:
        return rows.at[i].set(row)
    rows = rows.copy()
    rows[i] = row
    return rows


def largest(x: Array, xp: Any) -> tuple[Array, Array]:
    """Along the first axis: the largest magnitude, and the element that has it (the first of equals), with its sign."""
    magnitude = xp.abs(x)
    at = xp.argmax(magnitude, axis=0)[None]
    return xp.take_along_axis(magnitude, at, axis=0)[0], xp.take_along_axis(x, at, axis=0)[0]


def elements_first(blocks: Array, size: int, xp: Any) -> Array:
    """`[..., n_blocks, groups * size]` -> `[size, ..., n_blocks, groups]`."""
    *lead, n = blocks.shape
    return xp.moveaxis(blocks.reshape(*lead, n // size, size), -1, 0)


def elements_last(groups: Array, xp: Any) -> Array:
    """The inverse of `elements_first`: `[size, ..., n_blocks, groups]` -> `[..., n_blocks, groups * size]`."""
    moved = xp.moveaxis(groups, 0, -1)
    *lead, k, size = moved.shape
    return moved.reshape(*lead, k * size)


def half(value: Array) -> tuple[Array, Array]:
    """A scale as it is stored, float16 `[...]` -> `[..., 1]`, and what it then is in float32 `[...]`."""
    stored = value.astype(np.float16)
    return stored[..., None], stored.astype(np.float32)

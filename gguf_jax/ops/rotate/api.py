"""`rotate`: pairs of elements of every head turned by their position's angles (RoPE)."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from gguf_jax.ops.implementation import run
from gguf_jax.ops.rotate import native, xla

IMPLEMENTATIONS = {"native": native.rotate, "xla": xla.rotate}


def rotate(
    xs: Sequence[jax.Array],
    cos: jax.Array,
    sin: jax.Array,
    *,
    interleaved: bool,
    implementation: str | None = None,
) -> tuple[jax.Array, ...]:
    """Turn the first `2 * pairs` elements of every head of each `x [B, T, H, D]`; the others pass through.

    The pair (a, b) of index i becomes `(a cos[i] - b sin[i], a sin[i] + b cos[i])`, computed in float32.

    Args:
        xs: queries and keys, say: heads may differ, positions are the same.
        cos, sin: float32 `[B, T, pairs]`.
        interleaved: pair i is the elements (2 i, 2 i + 1); else (i, i + pairs).

    Raises:
        ValueError: the shapes do not fit.
        Unsupported: `implementation` was named and cannot do this case.
    """
    for x in xs:
        if x.ndim != 4 or x.shape[:2] != cos.shape[:2] or cos.shape != sin.shape or 2 * cos.shape[-1] > x.shape[-1]:
            raise ValueError(f"rotate: x {x.shape}, cos {cos.shape} and sin {sin.shape} do not fit")
    return run("rotate", IMPLEMENTATIONS, implementation, tuple(xs), cos, sin, interleaved=interleaved)

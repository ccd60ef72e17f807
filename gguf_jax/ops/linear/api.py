"""`linear`: activations times a packed (or float) weight in GGUF's orientation; `linears` and `gated_linear`: several
such products of one x in one call, which saves a kernel's hand-off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from gguf_jax.ops.implementation import run
from gguf_jax.ops.linear import native, xla
from gguf_jax.quantized_array import Weight

Precision = Literal["exact", "fast"]
"""How far a product may be from its definition.

`exact`: float activations and weights; the result differs by the rounding of float32 sums. What evaluation uses.

`fast`: an implementation may round the activations to int8 in blocks of 32 (as llama.cpp does), each by at most half of
`max|x| / 127` of its block; or activations and weights to bfloat16, each by at most 2^-9 of itself, whichever its
hardware multiplies faster. What generation uses.
"""

IMPLEMENTATIONS = {"native": native.linear, "xla": xla.linear}


def linear(x: jax.Array, w: Weight, *, precision: Precision = "exact", implementation: str | None = None) -> jax.Array:
    """`x [..., K]` times `w [N, K]` -> `[..., N]`, in the dtype of `x`.

    The meaning is the implementation `xla`:

        w = w.dequantize() if packed else w
        y = jnp.einsum("...k,nk->...n", x, w.astype(x.dtype), preferred_element_type=jnp.float32).astype(x.dtype)

    Differentiable with respect to `x` (and to `w` where it is a float array).

    Args:
        precision: see `Precision`.

    Raises:
        ValueError: `x` is not float, `x` and `w` disagree on K, or `w` is no matrix; the message holds both shapes.
        Unsupported: `implementation` was named and cannot do this case.
    """
    return linears(x, (w,), precision=precision, implementation=implementation)[0]


def linears(
    x: jax.Array, ws: Sequence[Weight], *, precision: Precision = "exact", implementation: str | None = None
) -> tuple[jax.Array, ...]:
    """`tuple(linear(x, w) for w in ws)`; raises as `linear`."""
    for w in ws:
        _check(x, w)
    return run("linear", IMPLEMENTATIONS, implementation, x, tuple(ws), gated=False, precision=_known(precision))


def gated_linear(
    x: jax.Array, gate: Weight, up: Weight, *, precision: Precision = "exact", implementation: str | None = None
) -> jax.Array:
    """`silu(linear(x, gate)) * linear(x, up)`, both weights `[N, K]`; raises as `linear`."""
    for w in (gate, up):
        _check(x, w)
    if tuple(gate.shape) != tuple(up.shape):
        raise ValueError(f"gated_linear: gate {tuple(gate.shape)} and up {tuple(up.shape)} differ")
    (y,) = run("linear", IMPLEMENTATIONS, implementation, x, (gate, up), gated=True, precision=_known(precision))
    return y


def _check(x: jax.Array, w: Weight) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"linear: expected x of a float type, found {x.dtype}")
    if len(w.shape) != 2 or x.ndim == 0 or x.shape[-1] != w.shape[1]:
        raise ValueError(f"linear: x {x.shape} and w {tuple(w.shape)} do not fit: expected [..., K] and [N, K]")


def _known(precision: Precision) -> Precision:
    if precision not in ("exact", "fast"):
        raise ValueError(f"linear: expected the precision exact or fast, found {precision!r}")
    return precision

"""`grouped_linear`: every position times the matrices of the experts that it goes to, out of a packed (or float) stack
of them; `grouped_linears` and `gated_grouped_linear`: several such products of one x in one call."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gguf_jax.ops.grouped_linear import native, xla
from gguf_jax.ops.implementation import run
from gguf_jax.ops.precision import Precision, known
from gguf_jax.quantized_array import Weight

IMPLEMENTATIONS = {"native": native.grouped_linear, "xla": xla.grouped_linear}


def grouped_linear(
    x: jax.Array,
    w: Weight,
    experts: jax.Array,
    *,
    precision: Precision = "exact",
    implementation: str | None = None,
) -> jax.Array:
    """`y[..., i, :] = w[experts[..., i]] @ x` -> `[..., used, N]`, in the dtype of `x`.

    Only matrices that `experts` names are read and decoded, and the work is that of the products named: what a
    mixture of experts saves is saved here.

    Differentiable with respect to `x` (and to `w` where it is a float array).

    Args:
        x: `[..., T, K]`, which meets all of its experts, or `[..., T, used, K]`, a row for each of them. T are
            positions of one sequence; what stands before that are sequences, and each gets the same result as alone (of
            a native implementation, bit for bit).
        w: `[n_expert, N, K]`.
        experts: int `[..., T, used]`; a negative one stands for nobody, whose result is zero and costs nothing, and one
            beyond the last is the last.
        precision: see `Precision`.

    Raises:
        ValueError: `x` is not float, or the shapes do not fit; the message holds them.
        Unsupported: `implementation` was named and cannot do this case.
    """
    return grouped_linears(x, (w,), experts, precision=precision, implementation=implementation)[0]


def grouped_linears(
    x: jax.Array,
    ws: Sequence[Weight],
    experts: jax.Array,
    *,
    precision: Precision = "exact",
    implementation: str | None = None,
) -> tuple[jax.Array, ...]:
    """`tuple(grouped_linear(x, w, experts) for w in ws)`; raises as `grouped_linear`."""
    for w in ws:
        _check(x, w, experts)
    options = dict(gated=False, precision=known("grouped_linear", precision))
    return run("grouped_linear", IMPLEMENTATIONS, implementation, x, tuple(ws), experts, **options)


def gated_grouped_linear(
    x: jax.Array,
    gate: Weight,
    up: Weight,
    experts: jax.Array,
    *,
    precision: Precision = "exact",
    implementation: str | None = None,
) -> jax.Array:
    """`silu(grouped_linear(x, gate, experts)) * grouped_linear(x, up, experts)`, both weights of one shape; raises as
    `grouped_linear`."""
    for w in (gate, up):
        _check(x, w, experts)
    if tuple(gate.shape) != tuple(up.shape):
        raise ValueError(f"gated_grouped_linear: gate {tuple(gate.shape)} and up {tuple(up.shape)} differ")
    options = dict(gated=True, precision=known("grouped_linear", precision))
    (y,) = run("grouped_linear", IMPLEMENTATIONS, implementation, x, (gate, up), experts, **options)
    return y


def _check(x: jax.Array, w: Weight, experts: jax.Array) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating) or not jnp.issubdtype(experts.dtype, jnp.integer):
        raise ValueError(f"grouped_linear: expected float x and integer experts, found {x.dtype} and {experts.dtype}")
    lead = x.shape[:-1] in (experts.shape[:-1], experts.shape)
    matrices = len(w.shape) == 3 and w.shape[0] > 0 and x.shape[-1:] == tuple(w.shape[2:])
    if not (experts.ndim and lead and matrices):
        raise ValueError(
            f"grouped_linear: x {x.shape}, w {tuple(w.shape)} and experts {experts.shape} do not fit: expected "
            "x [..., K] or [..., used, K], w [n_expert, N, K] and experts [..., used]"
        )

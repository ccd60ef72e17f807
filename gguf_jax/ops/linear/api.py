"""`linear`: activations times a packed (or float) weight in GGUF's orientation; `linears` and `gated_linear`: several
such products of one x in one call, which saves a kernel's hand-off."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gguf_jax.ops.implementation import run
from gguf_jax.ops.linear import native, xla
from gguf_jax.ops.precision import Precision, known
from gguf_jax.quantized_array import Weight

IMPLEMENTATIONS = {"native": native.linear, "xla": xla.linear}


def linear(x: jax.Array, w: Weight, *, precision: Precision = "exact", implementation: str | None = None) -> jax.Array:
    """`x [..., K]` times `w [N, K]` -> `[..., N]`, in the dtype of `x`.

    The meaning is the implementation `xla`:

        w = w.dequantize() if packed else w
        y = jnp.einsum("...k,nk->...n", x, w.astype(x.dtype), preferred_element_type=jnp.float32).astype(x.dtype)

    Differentiable with respect to `x` (and to `w` where it is a float array).

    Args:
        x: the axis before the last is positions of one sequence; what stands before that are sequences, and each gets
            the same result as alone (of a native implementation, bit for bit).
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
    return run(
        "linear", IMPLEMENTATIONS, implementation, x, tuple(ws), gated=False, precision=known("linear", precision)
    )


def gated_linear(
    x: jax.Array, gate: Weight, up: Weight, *, precision: Precision = "exact", implementation: str | None = None
) -> jax.Array:
    """`silu(linear(x, gate)) * linear(x, up)`, both weights `[N, K]`; raises as `linear`."""
    for w in (gate, up):
        _check(x, w)
    if tuple(gate.shape) != tuple(up.shape):
        raise ValueError(f"gated_linear: gate {tuple(gate.shape)} and up {tuple(up.shape)} differ")
    (y,) = run(
        "linear", IMPLEMENTATIONS, implementation, x, (gate, up), gated=True, precision=known("linear", precision)
    )
    return y


def _check(x: jax.Array, w: Weight) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"linear: expected x of a float type, found {x.dtype}")
    if len(w.shape) != 2 or x.ndim == 0 or x.shape[-1] != w.shape[1]:
        raise ValueError(f"linear: x {x.shape} and w {tuple(w.shape)} do not fit: expected [..., K] and [N, K]")

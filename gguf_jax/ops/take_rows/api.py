"""`take_rows`: rows of a packed (or float) table, decoded."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gguf_jax.ops.implementation import run
from gguf_jax.ops.take_rows import native, xla
from gguf_jax.quantized_array import Weight

IMPLEMENTATIONS = {"native": native.take_rows, "xla": xla.take_rows}


def take_rows(
    w: Weight,
    ids: jax.typing.ArrayLike,
    *,
    dtype: jax.typing.DTypeLike = jnp.float32,
    implementation: str | None = None,
) -> jax.Array:
    """Rows `ids [...]` (integers) of `w [N, K]` -> `[..., K]` in `dtype`. Only these rows are decoded.

    The meaning is `decode(w)[ids]`; ids outside `[0, N)` are clamped, as JAX's gather does under jit.

    Raises:
        ValueError: `w` is no matrix or `ids` are no integers.
        Unsupported: `implementation` was named and cannot do this case.
    """
    ids = jnp.asarray(ids)
    if len(w.shape) != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"take_rows: expected w [N, K] and integer ids, found w {tuple(w.shape)} and {ids.dtype} ids")
    return run("take_rows", IMPLEMENTATIONS, implementation, w, ids, dtype)

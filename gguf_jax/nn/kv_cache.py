"""`KVCache`: keys and values of every layer, at the index of their position."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """`k[layer] [B, G, S, D]` and `v[layer] [B, G, S, Dv]`, in the cache's dtype.

    Position p of batch slot b stands at index p of slot b. Nothing records which indices are filled: a query at
    position p sees indices 0..p only, and those have been written.
    """

    k: tuple[jax.Array, ...]
    v: tuple[jax.Array, ...]

    @property
    def nbytes(self) -> int:
        return sum(x.size * x.dtype.itemsize for x in (*self.k, *self.v))


def write(buffer: jax.Array, rows: jax.Array, positions: jax.Array) -> jax.Array:
    """`buffer [B, G, S, D]` with `rows [B, T, G, D]` at int32 `positions [B, T]`, cast to the buffer's dtype.
    Positions outside `[0, S)` (padding) are dropped."""
    batch, _, slots, _ = buffer.shape
    # -1 would wrap to the last index before "drop" looks at it, so padding goes past the end instead
    index = jnp.where(positions < 0, slots, positions)
    lead = jnp.arange(batch)[:, None]
    return buffer.at[lead, :, index].set(rows.astype(buffer.dtype), mode="drop")


def read_prefix(buffer: jax.Array, length: int) -> jax.Array:
    """The first `length` (static) positions, `[B, G, length, D]`."""
    return jax.lax.slice_in_dim(buffer, 0, length, axis=2)

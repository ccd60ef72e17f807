"""State-space layers: a short causal convolution and a selective scan, with what they keep of a sequence.

Of a sequence a layer keeps the last inputs of its convolution and one state, whatever the length. Positions say what
is new, as for attention: a token at position 0 begins a sequence, so that nothing before it is remembered, and one at
-1 is padding, which leaves everything as it is. Tokens of a call follow each other, padding stands behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

SPAN = 2**31 - 1
"""The one `span` of a program: work does not grow with what came before."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StateCache:
    """What every layer keeps, float32: `conv[layer] [B, K - 1, C]`, the last inputs of a convolution of K, and
    `ssm[layer] [B, H, P, N]`. `length [B]` is how many tokens of a slot are in them."""

    conv: tuple[jax.Array, ...]
    ssm: tuple[jax.Array, ...]
    length: jax.Array

    @property
    def nbytes(self) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self))

    rewinds = False
    """A state cannot be taken back."""

    def spans(self) -> tuple[int, ...]:
        """Values of `span` to compile for."""
        return (SPAN,)

    def rows(self, slots: jax.Array, reach: int) -> StateCache:
        """A cache of these slots alone, int32 `[N]`."""
        return jax.tree.map(lambda leaf: leaf[slots], self)

    def with_rows(self, slots: jax.Array, part: StateCache) -> StateCache:
        """This cache with what `rows` took, and was changed since, in its place. Of a slot that is named twice the last
        one stays."""

        def put(leaf: jax.Array, new: jax.Array) -> jax.Array:
            for i in range(slots.shape[0]):
                leaf = jax.lax.dynamic_update_slice_in_dim(leaf, new[i : i + 1], slots[i], 0)
            return leaf

        return jax.tree.map(put, self, part)

    def kept(self, same: Sequence[int]) -> list[int]:
        """Of every slot, how many tokens need not be run again for a sequence that has `same` tokens in common with
        what the slot has seen: all, or none, since a state cannot be taken back."""
        seen = np.asarray(self.length).tolist()
        return [number if number == length else 0 for number, length in zip(same, seen, strict=True)]


def causal_conv(
    x: jax.Array, weight: jax.Array, bias: jax.Array, positions: jax.Array, past: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`y[t] = bias + sum_j weight[:, j] x[t - K + 1 + j]`, each channel by itself.

    Args:
        x: `[B, T, C]`.
        weight: `[C, K]`; bias: `[C]`.
        positions: int32 `[B, T]`.
        past: `[B, K - 1, C]`, the inputs before.

    Returns:
        `[B, T, C]` float32, and the last inputs.
    """
    taps, length = weight.shape[1], x.shape[1]
    past = jnp.where((positions[:, 0] == 0)[:, None, None], 0, past)
    row = jnp.concatenate([past, x.astype(jnp.float32)], axis=1)  # [B, K - 1 + T, C]
    y = bias.astype(jnp.float32)
    for j in range(taps):
        y = y + row[:, j : j + length] * weight[:, j].astype(jnp.float32)
    index = (positions >= 0).sum(1, dtype=jnp.int32)[:, None] + jnp.arange(taps - 1, dtype=jnp.int32)
    return y, jnp.take_along_axis(row, index[..., None], axis=1)


def selective_scan(
    x: jax.Array, dt: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array, positions: jax.Array, past: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`s[t] = exp(d[t] a) s[t - 1] + d[t] x[t] b[t]^T; y[t] = s[t] c[t]` with `d = softplus(dt)`, for every head.

    (Gu and Dao 2023, arXiv:2312.00752: heads of one element with an `a` for each element of the state; Dao and Gu 2024,
    arXiv:2405.21060: larger heads with one.)

    Args:
        x: `[B, T, H, P]`; dt: `[B, T, H]`; a: `[H, N]` or `[H, 1]`, negative.
        b, c: `[B, T, G, N]`, head h reads group `h // (H // G)`.
        positions: int32 `[B, T]`.
        past: `[B, H, P, N]`, the state before.

    Returns:
        `[B, T, H, P]` and the state after, float32.
    """
    heads = x.shape[2]
    step = jnp.where((positions >= 0)[..., None], jax.nn.softplus(dt.astype(jnp.float32)), 0)  # padding: no step
    past = jnp.where((positions[:, 0] == 0)[:, None, None, None], 0, past)
    a, repeat = a.astype(jnp.float32), heads // b.shape[2]

    def one(state: jax.Array, now: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        xt, dt, bt, ct = now  # [B, H, P], [B, H], [B, G, N] twice
        bt, ct = jnp.repeat(bt, repeat, axis=1), jnp.repeat(ct, repeat, axis=1)
        state = state * jnp.exp(dt[..., None] * a)[:, :, None] + (dt[..., None] * xt)[..., None] * bt[:, :, None]
        return state, (state * ct[:, :, None]).sum(-1)

    rows = tuple(jnp.moveaxis(each.astype(jnp.float32), 1, 0) for each in (x, step, b, c))
    state, y = jax.lax.scan(one, past, rows)
    return jnp.moveaxis(y, 0, 1), state

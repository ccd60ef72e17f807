"""The definition of `rotate`."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def rotate(xs: tuple[jax.Array, ...], cos: jax.Array, sin: jax.Array, *, interleaved: bool) -> tuple[jax.Array, ...]:
    """See `ops.rotate`; accepts every case."""
    return tuple(_rotate(x, cos[:, :, None], sin[:, :, None], interleaved) for x in xs)  # [B, T, 1, pairs]


def _rotate(x: jax.Array, cos: jax.Array, sin: jax.Array, interleaved: bool) -> jax.Array:
    pairs = cos.shape[-1]
    turned, rest = x[..., : 2 * pairs].astype(jnp.float32), x[..., 2 * pairs :]
    if interleaved:
        both = turned.reshape(*turned.shape[:-1], pairs, 2)
        a, b = both[..., 0], both[..., 1]
        turned = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(turned.shape)
    else:
        a, b = jnp.split(turned, 2, axis=-1)
        turned = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
    return jnp.concatenate([turned.astype(x.dtype), rest], axis=-1)

"""The definition of `take_rows`: gather each plane's rows, then decode what was gathered."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from gguf_jax.quantized_array import QuantizedArray, Weight


def take_rows(w: Weight, ids: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """See `ops.take_rows`; accepts every case."""
    rows = jax.tree.map(lambda plane: _gather(plane, ids), w)
    return rows.dequantize(dtype) if isinstance(rows, QuantizedArray) else rows.astype(dtype)


def _gather(plane: jax.Array, ids: jax.Array) -> jax.Array:
    """`plane[ids]`, clipped. On a mesh with explicit axes JAX must be told that rows end up where their ids are."""
    sharding = jax.typeof(plane).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return jnp.take(plane, ids, axis=0, mode="clip")
    spec = (*jax.typeof(ids).sharding.spec, *sharding.spec[1:])
    return plane.at[ids].get(mode="clip", out_sharding=sharding.update(spec=spec))

"""`PackedParam`: the flax variable that holds a packed weight."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from gguf_jax.quantized_array import QuantizedArray, Weight

nnx.register_data_type(QuantizedArray)


class PackedParam(nnx.Variable):
    """Holds a `QuantizedArray`. Not an `nnx.Param`: a packed weight has no gradient, so `nnx.grad`, optimizers and
    `nnx.state(model, nnx.Param)` see the float leaves alone."""


def variable(value: Weight) -> nnx.Variable:
    """The variable that fits the value: `PackedParam` for a `QuantizedArray`, `nnx.Param` for a float array."""
    return PackedParam(value) if isinstance(value, QuantizedArray) else nnx.Param(value)


def normal(rngs: nnx.Rngs | None, shape: tuple[int, ...], stddev: float = 0.02) -> nnx.Param:
    """A float32 Param: zeros for a file to fill; with `rngs`, drawn from N(0, stddev^2) for training to start from."""
    if rngs is None:  # drawing under `nnx.eval_shape` takes time that grows with the square of the number of layers
        return nnx.Param(jnp.zeros(shape))
    return nnx.Param(nnx.initializers.normal(stddev)(rngs.params(), shape, jnp.float32))

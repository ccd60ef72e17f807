"""The forms of a feed-forward part. Each says which layers a block has for it and what it computes with them.

The layers are attributes of the block itself, so that their parameters are called as in GGUF (`blk.0.ffn_up.weight`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from gguf_jax.nn.linear import Linear, gated
from gguf_jax.ops import Precision

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]

ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}
"""`gelu` is `x Phi(x)`; `gelu_tanh` its approximation by a hyperbolic tangent."""


@dataclass(frozen=True)
class Gated:
    """`down(activation(gate(x)) * up(x))`."""

    activation: Activation = "silu"

    def layers(self, width: int, length: int, bias: bool, rngs: nnx.Rngs | None) -> dict[str, Linear]:
        """Name -> layer, of a block whose rows have `width` elements."""
        gate, up = (Linear(width, length, bias=bias, rngs=rngs) for _ in range(2))
        return {"ffn_gate": gate, "ffn_up": up, "ffn_down": Linear(length, width, bias=bias, rngs=rngs)}

    def __call__(self, block: Any, x: jax.Array, precision: Precision, positions: jax.Array | None = None) -> jax.Array:
        """`x [B, T, E]` -> `[B, T, E]`. `positions [B, T]`: what is padding, at negative ones, may be left out."""
        del positions  # one weight for all is read in any case
        return block.ffn_down(
            gated(x, block.ffn_gate, block.ffn_up, precision, ACTIVATIONS[self.activation]), precision
        )


@dataclass(frozen=True)
class FusedGated:
    """`Gated`, the rows of gate and up in one weight, gate first."""

    activation: Activation = "silu"

    def layers(self, width: int, length: int, bias: bool, rngs: nnx.Rngs | None) -> dict[str, Linear]:
        up = Linear(width, 2 * length, bias=bias, rngs=rngs)
        return {"ffn_up": up, "ffn_down": Linear(length, width, bias=bias, rngs=rngs)}

    def __call__(self, block: Any, x: jax.Array, precision: Precision, positions: jax.Array | None = None) -> jax.Array:
        del positions
        gate, up = jnp.split(block.ffn_up(x, precision), 2, axis=-1)
        return block.ffn_down(ACTIVATIONS[self.activation](gate) * up, precision)


@dataclass(frozen=True)
class Plain:
    """`down(activation(up(x)))`."""

    activation: Activation = "gelu"

    def layers(self, width: int, length: int, bias: bool, rngs: nnx.Rngs | None) -> dict[str, Linear]:
        up = Linear(width, length, bias=bias, rngs=rngs)
        return {"ffn_up": up, "ffn_down": Linear(length, width, bias=bias, rngs=rngs)}

    def __call__(self, block: Any, x: jax.Array, precision: Precision, positions: jax.Array | None = None) -> jax.Array:
        del positions
        return block.ffn_down(ACTIVATIONS[self.activation](block.ffn_up(x, precision)), precision)


FeedForward = Gated | FusedGated | Plain

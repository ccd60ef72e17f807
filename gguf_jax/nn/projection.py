"""How a block makes queries, keys and values. As for `feed_forward`, the layers are attributes of the block itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gguf_jax.nn.linear import Linear, together
from gguf_jax.ops import Precision


class Plain:
    """Heads are merged as they are."""

    def merged_length(self, heads: int, value_length: int) -> int:
        """Of what the output projection multiplies."""
        return heads * value_length

    def merged(self, block: Any, out: jax.Array, precision: Precision) -> jax.Array:
        """What attention gives, `[B, T, H, value_length]` -> `[B, T, merged_length]`."""
        del block, precision
        return out.reshape(*out.shape[:-2], -1)


@dataclass(frozen=True)
class Separate(Plain):
    """A weight for each of the three."""

    def layers(self, width: int, lengths: tuple[int, int, int], bias: bool, rngs: nnx.Rngs | None) -> dict[str, Linear]:
        """Name -> layer, of a block whose rows have `width` elements; `lengths` of a row of queries, keys, values."""
        names = ("attn_q", "attn_k", "attn_v")
        return {name: Linear(width, n, bias=bias, rngs=rngs) for name, n in zip(names, lengths, strict=True)}

    def __call__(
        self, block: Any, x: jax.Array, lengths: tuple[int, int, int], precision: Precision
    ) -> tuple[jax.Array, ...]:
        """`x [B, T, E]` -> queries, keys and values, `[B, T, length]` each."""
        return together(x, (block.attn_q, block.attn_k, block.attn_v), precision)


@dataclass(frozen=True)
class Fused(Plain):
    """One weight, its rows those of queries, keys and values."""

    def layers(self, width: int, lengths: tuple[int, int, int], bias: bool, rngs: nnx.Rngs | None) -> dict[str, Linear]:
        return {"attn_qkv": Linear(width, sum(lengths), bias=bias, rngs=rngs)}

    def __call__(
        self, block: Any, x: jax.Array, lengths: tuple[int, int, int], precision: Precision
    ) -> tuple[jax.Array, ...]:
        q, k, _ = lengths
        return tuple(jnp.split(block.attn_qkv(x, precision), (q, q + k), axis=-1))


Projection = Separate | Fused

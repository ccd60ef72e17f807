"""A model run in stages, each a program of its own: what the blocks begin with, one block, what logits are made of.

A block's program is compiled for the block's structure. Blocks of one structure share it, and a block with one weight
of another type adds one, so that there are as many programs as there are kinds of weights, however many layers. It
costs a dispatch for each block, tenths of a millisecond beside the milliseconds that a batch of windows takes in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from gguf_jax.generation.steps import Leaves, Spec
from gguf_jax.models import Decoder
from gguf_jax.models.decoder import Rotation
from gguf_jax.nn import variable
from gguf_jax.ops import Precision
from gguf_jax.quantized_array import Weight

Module = TypeVar("Module", bound=nnx.Module)


def replaced(module: Module, weights: Mapping[str, Weight]) -> Module:
    """The same module with other weights, given by their path in it (`attn_q.weight`). All others are shared with it,
    and it stays as it is."""
    copy = nnx.merge(*nnx.split(module))
    for path, weight in weights.items():
        *steps, leaf = path.split(".")
        owner: Any = copy
        for step in steps:
            owner = getattr(owner, step)
        setattr(owner, leaf, variable(weight))
    return copy


def split(module: nnx.Module, weights: Mapping[str, Weight]) -> tuple[nnx.GraphDef, nnx.State]:
    """A module with other weights, as `block` takes it."""
    return nnx.split(replaced(module, weights) if weights else module)


def without_blocks(model: Decoder) -> Decoder:
    """What stands before and after a model's blocks; its weights are shared with the model."""
    ends = replaced(model.structure(), {})
    ends.blk = nnx.List([])
    return ends


@partial(jax.jit, static_argnames=("spec",))
def start(leaves: Leaves, inputs: jax.Array, *, spec: Spec) -> tuple[jax.Array, list[Rotation | None]]:
    """int32 `inputs [B, T]` -> what the first block is given, `[B, T, E]`, and what turns queries and keys in each."""
    return spec.model(leaves).start(inputs, _positions(inputs), spec.dtype)


@partial(jax.jit, static_argnames=("graphdef", "precision"))
def block(
    state: nnx.State, x: jax.Array, turn: Rotation | None, *, graphdef: nnx.GraphDef, precision: Precision
) -> jax.Array:
    """One block, as `nnx.split` gives it: `x [B, T, E]` -> `[B, T, E]`."""
    y, _ = nnx.merge(graphdef, state)(x, _positions(x), turn, None, None, precision)
    return y


@partial(jax.jit, static_argnames=("spec", "first"))
def end(leaves: Leaves, x: jax.Array, *, spec: Spec, first: int) -> jax.Array:
    """`x [B, T, E]` after the last block -> what the logits of positions `first` to T - 1 are made of, `[N, E]` for
    those of all windows."""
    return spec.model(leaves).output_norm(x[:, first:]).reshape(-1, x.shape[-1])


def _positions(x: jax.Array) -> jax.Array:
    """Of whole windows `[B, T, ...]`: int32 `[B, T]`."""
    return jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2])

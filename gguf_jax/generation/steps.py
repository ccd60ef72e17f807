"""The compiled programs of generation: prefill a chunk, pick the first token, decode one token for every slot.

Pure functions of the model's leaves, the cache (donated: updated in place) and the sampler. A program is compiled for
each combination of model structure, batch, chunk length, `span` and sampler plan; chunk lengths and spans are
bucketed so that there are few. The model goes in as a flat tuple of leaves, since flattening a flax state in Python
for every token costs more than a small model's step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gguf_jax.generation.sampling import Sampler, SamplerPlan, log_probs, sample
from gguf_jax.models import Decoder
from gguf_jax.nn import Cache
from gguf_jax.ops import Precision

Leaves = tuple[jax.Array, ...]

LogProbs = tuple[jax.Array, jax.Array, jax.Array]
"""What `sampling.log_probs` gives: of the chosen tokens `[B]`, of the best `[B, k]`, and those `[B, k]`."""


@dataclass(frozen=True, eq=False)
class Spec:
    """The static part of a model: its graph and tree structure, and what activations are computed in.

    Equal for two models of the same structure, so that they share compiled programs. The hash is computed once: a
    graph of hundreds of nodes would otherwise be hashed for every token.
    """

    graphdef: nnx.GraphDef
    treedef: Any
    dtype: Any
    precision: Precision
    _hash: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash(self._facts))

    @property
    def _facts(self) -> tuple[Any, ...]:
        return self.graphdef, self.treedef, self.dtype, self.precision

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Spec) or self._hash != other._hash:
            return False
        return self._facts == other._facts

    def model(self, leaves: Leaves) -> Decoder:
        return nnx.merge(self.graphdef, jax.tree.unflatten(self.treedef, leaves))


def split(
    model: Decoder, dtype: jax.typing.DTypeLike = jnp.float32, precision: Precision = "exact"
) -> tuple[Spec, Leaves]:
    """A model as a static spec and its leaves."""
    graphdef, state = nnx.split(model.structure())
    leaves, treedef = jax.tree.flatten(state)
    return Spec(graphdef, treedef, jnp.dtype(dtype), precision), tuple(leaves)


@partial(jax.jit, static_argnames=("spec", "span"), donate_argnames=("logits", "cache"))
def prefill(
    leaves: Leaves,
    tokens: jax.Array,
    positions: jax.Array,
    last: jax.Array,
    logits: jax.Array,
    cache: Cache,
    *,
    spec: Spec,
    span: int,
) -> tuple[jax.Array, Cache]:
    """Run int32 `tokens [B, T]` at `positions [B, T]` (-1: padding) into the cache.

    `last [B]` is the index in this chunk of a slot's last prompt token, whose logits replace the slot's row of
    `logits [B, V]`; -1 keeps the row. `span` exceeds every position (see `Decoder.hidden`).
    """
    model: Any = spec.model(leaves)
    hidden, cache = model.hidden(tokens, positions, cache, span=span, dtype=spec.dtype, precision=spec.precision)
    ends = jnp.take_along_axis(hidden, jnp.maximum(last, 0)[:, None, None], axis=1)  # [B, 1, E]
    return jnp.where((last >= 0)[:, None], model.logits(ends, spec.precision)[:, 0], logits), cache


@partial(jax.jit, static_argnames=("spec", "span"), donate_argnames=("cache",))
def prefill_slot(
    leaves: Leaves,
    tokens: jax.Array,
    positions: jax.Array,
    last: jax.Array,
    cache: Any,
    slot: jax.Array,
    *,
    spec: Spec,
    span: int,
) -> tuple[jax.Array, Any]:
    """Run int32 `tokens [1, T]` at `positions [1, T]` (-1: padding) into row `slot` of the cache; the others stay as
    they are. The logits `[1, V]` of the chunk's token `last`."""
    model = spec.model(leaves)
    row = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, slot, 1), cache)
    hidden, row = model.hidden(tokens, positions, row, span=span, dtype=spec.dtype, precision=spec.precision)
    cache = jax.tree.map(lambda leaf, new: jax.lax.dynamic_update_slice_in_dim(leaf, new, slot, 0), cache, row)
    end = jax.lax.dynamic_slice_in_dim(hidden, last, 1, axis=1)  # [1, 1, E]
    return model.logits(end, spec.precision)[:, 0], cache


@partial(jax.jit, donate_argnames=("sampler",))
def insert(
    sampler: Sampler, tokens: jax.Array, row: Sampler, token: jax.Array, slot: jax.Array
) -> tuple[Sampler, jax.Array]:
    """A sampler of one slot and its token `[1]` in the place of slot `slot` of a batch's."""
    put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=slot, axis=0)
    return jax.tree.map(lambda leaf, new: put(leaf, new), sampler, row), put(tokens, token)


@partial(jax.jit, static_argnames=("plan",), donate_argnames=("sampler",))
def first(logits: jax.Array, sampler: Sampler, *, plan: SamplerPlan) -> tuple[jax.Array, Sampler]:
    """The token after the prompt: int32 `[B]`, from the `logits [B, V]` that prefill left."""
    with jax.named_scope("sample"):
        return sample(logits, sampler, plan)


@partial(jax.jit, static_argnames=("plan", "top"), donate_argnames=("sampler",))
def first_scored(
    logits: jax.Array, sampler: Sampler, *, plan: SamplerPlan, top: int
) -> tuple[jax.Array, Sampler, LogProbs]:
    """`first`, with the log-probabilities of what it chose and of the `top` best."""
    with jax.named_scope("sample"):
        tokens, sampler = sample(logits, sampler, plan)
        return tokens, sampler, log_probs(logits, tokens, top)


@partial(jax.jit, static_argnames=("spec", "plan", "span"), donate_argnames=("cache", "sampler"))
def decode(
    leaves: Leaves,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Cache,
    sampler: Sampler,
    *,
    spec: Spec,
    plan: SamplerPlan,
    span: int,
) -> tuple[jax.Array, jax.Array, Cache, Sampler]:
    """One token for every slot: int32 `tokens [B]` standing at `positions [B]` -> the next tokens and positions.

    A slot that has nothing more to say may run on: past the cache's end its keys are dropped.
    """
    logits, cache = _following(leaves, tokens, positions, cache, spec, span)
    with jax.named_scope("sample"):
        tokens, sampler = sample(logits, sampler, plan)
    return tokens, positions + 1, cache, sampler


@partial(jax.jit, static_argnames=("spec", "plan", "span", "top"), donate_argnames=("cache", "sampler"))
def decode_scored(
    leaves: Leaves,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Cache,
    sampler: Sampler,
    *,
    spec: Spec,
    plan: SamplerPlan,
    span: int,
    top: int,
) -> tuple[jax.Array, jax.Array, Cache, Sampler, LogProbs]:
    """`decode`, with the log-probabilities of what it chose and of the `top` best."""
    logits, cache = _following(leaves, tokens, positions, cache, spec, span)
    with jax.named_scope("sample"):
        tokens, sampler = sample(logits, sampler, plan)
        return tokens, positions + 1, cache, sampler, log_probs(logits, tokens, top)


def _following(
    leaves: Leaves, tokens: jax.Array, positions: jax.Array, cache: Any, spec: Spec, span: int
) -> tuple[jax.Array, Any]:
    """The logits `[B, V]` behind `tokens [B]`, and the cache with these in it."""
    model: Any = spec.model(leaves)
    inputs = tokens[:, None], positions[:, None], cache
    hidden, cache = model.hidden(*inputs, span=span, dtype=spec.dtype, precision=spec.precision)
    return model.logits(hidden, spec.precision)[:, 0], cache

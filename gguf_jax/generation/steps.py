"""The compiled programs of generation: prefill a chunk, choose tokens, decode one or verify several for every slot.

Pure functions of the model's leaves, the cache (donated: updated in place) and the sampler. A program is compiled for
each combination of model structure, batch, chunk length, `span` and sampler plan; chunk lengths and spans are
bucketed so that there are few. The model goes in as a flat tuple of leaves, since flattening a flax state in Python
for every token costs more than a small model's step.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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


@partial(jax.jit, static_argnames=("spec", "reach", "span"), donate_argnames=("cache",))
def prefill_slots(
    leaves: Leaves,
    tokens: jax.Array,
    positions: jax.Array,
    last: jax.Array,
    cache: Any,
    slots: jax.Array,
    *,
    spec: Spec,
    reach: int,
    span: int,
) -> tuple[jax.Array, Any]:
    """Run int32 `tokens [N, T]` at `positions [N, T]` (-1: padding) into rows `slots [N]` of the cache; the others stay
    as they are. The logits `[N, V]` of the tokens at index `last [N]` of the chunks. `reach` exceeds every position: so
    much of the rows is looked at. Of a slot that is named twice the last one counts."""
    part = cache.rows(slots, reach)
    logits, part = _logits(leaves, tokens, positions, part, spec, min(span, reach), last[:, None])
    return logits[:, 0], cache.with_rows(slots, part)


@jax.jit
def row_of(logits: jax.Array, index: jax.Array) -> jax.Array:
    """Row `index` of `logits [N, V]`, as `[1, V]`."""
    return jax.lax.dynamic_slice_in_dim(logits, index, 1)


@partial(jax.jit, donate_argnames=("sampler",))
def insert(
    sampler: Sampler, tokens: jax.Array, row: Sampler, token: jax.Array, slot: jax.Array
) -> tuple[Sampler, jax.Array]:
    """A sampler of one slot and its token `[1]` in the place of slot `slot` of a batch's."""
    put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=slot, axis=0)
    return jax.tree.map(lambda leaf, new: put(leaf, new), sampler, row), put(tokens, token)


@partial(jax.jit, static_argnames=("plan", "top"), donate_argnames=("sampler",))
def choose(
    logits: jax.Array, sampler: Sampler, allowed: jax.Array | None = None, *, plan: SamplerPlan, top: int | None = None
) -> tuple[jax.Array, Sampler, LogProbs | None]:
    """The token behind every slot: int32 `[B]`, from its `logits [B, V]`, and if `top` is given how probable it and
    the `top` best were. `allowed`: see `sampling.sample`."""
    with jax.named_scope("sample"):
        tokens, sampler = sample(logits, sampler, plan, allowed)
        return tokens, sampler, None if top is None else log_probs(logits, tokens, top)


@partial(jax.jit, static_argnames=("spec", "span"), donate_argnames=("cache",))
def following(
    leaves: Leaves, tokens: jax.Array, positions: jax.Array, cache: Cache, *, spec: Spec, span: int
) -> tuple[jax.Array, Cache]:
    """The logits `[B, V]` behind int32 `tokens [B]` at `positions [B]`, for whom has to know the token before `choose`
    can be called."""
    logits, cache = _logits(leaves, tokens[:, None], positions[:, None], cache, spec, span)
    return logits[:, 0], cache


@partial(jax.jit, static_argnames=("spec", "plan", "span", "top"), donate_argnames=("cache", "sampler"))
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
    top: int | None = None,
) -> tuple[jax.Array, jax.Array, Cache, Sampler, LogProbs | None]:
    """One token for every slot: int32 `tokens [B]` standing at `positions [B]` -> the next tokens and positions, and if
    `top` is given how probable they and the `top` best were.

    A slot that has nothing more to say may run on: past the cache's end its keys are dropped.
    """
    tokens, cache, sampler, scores = _drawn(leaves, tokens, positions, cache, sampler, spec, plan, span, top)
    return tokens, positions + 1, cache, sampler, scores


@partial(jax.jit, static_argnames=("spec", "plan", "span", "top", "count"), donate_argnames=("cache", "sampler"))
def decode_burst(
    leaves: Leaves,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Cache,
    sampler: Sampler,
    *,
    spec: Spec,
    plan: SamplerPlan,
    span: int,
    count: int,
    top: int | None = None,
) -> tuple[jax.Array, jax.Array, Cache, Sampler, LogProbs | None]:
    """`decode`, `count` times in one program, for models that take no longer for a token than the host for a call.

    Idle slots stand at -1 and stay there. Tokens int32 `[B, count]`, the last ones `[B]`, cache, sampler, scores
    `[B, count]` and `[B, count, top]`."""

    def one(carry: tuple[Any, ...], _: None) -> tuple[Any, Any]:
        tokens, positions, cache, sampler = carry
        tokens, cache, sampler, scores = _drawn(leaves, tokens, positions, cache, sampler, spec, plan, span, top)
        return (tokens, jnp.where(positions >= 0, positions + 1, -1), cache, sampler), (tokens, scores)

    (last, _, cache, sampler), (found, scores) = jax.lax.scan(
        one, (tokens, positions, cache, sampler), None, length=count
    )
    return found.T, last, cache, sampler, jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), scores)


@partial(jax.jit, static_argnames=("spec", "plan", "span", "top"), donate_argnames=("cache", "sampler"))
def verify(
    leaves: Leaves,
    tokens: jax.Array,
    drafts: jax.Array,
    positions: jax.Array,
    cache: Cache,
    sampler: Sampler,
    allowed: jax.Array | None = None,
    *,
    spec: Spec,
    plan: SamplerPlan,
    span: int,
    top: int | None = None,
) -> tuple[jax.Array, jax.Array, Cache, Sampler, LogProbs | None]:
    """Several tokens for every slot at once: those that were guessed rightly, and the one behind them.

    What is drawn depends on logits, seed and step alone, so each token is drawn as ever, and a guess is right if it is
    that token: what comes out is what `decode` gives, one token after the other.

    Args:
        tokens: int32 `[B]`, the last token of each slot.
        drafts: int32 `[B, K]`, guesses of what follows; -1 where there is none (behind the others of its row).
        positions: int32 `[B]`, of `tokens`; -1: an idle slot.
        allowed: see `sampling.sample`; of the first token, so that a slot with one is to have no guesses.

    Returns:
        the tokens int32 `[B, K + 1]`, -1 behind the first that was not guessed; the last one of each slot `[B]`; cache,
        sampler; scores `[B, K + 1]` and `[B, K + 1, top]`.
    """
    chunk = jnp.concatenate([tokens[:, None], drafts], axis=1)
    places = positions[:, None] + jnp.arange(chunk.shape[1])
    places = jnp.where((positions >= 0)[:, None] & (chunk >= 0), places, -1)
    logits, cache = _logits(leaves, jnp.maximum(chunk, 0), places, cache, spec, span)
    if plan.penalties or sampler.window.shape[1]:
        found, last, sampler, scores = _drawn_in_turn(logits, tokens, drafts, sampler, plan, allowed, top)
    else:
        found, last, sampler, scores = _drawn_at_once(logits, drafts, sampler, plan, allowed, top)
    return found, last, cache, sampler, scores


def _drawn_at_once(
    logits: jax.Array,
    drafts: jax.Array,
    sampler: Sampler,
    plan: SamplerPlan,
    allowed: jax.Array | None,
    top: int | None,
) -> tuple[jax.Array, jax.Array, Sampler, LogProbs | None]:
    """Tokens of all places `[B, T, V]` as of so many slots: without penalties a draw needs of those before it only how
    many they are."""
    batch, length, vocab = logits.shape
    rows = logits.reshape(-1, vocab)
    spread = jax.tree.map(lambda leaf: jnp.repeat(leaf, length, axis=0), sampler)
    spread = replace(spread, step=(sampler.step[:, None] + jnp.arange(length)).reshape(-1))
    with jax.named_scope("sample"):
        drawn, _ = sample(rows, spread, plan, None if allowed is None else jnp.repeat(allowed, length, axis=0))
        scores = None if top is None else log_probs(rows, drawn, top)
    drawn = drawn.reshape(batch, length)
    right = jnp.cumprod((drawn[:, :-1] == drafts).astype(jnp.int32), axis=1)
    going = jnp.concatenate([jnp.ones((batch, 1), bool), right.astype(bool)], axis=1)
    count = jnp.sum(going, axis=1)
    last = jnp.take_along_axis(drawn, count[:, None] - 1, axis=1)[:, 0]
    scores = jax.tree.map(lambda leaf: leaf.reshape(batch, length, *leaf.shape[1:]), scores)
    return jnp.where(going, drawn, -1), last, replace(sampler, step=sampler.step + count), scores


def _drawn_in_turn(
    logits: jax.Array,
    tokens: jax.Array,
    drafts: jax.Array,
    sampler: Sampler,
    plan: SamplerPlan,
    allowed: jax.Array | None,
    top: int | None,
) -> tuple[jax.Array, jax.Array, Sampler, LogProbs | None]:
    """The same where a penalty looks at the tokens before."""
    guesses = jnp.concatenate([drafts, jnp.full_like(tokens, -1)[:, None]], axis=1)

    def each(carry: tuple[Any, ...], inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
        sampler, last, going = carry
        row, guess = inputs
        found, moved = sample(row, sampler, plan, allowed)
        scores = None if top is None else log_probs(row, found, top)
        # a slot that has come to its end keeps its sampler as it was
        sampler = jax.tree.map(lambda new, old: jnp.where(_rows(going, new), new, old), moved, sampler)
        found = jnp.where(going, found, -1)
        last = jnp.where(going, found, last)
        return (sampler, last, going & (found == guess)), (found, scores)

    with jax.named_scope("sample"):
        start = sampler, tokens, jnp.ones(tokens.shape, bool)
        columns = jnp.swapaxes(logits, 0, 1), guesses.T
        (sampler, last, _), (found, scores) = jax.lax.scan(each, start, columns)
    return found.T, last, sampler, jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), scores)


@partial(jax.jit, static_argnames=("spec", "plan", "span", "count"), donate_argnames=("cache",))
def draft(
    leaves: Leaves,
    tokens: jax.Array,
    positions: jax.Array,
    last: jax.Array,
    cache: Cache,
    sampler: Sampler,
    *,
    spec: Spec,
    plan: SamplerPlan,
    span: int,
    count: int,
) -> tuple[jax.Array, Cache]:
    """What a draft model takes to follow int32 `tokens [B, T]` at `positions [B, T]` (-1: padding), whose last ones
    stand at index `last [B]` (-1: an idle slot): `[B, count]`. It draws with the target's sampler, which is not
    changed: the same noise makes both choose alike."""
    logits, cache = _logits(leaves, tokens, positions, cache, spec, span, jnp.maximum(last, 0)[:, None])
    place = jnp.where(last >= 0, jnp.take_along_axis(positions, jnp.maximum(last, 0)[:, None], axis=1)[:, 0], -1)
    first, sampler = sample(logits[:, 0], sampler, plan)

    def more(carry: tuple[Any, ...], _: None) -> tuple[Any, jax.Array]:
        token, place, cache, sampler = carry
        place = jnp.where(place >= 0, place + 1, -1)
        logits, cache = _logits(leaves, token[:, None], place[:, None], cache, spec, span)
        token, sampler = sample(logits[:, 0], sampler, plan)
        return (token, place, cache, sampler), token

    (_, _, cache, _), rest = jax.lax.scan(more, (first, place, cache, sampler), None, length=count - 1)
    return jnp.concatenate([first[:, None], rest.T], axis=1), cache


def _drawn(
    leaves: Leaves,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Any,
    sampler: Sampler,
    spec: Spec,
    plan: SamplerPlan,
    span: int,
    top: int | None,
) -> tuple[jax.Array, Any, Sampler, LogProbs | None]:
    """The tokens behind `tokens [B]`, with cache, sampler and scores."""
    logits, cache = _logits(leaves, tokens[:, None], positions[:, None], cache, spec, span)
    with jax.named_scope("sample"):
        tokens, sampler = sample(logits[:, 0], sampler, plan)
        return tokens, cache, sampler, None if top is None else log_probs(logits[:, 0], tokens, top)


def _rows(choice: jax.Array, like: jax.Array) -> jax.Array:
    """`choice [B]` in the rank of `like [B, ...]`."""
    return choice.reshape(-1, *[1] * (like.ndim - 1))


def _logits(
    leaves: Leaves,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Any,
    spec: Spec,
    span: int,
    at: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
    """The logits `[B, T, V]` behind `tokens [B, T]`, or those at indices `at [B, N]` of them `[B, N, V]`, and the cache
    with the tokens in it."""
    model: Any = spec.model(leaves)
    hidden, cache = model.hidden(tokens, positions, cache, span=span, dtype=spec.dtype, precision=spec.precision)
    if at is not None:
        hidden = jnp.take_along_axis(hidden, at[:, :, None], axis=1)
    return model.logits(hidden, spec.precision), cache

"""Choosing the next token of every slot of a batch, as pure functions for use inside `jax.jit`.

The steps and their order are llama.cpp's: logit bias, penalties, top-k, typical, top-p, min-p, temperature, draw.

A draw takes the token with the highest `logit / temperature + Gumbel noise` (the Gumbel-max trick: such a token follows
the softmax). The noise is a function of (seed, step, token id) alone, so neither the other slots, nor the size of the
batch, nor the length of the candidate list can change what a slot draws.

The whole vocabulary is looked at once, for the best few: a slot without top-k draws from its best `WHOLE_LIST` tokens
when top-p and min-p keep no more than those, and only else from all (`lax.cond`). Such a slot needs sums over the
vocabulary, whose order XLA chooses by shape: there a token at the very edge of top-p (by a float32 rounding) may be in
for one batch size and out for another. The sums of a slot with top_k up to 1024 have a fixed order.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation.filters import FLOAT32, keep_listed, keep_whole, top_k
from gguf_jax.generation.sampling_params import CANDIDATE_BUCKETS, MIN_WINDOW, SamplerPlan, SamplingParams, plan_for

__all__ = [
    "Sampler",
    "SamplerPlan",
    "SamplingParams",
    "accept",
    "filtered_log_probs",
    "log_probs",
    "make_sampler",
    "plan_for",
    "sample",
    "with_prompt",
]

WHOLE_LIST = 256
"""How many of its best tokens a slot without top-k tries before it turns to the whole vocabulary."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sampler:
    """What the slots of a batch are sampled with: parameters (see `SamplingParams`) and state, one row per slot.

    Attributes:
        temperature, top_p, min_p, typical_p, repeat_penalty, presence_penalty, frequency_penalty: float32 `[B]`.
        top_k: int32 `[B]`, the vocabulary's size where it is off.
        last_n: int32 `[B]`, 0 where the slot penalizes nothing.
        key: uint32 `[B, 2]`, the seed (high word, low word), a threefry key; it never changes.
        step: int32 `[B]`, tokens sampled so far.
        window: int32 `[B, W]`, ring of the last W tokens, -1 where none yet; W = 0 when no slot penalizes.
        seen: int32 `[B]`, tokens written to the ring so far; the next goes to `seen % W`.
        bias: float32 `[B, V]`, or None when no slot has one.
    """

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    typical_p: jax.Array
    repeat_penalty: jax.Array
    presence_penalty: jax.Array
    frequency_penalty: jax.Array
    last_n: jax.Array
    key: jax.Array
    step: jax.Array
    window: jax.Array
    seen: jax.Array
    bias: jax.Array | None


def make_sampler(
    params: Sequence[SamplingParams],
    vocab_size: int,
    *,
    context_length: int | None = None,
    window: int | None = None,
) -> Sampler:
    """The sampler of a batch, one slot for each of `params`, with nothing seen yet.

    Args:
        params: one for each slot.
        vocab_size: V.
        context_length: what penalty_last_n = -1 stands for, and the most that it can be; needed only if a slot has -1
            and penalizes.
        window: W, to give samplers made apart the same shape; by default the smallest bucket that serves the slots
            (a power of two, 64 at least, or 0 when no slot penalizes).

    Raises:
        GGUFJaxError: a biased token id is not in the vocabulary, or the window is unknown or too small.
    """
    last_n = [_last_n(p, context_length) for p in params]
    needed = max(last_n, default=0)
    if window is None:
        window = max(MIN_WINDOW, 1 << (needed - 1).bit_length()) if needed else 0
    if window < needed:
        raise GGUFJaxError(f"window: expected at least {needed}, the largest penalty_last_n, found {window}")

    names = {f.name for f in fields(SamplingParams)} & {f.name for f in fields(Sampler)} - {"top_k"}
    floats = {name: jnp.asarray([getattr(p, name) for p in params], jnp.float32) for name in names}
    seeds = [secrets.randbits(64) if p.seed is None else p.seed for p in params]
    return Sampler(
        **floats,
        top_k=jnp.asarray([min(p.top_k or vocab_size, vocab_size) for p in params], jnp.int32),
        last_n=jnp.asarray(last_n, jnp.int32),
        key=jnp.asarray(np.array([(seed >> 32, seed & 0xFFFFFFFF) for seed in seeds], np.uint32).reshape(-1, 2)),
        step=jnp.zeros(len(params), jnp.int32),
        window=jnp.full((len(params), window), -1, jnp.int32),
        seen=jnp.zeros(len(params), jnp.int32),
        bias=_bias_table(params, vocab_size),
    )


def _last_n(p: SamplingParams, context_length: int | None) -> int:
    if not p.penalizes:
        return 0
    if p.penalty_last_n >= 0:
        return p.penalty_last_n if context_length is None else min(p.penalty_last_n, context_length)
    if context_length is None:
        raise GGUFJaxError("penalty_last_n: -1 is the whole context, expected a context_length, found None")
    return context_length


def _bias_table(params: Sequence[SamplingParams], vocab_size: int) -> jax.Array | None:
    if not any(p.logit_bias for p in params):
        return None
    table = np.zeros((len(params), vocab_size), np.float32)
    for row, p in zip(table, params, strict=True):
        for token, value in p.logit_bias.items():
            if token >= vocab_size:
                raise GGUFJaxError(f"logit_bias: expected token ids below {vocab_size}, found {token}")
            row[token] = value
    return jnp.asarray(table)


def accept(sampler: Sampler, tokens: jax.Array, valid: jax.Array) -> Sampler:
    """Notes tokens as seen, in order; what `sample` does with its own. No work when no slot penalizes.

    Args:
        sampler: of B slots.
        tokens: int32 `[B, T]`.
        valid: bool `[B, T]`; the others (padding, idle slots) are passed over.
    """
    W = sampler.window.shape[1]
    if W == 0:
        return sampler
    nth = jnp.cumsum(valid.astype(jnp.int32), axis=1)
    n = nth[:, -1:]
    # Only the last W may write: an older one has the same place in the ring, and a scatter's order is not defined.
    place = jnp.where(valid & (nth > n - W), (sampler.seen[:, None] + nth - 1) % W, W)
    window = jax.vmap(lambda ring, at, new: ring.at[at].set(new, mode="drop"))(
        sampler.window, place, tokens.astype(jnp.int32)
    )
    return replace(sampler, window=window, seen=sampler.seen + n[:, 0])


def with_prompt(sampler: Sampler, prompts: Sequence[Sequence[int]]) -> Sampler:
    """`accept` for prompts that are on the host: one sequence of token ids, of any length, for each slot.

    One shape, `[B, W]`, whatever the lengths: a prompt's older tokens could not stay in the window.
    """
    B, W = sampler.window.shape
    if len(prompts) != B:
        raise GGUFJaxError(f"prompts: expected {B}, one for each slot, found {len(prompts)}")
    if W == 0:
        return sampler
    tokens = np.zeros((B, W), np.int32)
    valid = np.zeros((B, W), bool)
    for b, prompt in enumerate(prompts):
        recent = np.asarray(prompt, np.int32)[-W:]
        tokens[b, : len(recent)] = recent
        valid[b, : len(recent)] = True
    return accept(sampler, jnp.asarray(tokens), jnp.asarray(valid))


def sample(
    logits: jax.Array, sampler: Sampler, plan: SamplerPlan, allowed: jax.Array | None = None
) -> tuple[jax.Array, Sampler]:
    """Chooses the next token of each slot. The same seed and logits give the same tokens, whatever the other slots.

    A slot with temperature <= 0 takes the best token after bias and penalties, at equal logits that of the lowest id.
    A row of nothing but -inf gives token 0.

    Args:
        logits: `[B, V]`, no NaN; computed in float32.
        sampler: of B slots.
        plan: static; `plan_for` the parameters of the sampler, or of more slots than it has.
        allowed: uint32 `[B, ceil(V / 32)]`: bit `i % 32` of word `i // 32` is set where token i may be chosen; None:
            all of them. Others have a logit of -inf, before anything else is done.

    Returns:
        (tokens int32 `[B]`, the sampler with those tokens accepted and `step` one higher).
    """
    with jax.named_scope("sample"):
        if allowed is not None:
            logits = jnp.where(_bits(allowed, logits.shape[1]), logits, -jnp.inf)
        logits = _adjusted(logits, sampler, plan)
        if plan.greedy:
            tokens = top_k(logits, 1)[1][:, 0]
        else:
            ids, scores, settled = _listed(logits, sampler, plan)
            tokens = jnp.take_along_axis(ids, _draw(scores, ids, sampler)[:, None], axis=-1)[:, 0]
            if plan.whole:
                tokens = lax.cond(
                    jnp.all(settled),
                    lambda: tokens,
                    lambda: jnp.where(settled, tokens, _draw_whole(logits, ids[:, 0], sampler, plan)),
                )
            tokens = jnp.where(sampler.temperature > 0, tokens, ids[:, 0])
        sampler = accept(sampler, tokens[:, None], jnp.ones((tokens.shape[0], 1), bool))
        return tokens, replace(sampler, step=sampler.step + 1)


def filtered_log_probs(logits: jax.Array, sampler: Sampler, plan: SamplerPlan) -> jax.Array:
    """The log of the distribution that `sample` draws from: float32 `[B, V]`, -inf for what the filters removed.

    For tests and for speculative decoding; `sample` itself never makes this array.
    """
    logits = _adjusted(logits, sampler, plan)
    put = jax.vmap(lambda at, values: jnp.full(logits.shape[1], -jnp.inf).at[at].set(values))
    if plan.greedy:
        ids = top_k(logits, 1)[1]
        return put(ids, jnp.zeros(ids.shape))
    ids, scores, settled = _listed(logits, sampler, plan)
    result = put(ids, jax.nn.log_softmax(scores, axis=-1))
    if plan.whole:
        whole = _whole(logits, ids[:, 0], sampler, plan)
        result = jnp.where(settled[:, None], result, jax.nn.log_softmax(whole, axis=-1))
    best = put(ids[:, :1], jnp.zeros((ids.shape[0], 1)))
    return jnp.where((sampler.temperature > 0)[:, None], result, best)


def log_probs(logits: jax.Array, tokens: jax.Array, k: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Log probabilities (natural, of the model: before bias, penalties, filters and temperature) of chosen tokens.

    Args:
        logits: `[B, V]`; computed in float32.
        tokens: int32 `[B]`.
        k: how many of the most probable tokens to return beside them, 0 <= k <= V, static.

    Returns:
        (log probability of `tokens` float32 `[B]`, of the k best float32 `[B, k]`, their ids int32 `[B, k]`).
    """
    logits = logits.astype(jnp.float32)
    normalizer = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1) - normalizer
    values, ids = top_k(logits, max(k, 1))
    return chosen[:, 0], values[:, :k] - normalizer, ids[:, :k]


def _bits(words: jax.Array, count: int) -> jax.Array:
    """uint32 `[B, ceil(count / 32)]` as bool `[B, count]`, the lowest bit first."""
    bits = (words[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    return bits.reshape(words.shape[0], -1)[:, :count].astype(bool)


def _adjusted(logits: jax.Array, sampler: Sampler, plan: SamplerPlan) -> jax.Array:
    """Logits after bias and penalties, float32 `[B, V]`, at most the largest finite number.

    Penalties as in llama.cpp: the repeat penalty divides a positive logit and multiplies another, so that it always
    makes the token less likely; then `count * frequency + presence` is subtracted.
    """
    logits = logits.astype(jnp.float32)
    V = logits.shape[1]
    if plan.bias and sampler.bias is not None:
        logits = logits + sampler.bias
    if plan.penalties and (W := sampler.window.shape[1]):
        age = (sampler.seen[:, None] - 1 - jnp.arange(W)) % W
        counted = age < jnp.minimum(sampler.last_n, sampler.seen)[:, None]
        counts = jax.vmap(lambda ids: jnp.zeros(V, jnp.float32).at[ids].add(1.0, mode="drop"))(
            jnp.where(counted, sampler.window, V)
        )
        repeat = sampler.repeat_penalty[:, None]
        penalized = jnp.where(logits > 0, logits / repeat, logits * repeat)
        penalized -= counts * sampler.frequency_penalty[:, None] + sampler.presence_penalty[:, None]
        logits = jnp.where(counts > 0, penalized, logits)
    return jnp.minimum(logits, FLOAT32.max)


def _listed(logits: jax.Array, sampler: Sampler, plan: SamplerPlan) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(ids int32 `[B, C]` best first, scores as in `_scores` `[B, C]`, whether this list decides the slot bool `[B]`).

    Whether it does is the slot's own affair: a slot without top-k looks at no more than `WHOLE_LIST` entries, and is
    settled when the last of them is not kept, since top-p and min-p keep a beginning of the sorted vocabulary.
    """
    V = logits.shape[1]
    C = max(plan.candidates, WHOLE_LIST) if plan.whole else plan.candidates
    values, ids = top_k(logits, C)
    values = _one_finite(values, jnp.arange(C) == 0)
    fits = sampler.top_k <= CANDIDATE_BUCKETS[-1]
    limit = jnp.minimum(jnp.where(fits, sampler.top_k, WHOLE_LIST), C)
    total = None
    if plan.whole:
        total = jnp.where(fits, 0.0, jnp.sum(jnp.exp(logits - values[:, :1]), axis=-1))
    typical_p = sampler.typical_p if plan.typical else None
    keep = keep_listed(values, ids, limit, total, typical_p, sampler.top_p, sampler.min_p)
    settled = jnp.take_along_axis(~keep, limit[:, None] - 1, axis=-1)[:, 0] & (sampler.top_k >= V)
    if plan.typical:
        settled &= sampler.typical_p >= 1
    return ids, _scores(values, keep, sampler), fits | settled | (sampler.temperature <= 0)


def _whole(logits: jax.Array, best: jax.Array, sampler: Sampler, plan: SamplerPlan) -> jax.Array:
    """Scores of the whole vocabulary `[B, V]`; `best` int32 `[B]` is its best token."""
    logits = _one_finite(logits, jnp.arange(logits.shape[1]) == best[:, None])
    typical_p = sampler.typical_p if plan.typical else None
    return _scores(logits, keep_whole(logits, sampler.top_k, typical_p, sampler.top_p, sampler.min_p), sampler)


def _draw_whole(logits: jax.Array, best: jax.Array, sampler: Sampler, plan: SamplerPlan) -> jax.Array:
    ids = jnp.broadcast_to(jnp.arange(logits.shape[1], dtype=jnp.int32), logits.shape)
    return _draw(_whole(logits, best, sampler, plan), ids, sampler)


def _one_finite(values: jax.Array, best: jax.Array) -> jax.Array:
    """The best token's value is finite even if every token was forbidden: each filter has one token to keep."""
    return jnp.where(best, jnp.maximum(values, FLOAT32.min), values)


def _scores(values: jax.Array, keep: jax.Array, sampler: Sampler) -> jax.Array:
    """(value - best kept value) / temperature, -inf where not kept: logits of the draw, float32 `[B, N]`."""
    best = jnp.max(jnp.where(keep, values, -jnp.inf), axis=-1, keepdims=True)
    temperature = jnp.maximum(sampler.temperature, FLOAT32.tiny)[:, None]
    return jnp.where(keep, (values - best) / temperature, -jnp.inf)


def _draw(scores: jax.Array, ids: jax.Array, sampler: Sampler) -> jax.Array:
    """The place int32 `[B]` of one entry of `scores` `[B, N]`, drawn with probability softmax(scores)."""
    return top_k(lax.optimization_barrier(scores + _gumbel(sampler, ids)), 1)[1][:, 0]


@functools.partial(jax.vmap, in_axes=(0, 0))
def _gumbel(sampler: Sampler, ids: jax.Array) -> jax.Array:
    """Standard Gumbel noise of tokens `ids` int32 `[B, N]` at the current steps, float32 `[B, N]`.

    -log(-log(1 - u)) with u = (b + 1/2) / 2**32 of 32 random bits b: fine where the noise is high, which is where the
    unlikely tokens are decided (24 bits, as of a uniform float32, would never draw a token below 2**-25 rightly).
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(sampler.key, impl="threefry2x32"), sampler.step)
    bits = jax.vmap(lambda token: jax.random.key_data(jax.random.fold_in(key, token))[0])(ids)
    u = jnp.minimum((bits.astype(jnp.float32) + 0.5) * 2.0**-32, 1 - 2.0**-24)
    return -jnp.log(-jnp.log1p(-u))

"""The compiled programs of measuring. What leaves them is a few numbers for each scored token, never its logits.

Logits are made for scored positions alone, and for so many at a time that `LOGITS_BYTES` hold those of all models
that are compared. A batch is padded, so that each program is compiled once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gguf_jax.generation.steps import Leaves, Spec
from gguf_jax.models import Decoder
from gguf_jax.ops import Precision

LOGITS_BYTES = 128 * 2**20
"""Room for logits, float32, of all models together; XLA needs a small multiple of it for what it derives from them."""

FILE_RANGE = 16.0
"""Log-probabilities further below the best one than this are not told apart in a file of log-probabilities, and those
below minus this count for nothing there."""

T = TypeVar("T")
Array = jax.Array | np.ndarray


def one_ahead(results: Iterable[T]) -> Iterator[T]:
    """The same results, each handed on when the next one has been asked for: what was dispatched for it then runs on
    the device while the host reads this one."""
    waiting: list[T] = []
    for result in results:
        waiting.append(result)
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting


def rows_at_once(vocab_size: int, models: int = 1) -> int:
    """Positions whose logits are made at the same time, a multiple of 16 (the rows of a tile of a matrix unit) where
    there is room for that."""
    rows = max(1, LOGITS_BYTES // (4 * vocab_size * models))
    return rows - rows % 16 if rows > 16 else rows


def _in_chunks(call: Callable[..., Any], size: int, *rows: Array) -> Any:
    """`call(*rows)` for `size` rows at a time; each of `rows` is `[N, ...]`, and so is every array of the result."""
    (count, *_) = rows[0].shape
    chunks = -(-count // size)
    size = -(-count // chunks)  # as even as can be: less padding

    def split(array: Array) -> jax.Array:
        padding = [(0, chunks * size - count), *[(0, 0)] * (array.ndim - 1)]
        return jnp.pad(array, padding).reshape(chunks, size, *array.shape[1:])

    out = lax.map(lambda chunk: call(*chunk), tuple(map(split, rows)))
    return jax.tree.map(lambda array: array.reshape(chunks * size, *array.shape[2:])[:count], out)


def _hidden(leaves: Leaves, inputs: jax.Array, spec: Spec, first: int) -> jax.Array:
    model = spec.model(leaves)
    positions = jnp.broadcast_to(jnp.arange(inputs.shape[1], dtype=jnp.int32), inputs.shape)
    hidden, _ = model.hidden(inputs, positions, dtype=spec.dtype, precision=spec.precision)
    return hidden[:, first:]


@partial(jax.jit, static_argnames=("spec", "first"))
def hidden(leaves: Leaves, inputs: jax.Array, *, spec: Spec, first: int) -> jax.Array:
    """int32 `inputs [B, T]` -> what the logits of positions `first` to T - 1 are made of, `[B, T - first, E]`."""
    return _hidden(leaves, inputs, spec, first)


@partial(jax.jit, static_argnames=("spec", "first"))
def negative_log_likelihoods(
    leaves: Leaves, inputs: jax.Array, targets: jax.Array, *, spec: Spec, first: int
) -> jax.Array:
    """`-log p(target)` in nats, float32 `[B, S]`, of int32 `targets [B, S]`, each predicted from the position before it
    in `inputs [B, T]`, from position `first = T - S` on."""
    return scores(spec.model(leaves), _hidden(leaves, inputs, spec, first), targets, spec.precision)


def scores(model: Decoder, rows: jax.Array, targets: jax.Array, precision: Precision) -> jax.Array:
    """`-log p(target)` in nats, float32 `[B, S]`, of `rows [B, S, E]` (hidden states) and `targets [B, S]`."""

    def score(rows: jax.Array, targets: jax.Array) -> jax.Array:
        logits = model.logits(rows, precision)
        return _log_sum_exp(logits) - _at(logits, targets)

    size = rows_at_once(model.config.vocab_size)
    return _in_chunks(score, size, rows.reshape(-1, rows.shape[-1]), targets.reshape(-1)).reshape(targets.shape)


class Comparison(NamedTuple):
    """Of one model and a base, for each scored token, `[N]`: `-log p(target)` of the model; the Kullback-Leibler
    divergence of its distribution from the base's, in nats; whether both find the same token most likely."""

    nll: Array
    kld: Array
    same_top: Array


def divergence(base_log: jax.Array, log: jax.Array) -> jax.Array:
    """Kullback-Leibler divergence of q from p in nats, float32 `[N]`; `base_log [N, V]` is log p, `log [N, V]` log q.

    `sum p (log p - log q)` is summed as `sum p (q/p - 1 - log(q/p))`, which is the same since p and q both sum to one.
    No term of it is negative, and an error in the logarithm of either sum of exponentials cancels to first order, so
    that divergences far below float32's resolution of a logit come out right.
    """
    base, difference = jnp.exp(base_log), log - base_log
    near = jnp.abs(difference) < 0.5
    close = base * (jnp.expm1(jnp.where(near, difference, 0.0)) - difference)
    far = jnp.exp(log) - base - base * difference  # where expm1 could overflow, and nothing cancels
    return jnp.where(base > 0, jnp.where(near, close, far), jnp.exp(log)).sum(-1)


class Quantized(NamedTuple):
    """Log-probabilities as a file has them: `scale[n] * codes[n] + low[n]`; uint16 `codes [N, V]`, float32 `[N]`."""

    codes: Array
    scale: Array
    low: Array


@partial(jax.jit, static_argnames=("base_spec", "specs"))
def compare(
    base_leaves: Leaves,
    base_rows: jax.Array,
    leaves: tuple[Leaves, ...],
    rows: tuple[jax.Array, ...],
    targets: jax.Array,
    *,
    base_spec: Spec,
    specs: tuple[Spec, ...],
) -> tuple[jax.Array, tuple[Comparison, ...]]:
    """`-log p(target)` of the base, `[N]`, and how each model compares with it.

    `base_rows [N, E]` and each of `rows [N, E']` are results of `hidden`; `targets [N]`.
    """

    def score(base_rows: jax.Array, targets: jax.Array, *rows: jax.Array) -> Any:
        base_log = _log_softmax(base_spec.model(base_leaves).logits(base_rows, base_spec.precision))
        base_top = jnp.argmax(base_log, -1)
        found = []
        for spec, each, x in zip(specs, leaves, rows, strict=True):
            log = _log_softmax(spec.model(each).logits(x, spec.precision))
            same_top = jnp.argmax(log, -1) == base_top
            found.append(Comparison(-_at(log, targets), divergence(base_log, log), same_top))
        return -_at(base_log, targets), tuple(found)

    size = rows_at_once(_vocab_size(base_spec, base_leaves), 1 + len(specs))
    return _in_chunks(score, size, base_rows, targets, *rows)


@partial(jax.jit, static_argnames=("specs",))
def compare_with_quantized(
    base: Quantized,
    leaves: tuple[Leaves, ...],
    rows: tuple[jax.Array, ...],
    targets: jax.Array,
    *,
    specs: tuple[Spec, ...],
) -> tuple[jax.Array, tuple[Comparison, ...]]:
    """`compare` with a base whose log-probabilities come from a file, summed as llama-perplexity sums them: directly,
    and only where the base's log-probability is above -16, since a file does not know those below."""

    def score(codes: jax.Array, scale: jax.Array, low: jax.Array, targets: jax.Array, *rows: jax.Array) -> Any:
        base_log = scale[:, None] * codes.astype(jnp.float32) + low[:, None]
        base, base_top = jnp.exp(base_log), jnp.argmax(codes, -1)
        found = []
        for spec, each, x in zip(specs, leaves, rows, strict=True):
            log = _log_softmax(spec.model(each).logits(x, spec.precision))
            kld = jnp.where(base_log > -FILE_RANGE, base * (base_log - log), 0.0).sum(-1)
            found.append(Comparison(-_at(log, targets), kld, jnp.argmax(log, -1) == base_top))
        return -_at(base_log, targets), tuple(found)

    size = rows_at_once(base.codes.shape[-1], 1 + len(specs))
    return _in_chunks(score, size, *base, targets, *rows)


@partial(jax.jit, static_argnames=("spec",))
def quantized_log_probabilities(leaves: Leaves, rows: jax.Array, *, spec: Spec) -> Quantized:
    """What a file of log-probabilities holds for `rows [N, E]`, results of `hidden`.

    The range between the best logit and the worst, or `FILE_RANGE` below the best, is divided into 65535 steps.
    """

    def encode(rows: jax.Array) -> Quantized:
        logits = spec.model(leaves).logits(rows, spec.precision)
        high = logits.max(-1)
        lowest = jnp.maximum(logits.min(-1), high - FILE_RANGE)
        scale = (high - lowest) / 65535
        inverse = jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1), 0)
        steps = jnp.rint(inverse[:, None] * (logits - lowest[:, None]))
        codes = jnp.clip(steps, 0, 65535).astype(jnp.uint16)
        return Quantized(codes, scale, lowest - _log_sum_exp(logits))

    return _in_chunks(encode, rows_at_once(_vocab_size(spec, leaves)), rows)


def _vocab_size(spec: Spec, leaves: Leaves) -> int:
    return spec.model(leaves).config.vocab_size


def _log_sum_exp(logits: jax.Array) -> jax.Array:
    """`log(sum(exp(logits)))` over the last axis."""
    high = logits.max(-1)
    return high + jnp.log(jnp.exp(logits - high[..., None]).sum(-1))


def _log_softmax(logits: jax.Array) -> jax.Array:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - jnp.log(jnp.exp(shifted).sum(-1, keepdims=True))


def _at(values: jax.Array, index: jax.Array) -> jax.Array:
    """`values [N, V]` at `index [N]`."""
    return jnp.take_along_axis(values, index[:, None], axis=-1)[:, 0]

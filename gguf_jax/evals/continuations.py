"""How likely continuations are, each after a context of its own: what multiple choice and other harnesses ask for.

Sequences of nearly one length are run side by side, padded at the end to one of a few lengths so that few programs are
compiled; in a causal model padding behind a token changes nothing for it. Logits are made for the tokens of
continuations alone. Pairs that differ in their last token only, as the letters of a choice do, are one sequence.

The longest sequences are run first, since they need the most memory. The others follow in an order that mixes lengths:
what is known when a run is interrupted, or how long it has still to go, is then about all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gguf_jax.errors import GGUFJaxError
from gguf_jax.evals.programs import one_ahead, rows_at_once
from gguf_jax.evals.windows import BATCH_TOKENS, checked_ids
from gguf_jax.generation import Timings, compilation_cache, steps
from gguf_jax.generation.steps import Leaves, Spec
from gguf_jax.generation.timings import Stopwatch
from gguf_jax.models import Decoder
from gguf_jax.ops import Precision

LOGITS_AT_ONCE = 64
"""Scored positions whose logits are made together: enough to share a decoded weight, few enough that filling up the
last ones of a batch costs little. Fewer where a vocabulary is large."""

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context, begun with BOS where the model wants that, and of what follows it."""


class Score(NamedTuple):
    """Of each token of a continuation, `[n]`: `-log p` in nats, float32; whether it was the most likely one, bool."""

    nlls: np.ndarray
    greedy: np.ndarray


def score_continuations(
    model: Decoder,
    pairs: Sequence[Pair],
    *,
    precision: Precision = "exact",
    batch_tokens: int = BATCH_TOKENS,
    on_progress: Callable[[int, int], object] = lambda done, count: None,
) -> list[Score]:
    """Score the continuation of every pair, in the order of the pairs.

    Args:
        pairs: contexts and continuations, neither of them empty. A context is not cut: the caller leaves out what the
            model was not trained to look back at.
        precision: see `ops.Precision`.
        batch_tokens: tokens run at once, with padding; a longer pair is run by itself.
        on_progress: told how many pairs are done, of how many.

    Raises:
        GGUFJaxError: a context or continuation is empty, an id is not in the vocabulary, or a pair is too long for the
            memory.
    """
    found: dict[int, Score] = {}
    for index, score in scored_continuations(model, pairs, precision=precision, batch_tokens=batch_tokens):
        found[index] = score
        on_progress(len(found), len(pairs))
    return [found[i] for i in range(len(pairs))]


def scored_continuations(
    model: Decoder,
    pairs: Sequence[Pair],
    *,
    precision: Precision = "exact",
    batch_tokens: int = BATCH_TOKENS,
    timings: Timings | None = None,
) -> Generator[tuple[int, Score]]:
    """`score_continuations`, each pair's number with its score as batches finish."""
    for batch in scored_batches(model, pairs, precision=precision, batch_tokens=batch_tokens, timings=timings):
        yield from batch


def scored_batches(
    model: Decoder,
    pairs: Sequence[Pair],
    *,
    precision: Precision = "exact",
    batch_tokens: int = BATCH_TOKENS,
    groups: Sequence[int] | None = None,
    timings: Timings | None = None,
) -> Generator[list[tuple[int, Score]]]:
    """`scored_continuations`, a batch at a time.

    Args:
        groups: a number for each pair; those that have the same stand together, and are done at about the same time.
        timings: what to add time and tokens to: `prefill_s`, `prefill_tokens` (without padding) and `compile_s`.
    """
    if batch_tokens < 1:
        raise GGUFJaxError(f"batch_tokens: expected at least 1, found {batch_tokens}")
    compilation_cache.enable()
    checked = [_checked(i, pair, model.config.vocab_size) for i, pair in enumerate(pairs)]
    continuations = [continuation for _, continuation in checked]
    spec, leaves = steps.split(model, precision=precision)
    size = min(LOGITS_AT_ONCE, rows_at_once(model.config.vocab_size))
    timings = Timings() if timings is None else timings
    watch = Stopwatch(timings)

    def dispatched() -> Iterator[tuple[_Batch, tuple[jax.Array, jax.Array]]]:
        for batch in _batches(_sequences(checked, groups or range(len(checked))), batch_tokens):
            inputs = batch.arrays(continuations, size)
            with _in_memory(batch):
                scores = watch.call(_scores, leaves, *inputs, spec=spec, size=size)
            yield batch, scores

    for batch, found in one_ahead(dispatched()):
        with _in_memory(batch):
            nlls, greedy = map(np.asarray, found)
        timings.prefill_s += watch.lap()
        timings.prefill_tokens += sum(len(sequence.tokens) for sequence in batch.sequences)
        numbers = [i for sequence in batch.sequences for i in sequence.pairs]
        bounds = itertools.pairwise(np.cumsum([0, *(len(continuations[i]) for i in numbers)]))
        yield [(i, Score(nlls[a:b], greedy[a:b])) for i, (a, b) in zip(numbers, bounds, strict=True)]


@partial(jax.jit, static_argnames=("spec", "size"))
def _scores(
    leaves: Leaves,
    tokens: jax.Array,
    positions: jax.Array,
    where: jax.Array,
    targets: jax.Array,
    count: jax.Array,
    *,
    spec: Spec,
    size: int,
) -> tuple[jax.Array, jax.Array]:
    """`-log p` in nats, float32 `[N]`, of the first `count` of `targets [N]`, and whether they were the most likely.

    Each is predicted from a token of `tokens [B, T]` at `positions [B, T]` (-1: padding), of which it is number
    `where [N]` counted through the rows. The logits of `size` of them, a divisor of N, are made at a time.
    """
    model = spec.model(leaves)
    hidden, _ = model.hidden(tokens, positions, dtype=spec.dtype, precision=spec.precision)
    rows = hidden.reshape(-1, hidden.shape[-1])

    def score(chunk: jax.Array, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        start = chunk * size
        asked = lax.dynamic_slice_in_dim(targets, start, size)
        logits = model.logits(rows[lax.dynamic_slice_in_dim(where, start, size)], spec.precision)
        nlls = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, asked[:, None], axis=-1)[:, 0]
        greedy = jnp.argmax(logits, -1) == asked
        return lax.dynamic_update_slice(found[0], nlls, (start,)), lax.dynamic_update_slice(found[1], greedy, (start,))

    with jax.named_scope("score"):
        empty = jnp.zeros(targets.shape), jnp.zeros(targets.shape, bool)
        return lax.fori_loop(0, -(-count // size), score, empty)


class _Sequence(NamedTuple):
    """What a model is shown, int32 `[T]`, the pairs whose continuations end with its last prediction, and the group
    that the first of them is of."""

    tokens: np.ndarray
    pairs: list[int]
    group: int


@dataclass(frozen=True)
class _Batch:
    """Sequences that are run together.

    Attributes:
        length: what they are padded to.
        size: rows, of which those without a sequence are padding throughout.
    """

    sequences: list[_Sequence]
    length: int
    size: int

    def arrays(self, continuations: Sequence[np.ndarray], multiple: int) -> tuple[np.ndarray | np.int32, ...]:
        """`tokens`, `positions`, `where`, `targets` and `count` of `_scores`; N is a multiple of `multiple`."""
        tokens = np.zeros((self.size, self.length), np.int32)
        positions = np.full_like(tokens, -1)
        where: list[np.ndarray] = []
        targets: list[np.ndarray] = []
        for row, sequence in enumerate(self.sequences):
            end = len(sequence.tokens)
            tokens[row, :end] = sequence.tokens
            positions[row, :end] = np.arange(end)
            for continuation in (continuations[i] for i in sequence.pairs):
                where.append(row * self.length + np.arange(end - len(continuation), end))
                targets.append(continuation)
        count = sum(map(len, targets))
        padding = np.zeros(-(-tokens.size // multiple) * multiple - count, np.int32)
        packed = [np.concatenate([*each, padding]).astype(np.int32) for each in (where, targets)]
        return tokens, positions, *packed, np.int32(count)


def _sequences(pairs: Sequence[tuple[np.ndarray, np.ndarray]], groups: Sequence[int]) -> list[_Sequence]:
    """What to run for the pairs. None has more scores than tokens, so that a batch has room for them."""
    sequences: list[_Sequence] = []
    latest: dict[bytes, tuple[_Sequence, int]] = {}
    for i, (context, continuation) in enumerate(pairs):
        tokens = np.concatenate([context, continuation[:-1]])
        sequence, scored = latest.get(tokens.tobytes(), (None, 0))
        if sequence is None or scored + len(continuation) > len(tokens):
            sequence, scored = _Sequence(tokens, [], groups[i]), 0
            sequences.append(sequence)
        sequence.pairs.append(i)
        latest[tokens.tobytes()] = sequence, scored + len(continuation)
    return sequences


def _batches(sequences: Sequence[_Sequence], batch_tokens: int) -> list[_Batch]:
    """All sequences, in the order in which they are run."""
    longest: dict[int, int] = {}
    for sequence in sequences:
        longest[sequence.group] = max(len(sequence.tokens), longest.get(sequence.group, 0))
    waiting = sorted(sequences, key=lambda each: (-longest[each.group], each.group))
    batches = []
    while waiting:
        length = padded_length(longest[waiting[0].group])
        room = max(1, batch_tokens // length)
        size = min(room, 1 << (len(waiting) - 1).bit_length())  # what is left over is not worth a whole batch
        batches.append(_Batch(waiting[:size], length, size))
        del waiting[:size]
    return [*batches[:1], *(batches[1 + i] for i in np.random.default_rng(0).permutation(max(0, len(batches) - 1)))]


def padded_length(length: int) -> int:
    """The length that a sequence is padded to: four between a power of two and the next, and none below 16."""
    step = max(16, (1 << (length - 1).bit_length()) // 8)
    return -(-length // step) * step


def _checked(number: int, pair: Pair, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for name, ids in zip(("context", "continuation"), pair, strict=True):
        if not len(ids):
            raise GGUFJaxError(f"pair {number}: {name}: expected at least one token, found none")
        try:
            found.append(checked_ids(ids, vocab_size))
        except GGUFJaxError as error:
            raise GGUFJaxError(f"pair {number}: {name}: {error}") from error
    context, continuation = found
    return context, continuation


@contextmanager
def _in_memory(batch: _Batch) -> Iterator[None]:
    """Within, that the device has no room for a batch is said in one line."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        longest = max(len(sequence.tokens) for sequence in batch.sequences)
        raise GGUFJaxError(f"batch: expected what fits into memory, found {batch.size} sequences of up to {longest} "
                           f"tokens; fewer batch_tokens may help") from error  # fmt: skip

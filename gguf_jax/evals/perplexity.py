"""Perplexity of a text, as llama-perplexity defines it: `exp` of the mean of `-log p(token | the window before it)`."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from gguf_jax.evals import programs
from gguf_jax.evals.statistics import Estimate, flat, mean
from gguf_jax.evals.windows import CTX_SIZE, Batch, Windows, windows_of
from gguf_jax.generation import Timings, compilation_cache, steps
from gguf_jax.generation.timings import Stopwatch
from gguf_jax.models import Decoder
from gguf_jax.ops import Precision


@dataclass(frozen=True)
class Perplexity:
    """What is known after some windows of a text.

    Attributes:
        nlls: `-log p` of every scored token in nats, float32 `[windows, scored]`.
        windows: windows run; `planned`: those there are.
        timings: `prefill_s` and `prefill_tokens` are those of the windows, `compile_s` what came on top.
    """

    nlls: np.ndarray = field(repr=False)
    ctx_size: int
    stride: int | None
    windows: int
    planned: int
    timings: Timings = field(repr=False)

    @cached_property
    def log(self) -> Estimate:
        """The mean of `-log p`, the logarithm of the perplexity."""
        return mean(self.nlls.reshape(-1))

    @property
    def perplexity(self) -> float:
        return self.log.exp().value

    @property
    def stderr(self) -> float:
        """Standard error of the perplexity, which takes the scored tokens to be independent."""
        return self.log.exp().stderr

    @property
    def tokens(self) -> int:
        """Scored tokens."""
        return self.nlls.size

    @property
    def complete(self) -> bool:
        return self.windows == self.planned

    def after_each_window(self) -> list[Estimate]:
        """`log` as it was after each window."""
        nlls = self.nlls.astype(np.float64)
        total, squares = np.cumsum(nlls.sum(1)), np.cumsum(np.square(nlls).sum(1))
        count = np.arange(1, len(nlls) + 1) * nlls.shape[1]
        average = total / count
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = np.sqrt(np.maximum(0.0, squares / count - average**2) / (count - 1))
        return [Estimate(float(a), float(e)) for a, e in zip(average, errors, strict=True)]

    def as_dict(self) -> dict[str, Any]:
        """For JSON. `tokens` are the scored ones, `tokens_per_second` counts all that were run."""
        seconds, run = self.timings.prefill_s, self.timings.prefill_tokens
        return flat(
            perplexity=self.perplexity,
            stderr=self.stderr,
            nll=self.log,
            tokens=self.tokens,
            windows=self.windows,
            windows_planned=self.planned,
            ctx_size=self.ctx_size,
            stride=self.stride,
            seconds=seconds,
            compile_seconds=self.timings.compile_s,
            tokens_per_second=run / seconds if seconds else None,
        )


def perplexity(
    model: Decoder,
    text: str | Sequence[int] | np.ndarray | Windows,
    *,
    ctx_size: int = CTX_SIZE,
    stride: int | None = None,
    chunks: int | None = None,
    batch_size: int | None = None,
    precision: Precision = "exact",
) -> Perplexity:
    """The perplexity of a text under a model.

    Args:
        text: a text, the ids of its tokens (begun with BOS where the model wants that), or `Windows` of them.
        ctx_size: tokens of a window.
        stride: score the last `stride` tokens of windows that begin so far apart, instead of the second halves of
            windows that do not overlap.
        chunks: windows to use at most.
        batch_size: windows to run at once; default: as many as 2048 tokens have room for.
        precision: see `ops.Precision`.

    Raises:
        GGUFJaxError: the text is shorter than one window, an id is not in the vocabulary, the model has no tokenizer
            for a text, or an option is out of range.
    """
    options: dict[str, Any] = dict(stride=stride, chunks=chunks, batch_size=batch_size, precision=precision)
    *_, last = perplexities(model, text, ctx_size=ctx_size, **options)
    return last


def perplexities(
    model: Decoder,
    text: str | Sequence[int] | np.ndarray | Windows,
    *,
    ctx_size: int = CTX_SIZE,
    stride: int | None = None,
    chunks: int | None = None,
    batch_size: int | None = None,
    precision: Precision = "exact",
) -> Generator[Perplexity]:
    """`perplexity`, as it is known after each batch of windows; the last one is the result."""
    compilation_cache.enable()
    windows = windows_of(model, text, ctx_size=ctx_size, stride=stride, chunks=chunks)
    spec, leaves = steps.split(model, precision=precision)
    timings = Timings()
    watch = Stopwatch(timings)
    nlls = np.zeros((len(windows), windows.scored), np.float32)

    def dispatched() -> Iterator[tuple[Batch, jax.Array]]:
        for batch in windows.batches(windows.batch_size(batch_size)):
            program, options = programs.negative_log_likelihoods, dict(spec=spec, first=windows.first)
            yield batch, watch.call(program, leaves, batch.inputs, batch.targets, **options)

    for batch, found in programs.one_ahead(dispatched()):
        done = batch.start + batch.count
        nlls[batch.start : done] = np.asarray(found)[: batch.count]
        timings.prefill_s += watch.lap()
        timings.prefill_tokens += batch.count * windows.ctx_size
        yield Perplexity(nlls[:done], windows.ctx_size, windows.stride, done, len(windows), replace(timings))

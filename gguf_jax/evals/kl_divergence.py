"""Kullback-Leibler divergence of models from a base, in one pass over a text and without a file of logits.

Base and models run over the same windows, side by side, and of each scored token a few numbers are kept
(`programs.Comparison`). The statistics are llama-perplexity's, from those numbers in float64. A base may also be a file
of log-probabilities (`logits_file`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from os import PathLike
from typing import Any

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.evals import programs
from gguf_jax.evals.base import Base, Compared, FileBase, ModelBase
from gguf_jax.evals.logits_file import LogitsFile, LogitsWriter, logits_writer
from gguf_jax.evals.programs import Comparison
from gguf_jax.evals.statistics import (
    Estimate,
    covariance_of_means,
    flat,
    mean,
    of_difference,
    percentiles,
    root_mean_square,
    share,
)
from gguf_jax.evals.windows import CTX_SIZE, Batch, Windows, bos_of, windows_of
from gguf_jax.generation import Timings, compilation_cache, steps
from gguf_jax.generation.timings import Stopwatch
from gguf_jax.gguf.text import shown
from gguf_jax.models import Decoder
from gguf_jax.models.companions import Accompanied
from gguf_jax.ops import Precision

KLD_LEVELS = (100.0, 99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0, 0.1, 0.0)
"""Percentiles of the divergence that are shown; 100 and 0 are its maximum and minimum."""

DELTA_P_LEVELS = (100.0, 99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1, 0.0)


@dataclass(frozen=True)
class KLDivergence:
    """How far a model's predictions are from a base's, after some windows of a text.

    Attributes:
        name: what the model was called.
        nlls, base_nlls: `-log p` of each scored token under the model and the base, float32 `[tokens]`, in nats.
        klds: divergence of the model's distribution from the base's at each of them, float32 `[tokens]`, in nats.
        same_tops: bool `[tokens]`, whether both find the same token most likely.
        windows: windows run; `planned`: those there are.
        timings: of all models and the base together.
    """

    name: str | None
    nlls: np.ndarray = field(repr=False)
    base_nlls: np.ndarray = field(repr=False)
    klds: np.ndarray = field(repr=False)
    same_tops: np.ndarray = field(repr=False)
    ctx_size: int
    windows: int
    planned: int
    timings: Timings = field(repr=False)

    @property
    def tokens(self) -> int:
        """Scored tokens."""
        return self.nlls.size

    @property
    def complete(self) -> bool:
        return self.windows == self.planned

    @cached_property
    def log(self) -> Estimate:
        """The logarithm of the model's perplexity."""
        return mean(self.nlls)

    @cached_property
    def base_log(self) -> Estimate:
        """The logarithm of the base's perplexity."""
        return mean(self.base_nlls)

    @cached_property
    def covariance(self) -> float:
        """Of the errors of `log` and `base_log`."""
        return covariance_of_means(self.nlls, self.base_nlls)

    @property
    def perplexity(self) -> Estimate:
        return self.log.exp()

    @property
    def base_perplexity(self) -> Estimate:
        return self.base_log.exp()

    @property
    def correlation(self) -> float:
        """Of the errors of `log` and `base_log`: the closer to one, the more certain is their difference."""
        both = self.log.stderr * self.base_log.stderr
        return self.covariance / both if both else float("nan")

    @property
    def log_ratio(self) -> Estimate:
        """Logarithm of the perplexities' ratio, model to base."""
        return of_difference(self.log, self.base_log, self.covariance)

    @property
    def ratio(self) -> Estimate:
        """The perplexities' ratio, model to base."""
        return self.log_ratio.exp()

    @property
    def difference(self) -> Estimate:
        """The perplexities' difference, model less base."""
        a, b = self.perplexity, self.base_perplexity
        return of_difference(a, b, a.value * b.value * self.covariance)

    @cached_property
    def kld(self) -> Estimate:
        """The mean divergence in nats."""
        return mean(self.klds)

    @cached_property
    def kld_percentiles(self) -> Mapping[float, float]:
        return percentiles(self.klds, KLD_LEVELS)

    @cached_property
    def delta_ps(self) -> np.ndarray:
        """Probability of each scored token under the model less that under the base, float64 `[tokens]`."""
        return np.exp(-self.nlls.astype(np.float64)) - np.exp(-self.base_nlls.astype(np.float64))

    @property
    def delta_p(self) -> Estimate:
        return mean(self.delta_ps)

    @property
    def delta_p_rms(self) -> Estimate:
        return root_mean_square(self.delta_ps)

    @cached_property
    def delta_p_percentiles(self) -> Mapping[float, float]:
        return percentiles(self.delta_ps, DELTA_P_LEVELS)

    @property
    def same_top(self) -> Estimate:
        """Share of the tokens at which both find the same one most likely."""
        return share(self.same_tops)

    def as_dict(self) -> dict[str, Any]:
        """For JSON and CSV; probabilities are fractions of one."""
        seconds, run = self.timings.prefill_s, self.timings.prefill_tokens
        return flat(
            model=self.name,
            tokens=self.tokens,
            windows=self.windows,
            windows_planned=self.planned,
            ctx_size=self.ctx_size,
            perplexity=self.perplexity,
            base_perplexity=self.base_perplexity,
            log_perplexity_correlation=self.correlation,
            log_perplexity_ratio=self.log_ratio,
            perplexity_ratio=self.ratio,
            perplexity_difference=self.difference,
            kld_mean=self.kld,
            kld=self.kld_percentiles,
            delta_p_mean=self.delta_p,
            delta_p_rms=self.delta_p_rms,
            delta_p=self.delta_p_percentiles,
            same_top=self.same_top,
            seconds=seconds,
            compile_seconds=self.timings.compile_s,
            tokens_per_second=run / seconds if seconds else None,
        )


def kl_divergence(
    base: Decoder | LogitsFile | Base,
    models: Decoder | Sequence[Decoder],
    text: str | Sequence[int] | np.ndarray | Windows | None = None,
    *,
    ctx_size: int | None = None,
    chunks: int | None = None,
    batch_size: int | None = None,
    precision: Precision = "exact",
    names: Sequence[str] | None = None,
    save_logits: str | PathLike[str] | None = None,
) -> list[KLDivergence]:
    """How far models are from a base on a text.

    Args:
        base: a model, a file of log-probabilities, or what `ModelBase(model, keep=True)` made: that one runs the base
            once for several calls, for models that do not fit into memory together.
        text: a text, the ids of its tokens, or `Windows` of them; None: what the file of log-probabilities is about.
        ctx_size: tokens of a window; default: 512, or the file's.
        chunks: windows to use at most.
        batch_size: windows to run at once; default: as many as 2048 tokens have room for.
        precision: see `ops.Precision`.
        names: what to call the models.
        save_logits: a file to write the base's log-probabilities to, for llama-perplexity or for later.

    Raises:
        GGUFJaxError: a model has another vocabulary than the base, the file is about another text or other windows, or
            as `perplexity`.
        GGUFError: the file of log-probabilities is damaged, or one cannot be written.
    """
    options: dict[str, Any] = dict(ctx_size=ctx_size, chunks=chunks, batch_size=batch_size, precision=precision)
    *_, last = kl_divergences(base, models, text, names=names, save_logits=save_logits, **options)
    return last


def kl_divergences(
    base: Decoder | LogitsFile | Base,
    models: Decoder | Sequence[Decoder],
    text: str | Sequence[int] | np.ndarray | Windows | None = None,
    *,
    ctx_size: int | None = None,
    chunks: int | None = None,
    batch_size: int | None = None,
    precision: Precision = "exact",
    names: Sequence[str] | None = None,
    save_logits: str | PathLike[str] | None = None,
) -> Generator[list[KLDivergence]]:
    """`kl_divergence`, as it is known after each batch of windows; the last one is the result."""
    compilation_cache.enable()
    models = [models] if isinstance(models, Accompanied) else list(models)
    labels = list(names) if names is not None else [None] * len(models)
    if len(labels) != len(models):
        raise GGUFJaxError(f"names: expected {len(models)}, one for each model, found {len(labels)}")
    base = _base(base, precision)
    for model, name in zip(models, labels, strict=True):
        check_vocabulary(base, model, name)
    windows = _windows(base, models, text, ctx_size, chunks)
    with ExitStack() as stack:
        save = None
        if save_logits is not None:
            if not isinstance(base, ModelBase):
                raise GGUFJaxError("save_logits: expected a model as the base, found a file of log-probabilities")
            writer = stack.enter_context(logits_writer(save_logits, windows, base.vocab_size))
            save = partial(_save, writer, base)
        run = _Run(base, [steps.split(model, precision=precision) for model in models], windows, save)
        for done in run.batches(windows.batch_size(batch_size)):
            yield [run.result(i, name, done) for i, name in enumerate(labels)]


def _save(writer: LogitsWriter, base: ModelBase, rows: Any, watch: Stopwatch) -> None:
    writer.window(base.quantized(rows, watch))


class _Run:
    """One pass over the windows, and what is kept of it."""

    def __init__(self, base: Base, models: list[tuple[steps.Spec, steps.Leaves]], windows: Windows, save: Any) -> None:
        self.base, self.windows, self.save = base, windows, save
        self.specs = tuple(spec for spec, _ in models)
        self.leaves = tuple(leaves for _, leaves in models)
        self.timings = Timings()
        shape = len(models), len(windows), windows.scored
        self.base_nlls = np.zeros(shape[1:], np.float32)
        self.kept = Comparison(*(np.zeros(shape, dtype) for dtype in (np.float32, np.float32, np.bool_)))

    def result(self, model: int, name: str | None, done: int) -> KLDivergence:
        nlls, klds, same = (np.asarray(kept)[model, :done].reshape(-1) for kept in self.kept)
        base_nlls = self.base_nlls[:done].reshape(-1)
        counts = self.windows.ctx_size, done, len(self.windows)
        return KLDivergence(name, nlls, base_nlls, klds, same, *counts, replace(self.timings))

    def batches(self, size: int) -> Iterator[int]:
        """Run all windows; how many are done, after each batch."""
        watch = Stopwatch(self.timings)
        for batch, found in programs.one_ahead(self._dispatched(size, watch)):
            for number, (base_nlls, comparisons) in enumerate(found, batch.start):
                self.base_nlls[number] = base_nlls
                for i, comparison in enumerate(comparisons):
                    for kept, new in zip(self.kept, comparison, strict=True):
                        np.asarray(kept)[i, number] = new
            self.timings.prefill_s += watch.lap()
            models = len(self.specs) + isinstance(self.base, ModelBase)
            self.timings.prefill_tokens += batch.count * self.windows.ctx_size * models
            yield batch.start + batch.count

    def _dispatched(self, size: int, watch: Stopwatch) -> Iterator[tuple[Batch, list[Any]]]:
        for batch in self.windows.batches(size):
            rows = [
                watch.call(programs.hidden, leaves, batch.inputs, spec=spec, first=self.windows.first)
                for spec, leaves in zip(self.specs, self.leaves, strict=True)
            ]
            found = []
            # window by window: a program's memory is then that of one, however many run at once
            for i, base_rows in enumerate(self.base.rows(batch, self.windows.first, watch)):
                if self.save is not None:
                    self.save(base_rows, watch)
                models = Compared(self.specs, self.leaves, tuple(row[i] for row in rows))
                found.append(self.base.compare(base_rows, models, batch.targets[i], watch))
            yield batch, found


def _base(base: Decoder | LogitsFile | Base, precision: Precision) -> Base:
    if isinstance(base, LogitsFile):
        return FileBase(base)
    return ModelBase(base, precision=precision) if isinstance(base, Accompanied) else base


def _windows(base: Base, models: Sequence[Decoder], text: Any, ctx_size: int | None, chunks: int | None) -> Windows:
    if isinstance(base, ModelBase):
        if text is None:
            raise GGUFJaxError("text: expected one, as the base is a model; found none")
        return windows_of(base.model, text, ctx_size=ctx_size or CTX_SIZE, chunks=chunks)
    assert isinstance(base, FileBase)
    held = base.file.windows
    if ctx_size not in (None, held.ctx_size):
        raise GGUFJaxError(f"ctx_size: expected {held.ctx_size} as in {base.file.name}, found {ctx_size}")
    if not models:
        return held
    if text is not None:
        asked = windows_of(models[0], text, ctx_size=held.ctx_size, chunks=len(held))
        differ = np.nonzero(asked.tokens[: len(held.tokens)] != held.tokens[: len(asked.tokens)])[0]
        if len(differ) or len(asked) < len(held):
            where = f"token {differ[0]}" if len(differ) else f"{len(asked)} windows of it"
            raise GGUFJaxError(f"text: expected the one that {base.file.name} is about ({len(held)} windows), "
                               f"found another from {where} on")  # fmt: skip
    starts = held.starts if chunks is None else held.starts[:chunks]
    return replace(held, starts=starts, bos=bos_of(models[0].tokenizer))


def check_vocabulary(base: Base, model: Decoder, name: str | None) -> None:
    """Raise GGUFJaxError where tokens of a model are not those of the base: their number, or how they are spelled."""
    label = f"{name}: " if name else ""
    if model.config.vocab_size != base.vocab_size:
        raise GGUFJaxError(
            f"{label}vocabulary: expected {base.vocab_size} tokens as in {base.name}, found {model.config.vocab_size}"
        )
    key = "tokenizer.ggml.tokens"
    ours, theirs = (None if m is None or m.metadata is None else m.metadata.get(key) for m in (model, base.model))
    if ours is None or theirs is None or ours == theirs:
        return
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    found = [shown(tokens[at]) if at < len(tokens) else "nothing" for tokens in (theirs, ours)]
    raise GGUFJaxError(f"{label}vocabulary: expected token {at} to be {found[0]} as in {base.name}, found {found[1]}")

"""What each tensor of a quantized file costs: a model's divergence when that tensor alone is taken from the file.

Everything from the file taken together is run along with the single tensors (`replacing`). That need not be the sum of
them: errors may add up, cancel, or meet a model that another error has led astray.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from gguf_jax import gguf
from gguf_jax.api import load
from gguf_jax.errors import GGUFJaxError, Unsupported
from gguf_jax.evals import programs
from gguf_jax.evals.kl_divergence import KLDivergence
from gguf_jax.evals.replacing import Donor, Replacing, Scored
from gguf_jax.evals.statistics import Estimate, flat, mean
from gguf_jax.evals.windows import CTX_SIZE, Windows, windows_of
from gguf_jax.formats import GGMLType
from gguf_jax.generation import Timings, compilation_cache
from gguf_jax.gguf.text import shown
from gguf_jax.models import Decoder
from gguf_jax.models.companions import Accompanied
from gguf_jax.ops import Precision

MIB = 2**20


@dataclass(frozen=True)
class Replacement:
    """What it costs to take a tensor, or several, from the other file.

    Attributes:
        name: the tensor's.
        types: in the model and in the other file; None of several tensors.
        nbytes: in the model's file and in the other.
        divergence: from the model; None where the bytes are the same, so that nothing was run.
    """

    name: str
    types: tuple[GGMLType, GGMLType] | None
    nbytes: tuple[int, int]
    divergence: KLDivergence | None = field(repr=False)

    @property
    def kld(self) -> Estimate:
        """The mean divergence in nats."""
        return Estimate(0.0, 0.0) if self.divergence is None else self.divergence.kld

    @property
    def kld_p99(self) -> float:
        """What the divergence stays below at 99 of 100 tokens."""
        return 0.0 if self.divergence is None else self.divergence.kld_percentiles[99.0]

    @property
    def same_top(self) -> Estimate:
        """Share of the tokens at which both find the same one most likely."""
        return Estimate(1.0, 0.0) if self.divergence is None else self.divergence.same_top

    @property
    def log_ratio(self) -> Estimate:
        """Logarithm of the perplexities' ratio, with the replacement to without it."""
        return Estimate(0.0, 0.0) if self.divergence is None else self.divergence.log_ratio

    @property
    def bytes_saved(self) -> int:
        return self.nbytes[0] - self.nbytes[1]

    @property
    def kld_per_mib(self) -> float | None:
        """Divergence for each MiB that is saved; None where none is."""
        return MIB * self.kld.value / self.bytes_saved if self.bytes_saved > 0 else None

    def as_dict(self) -> dict[str, Any]:
        """Figures for JSON and CSV."""
        return flat(
            kld_mean=self.kld,
            kld_p99=self.kld_p99,
            same_top=self.same_top,
            log_perplexity_ratio=self.log_ratio,
            bytes_saved=self.bytes_saved,
            kld_per_mib=self.kld_per_mib,
            windows=self.divergence.windows if self.divergence is not None else 0,
        )


@dataclass(frozen=True)
class Sensitivity:
    """What is known of all tensors that were asked about.

    Attributes:
        tensors: those that have been run, and those whose bytes are the same; in the order of the other file.
        together: all of them replaced at once; None as long as that has not been run, or if none differs.
        differing: tensors that there are to run.
        ctx_size: tokens of a window.
        planned: windows that there are to run.
        done: share of the work that is done.
        timings: of everything that was run.
    """

    tensors: tuple[Replacement, ...]
    together: Replacement | None
    differing: int
    ctx_size: int
    planned: int
    done: float
    timings: Timings = field(repr=False)

    @property
    def measured(self) -> tuple[Replacement, ...]:
        """The tensors that have been run."""
        return tuple(each for each in self.tensors if each.divergence is not None)

    @property
    def windows(self) -> int:
        """Windows that everything has been run on."""
        runs = [*self.measured, *([self.together] if self.together else [])]
        if len(runs) <= self.differing:
            return 0 if self.differing else self.planned
        return min(each.divergence.windows for each in runs if each.divergence is not None)

    @property
    def complete(self) -> bool:
        return self.windows == self.planned

    @cached_property
    def sum_of_single(self) -> Estimate:
        """The sum of the divergences of single tensors, over the windows that all of those in `measured` have seen. The
        error is that of the sum, since a token that is hard for one is often hard for all."""
        klds = [each.divergence.klds for each in self.measured if each.divergence is not None]
        if not klds:
            return Estimate(0.0, 0.0)
        count = min(map(len, klds))
        return mean(np.array([each[:count] for each in klds], np.float64).sum(axis=0))

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is about all tensors."""
        return {
            "ctx_size": self.ctx_size,
            "windows": self.windows,
            "windows_planned": self.planned,
            "together": None if self.together is None else self.together.as_dict(),
            **flat(kld_sum_of_single=self.sum_of_single),
            "seconds": self.timings.prefill_s,
            "compile_seconds": self.timings.compile_s,
            "compiled": self.timings.compiled,
        }


def sensitivity(
    a: Decoder | str | os.PathLike[str] | gguf.GGUFFile,
    b: str | os.PathLike[str] | gguf.GGUFFile,
    text: str | Sequence[int] | np.ndarray | Windows,
    *,
    tensors: str | None = None,
    ctx_size: int = CTX_SIZE,
    chunks: int | None = None,
    batch_size: int | None = None,
    precision: Precision = "exact",
) -> Sensitivity:
    """How far each tensor of a file alone takes a model from what it predicts, and all of them together.

    Args:
        a: the model, or its file; as a rule one in F16.
        b: a file of the same model in other types. Its tensors are read when it is their turn.
        text: a text, the ids of its tokens, or `Windows` of them.
        tensors: a regular expression, searched for in names; default: all tensors.
        ctx_size: tokens of a window.
        chunks: windows to use at most.
        batch_size: windows to run at once; default: as many as 2048 tokens have room for.
        precision: see `ops.Precision`.

    Raises:
        GGUFJaxError: the files are not of one vocabulary or not of the same tensors and shapes, no tensor's name
            matches, or as `perplexity`.
        GGUFError: as `load`.
    """
    options: dict[str, Any] = dict(ctx_size=ctx_size, chunks=chunks, batch_size=batch_size, precision=precision)
    *_, last = sensitivities(a, b, text, tensors=tensors, **options)
    return last


def sensitivities(
    a: Decoder | str | os.PathLike[str] | gguf.GGUFFile,
    b: str | os.PathLike[str] | gguf.GGUFFile,
    text: str | Sequence[int] | np.ndarray | Windows,
    *,
    tensors: str | None = None,
    ctx_size: int = CTX_SIZE,
    chunks: int | None = None,
    batch_size: int | None = None,
    precision: Precision = "exact",
) -> Generator[Sensitivity]:
    """`sensitivity`, as it is known after each tensor of each batch of windows; the last one is the result. What is
    wrong with the arguments is said at once."""
    compilation_cache.enable()
    model = a if isinstance(a, Accompanied) else load(a)
    if not isinstance(model, Decoder):  # its blocks are run one by one
        found = model.config.architecture
        raise Unsupported(f"sensitivity: expected a decoder whose blocks attend, found one of another kind ({found})")
    with ExitStack() as stack:
        file = b if isinstance(b, gguf.GGUFFile) else stack.enter_context(gguf.read(b))
        donor = Donor(file)
        pattern = _pattern(tensors)
        names = [name for name in donor.names if pattern.search(name)]
        if not names:
            raise GGUFJaxError(f"tensors: expected a pattern that some tensor's name has, found {shown(tensors)}")
        replacing = Replacing(model, donor, names, precision)
        windows = windows_of(model, text, ctx_size=ctx_size, chunks=chunks)
        size = windows.batch_size(batch_size)
        return _Run(replacing, windows).results(size, stack.pop_all())


def _pattern(tensors: str | None) -> re.Pattern[str]:
    try:
        return re.compile(tensors or "")
    except (re.error, RecursionError, OverflowError) as error:
        raise GGUFJaxError(f"tensors: expected a regular expression, found {shown(tensors)}: {error}") from None


class _Kept(NamedTuple):
    """Of one replacement, what is kept of each scored token, `[windows, scored]`; as in `KLDivergence`."""

    nlls: np.ndarray
    base_nlls: np.ndarray
    klds: np.ndarray
    same_tops: np.ndarray


class _Run:
    """One pass over the windows, and what is kept of it."""

    def __init__(self, replacing: Replacing, windows: Windows) -> None:
        self.replacing, self.windows = replacing, windows
        self.kept: dict[str | None, _Kept] = {}
        self.done: dict[str | None, int] = {}

    def results(self, size: int, stack: ExitStack) -> Generator[Sensitivity]:
        """Run everything, `size` windows at a time; what is known after each replacement. Closes `stack`."""
        with stack:
            if not self.replacing.differing:
                yield self._known(1.0)
                return
            done, work = 0, self.replacing.work() * -(-len(self.windows) // size)
            watch = self.replacing.watch
            watch.lap()
            for found in programs.one_ahead(self.replacing.scored(self.windows, size)):
                self._keep(found)
                watch.timings.prefill_s += watch.lap()
                done += self.replacing.work_of(found.name)
                yield self._known(done / work)

    def _keep(self, found: Scored) -> None:
        windows, scored = len(self.windows), self.windows.scored
        if found.name not in self.kept:
            dtypes = np.float32, np.float32, np.float32, np.bool_
            self.kept[found.name] = _Kept(*(np.zeros((windows, scored), dtype) for dtype in dtypes))
        nlls, klds, same_tops = found.comparison
        at, count = found.batch.start, found.batch.count
        for kept, new in zip(self.kept[found.name], (nlls, found.base_nlls, klds, same_tops), strict=True):
            kept[at : at + count] = np.asarray(new).reshape(-1, scored)[:count]
        self.done[found.name] = at + count

    def _known(self, done: float) -> Sensitivity:
        facts, together = self.replacing.tensors, None
        if None in self.kept:
            before, after = (sum(fact.nbytes[i] for fact in facts.values()) for i in range(2))
            together = Replacement("all", None, (before, after), self._divergence(None))
        tensors = [
            Replacement(name, fact.types, fact.nbytes, None if fact.same_bytes else self._divergence(name))
            for name, fact in facts.items()
            if fact.same_bytes or name in self.kept
        ]
        counts = len(self.replacing.differing), self.windows.ctx_size, len(self.windows)
        return Sensitivity(tuple(tensors), together, *counts, done, self._timings())

    def _divergence(self, name: str | None) -> KLDivergence:
        done, kept = self.done[name], self.kept[name]
        nlls, base_nlls, klds, same_tops = (array[:done].reshape(-1) for array in kept)
        counts = self.windows.ctx_size, done, len(self.windows)
        return KLDivergence(name or "all", nlls, base_nlls, klds, same_tops, *counts, self._timings())

    def _timings(self) -> Timings:
        return replace(self.replacing.watch.timings)

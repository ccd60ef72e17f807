"""What models are compared with: another model, or a file of its log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from gguf_jax.evals import programs
from gguf_jax.evals.logits_file import LogitsFile
from gguf_jax.evals.programs import Comparison, Quantized
from gguf_jax.evals.windows import Batch
from gguf_jax.generation import steps
from gguf_jax.generation.steps import Leaves, Spec
from gguf_jax.generation.timings import Stopwatch
from gguf_jax.models import Decoder
from gguf_jax.ops import Precision

Scores = tuple[jax.Array, tuple[Comparison, ...]]
"""`-log p(target)` of the base, `[scored]`, and how each model compares with it."""


class Compared(NamedTuple):
    """Models at one window: what they are, their leaves, and hidden states `[scored, E]` of each."""

    specs: tuple[Spec, ...]
    leaves: tuple[Leaves, ...]
    rows: tuple[jax.Array, ...]


class Base(Protocol):
    """`rows` gives something for each window of a batch, from which `compare` makes numbers."""

    name: str
    vocab_size: int
    model: Decoder | None

    def rows(self, batch: Batch, first: int, watch: Stopwatch) -> Iterator[Any]: ...

    def compare(self, base_rows: Any, models: Compared, targets: np.ndarray, watch: Stopwatch) -> Scores: ...


class ModelBase:
    """A model as the base.

    Args:
        keep: keep the hidden states that its logits are made of, so that a second pass over the same windows need not
            run the model again: 4 bytes times the embedding's length for each scored token, on the host.
    """

    def __init__(
        self, model: Decoder, *, keep: bool = False, precision: Precision = "exact", name: str = "the base"
    ) -> None:
        self.model: Decoder | None = model
        self.name, self.vocab_size = name, model.config.vocab_size
        self._spec, self._leaves = steps.split(model, precision=precision)
        self._kept: dict[tuple[int, bytes], np.ndarray] | None = {} if keep else None

    def rows(self, batch: Batch, first: int, watch: Stopwatch) -> Iterator[jax.Array | np.ndarray]:
        """Hidden states `[scored, E]` of each window."""
        key = first, batch.inputs.tobytes()
        if self._kept is not None and key in self._kept:
            yield from self._kept[key]
            return
        found = watch.call(programs.hidden, self._leaves, batch.inputs, spec=self._spec, first=first)[: batch.count]
        if self._kept is not None:
            self._kept[key] = np.asarray(found)
        yield from found

    def compare(self, base_rows: jax.Array, models: Compared, targets: np.ndarray, watch: Stopwatch) -> Scores:
        inputs = self._leaves, base_rows, models.leaves, models.rows, targets
        return watch.call(programs.compare, *inputs, base_spec=self._spec, specs=models.specs)

    def quantized(self, base_rows: jax.Array, watch: Stopwatch) -> Quantized:
        return watch.call(programs.quantized_log_probabilities, self._leaves, base_rows, spec=self._spec)


class FileBase:
    """A file of log-probabilities as the base; of its batches only the windows' numbers are looked at."""

    model: Decoder | None = None

    def __init__(self, file: LogitsFile) -> None:
        self.file = file
        self.name, self.vocab_size = file.name, file.vocab_size

    def rows(self, batch: Batch, first: int, watch: Stopwatch) -> Iterator[Quantized]:
        for number in range(batch.start, batch.start + batch.count):
            yield self.file.window(number)

    def compare(self, base_rows: Quantized, models: Compared, targets: np.ndarray, watch: Stopwatch) -> Scores:
        inputs = base_rows, models.leaves, models.rows, targets
        return watch.call(programs.compare_with_quantized, *inputs, specs=models.specs)

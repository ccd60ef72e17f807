"""What an experiment is: a config, which names its kind, and what that kind makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from experiments.reader import ROOT, Reader
from experiments.results import Row
from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import printable

KINDS = {"models": "experiments.models", "encoders": "experiments.encoders"}
"""Kind -> the module with its `settings`, `cases`, `bench` and `report`. Imported when a config asks for it."""

CONFIGS, RESULTS = ROOT / "configs", ROOT / "experiments" / "results"


class Case(Protocol):
    """One thing to measure: a frozen dataclass of names and numbers that the config has, so that cases are known before
    a file is read. `str` is how it is shown, and what --only looks at."""

    def __str__(self) -> str: ...


Tell = Callable[[float], object]
"""Told which share of a case is done."""


class Bench(Protocol):
    """Measures cases one after the other; opened for one run, since it may hold a model and files."""

    def refused(self, case: Any) -> str | None:
        """Why this case cannot be measured, if so."""
        ...

    def identity(self, case: Any) -> dict[str, Any]:
        """Digests and numbers that determine the result, beside the case's names."""
        ...

    def measure(self, case: Any, tell: Tell) -> dict[str, Any]:
        """The figures, in JSON's types."""
        ...

    def summary(self, case: Any, found: dict[str, Any]) -> str:
        """The most important ones, for people."""
        ...


class Kind(Protocol):
    """A module of `KINDS`.

    settings: reads a config, everything but `kind` and `question`.
    cases: all that is to be measured, in an order in which a bench has little to do twice.
    bench: opens what is needed. The rows are those that there are, and grow while it works.
    report: writes tables and plots of the rows into a folder; the files.
    """

    def settings(self, reader: Reader) -> Any: ...
    def cases(self, settings: Any) -> Sequence[Any]: ...
    def bench(self, settings: Any, rows: Mapping[str, Row]) -> AbstractContextManager[Bench]: ...
    def report(self, settings: Any, rows: Sequence[Row], folder: Path) -> list[Path]: ...


@dataclass(frozen=True)
class Experiment:
    """A config that was read.

    Attributes:
        name: the file's, without .toml.
        question: what it is to answer.
        cases: what is to be measured.
        folder: where results go.
    """

    name: str
    question: str
    path: Path
    kind: Kind
    settings: Any
    cases: tuple[Any, ...]
    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results.jsonl"

    def chosen(self, rows: Sequence[Row]) -> list[Row]:
        """The last row of each case that the config has, in the config's order: a config that was changed leaves rows
        of what it had before."""
        latest = {_key(row.of.get("case")): row for row in rows}
        keys = (_key(asdict(case)) for case in self.cases)
        return [latest[key] for key in keys if key in latest]


def _key(case: Any) -> str:
    return repr(sorted(case.items())) if isinstance(case, dict) else repr(case)


def read_experiment(path: Path, results: Path | None = None) -> Experiment:
    """
    Raises:
        GGUFJaxError: the config is not as it must be; one line.
    """
    reader = Reader.open(path)
    kind: Any = import_module(KINDS[reader.choice("kind", tuple(KINDS))])
    question = reader.take("question", str)
    settings = kind.settings(reader)
    reader.end()
    cases = tuple(kind.cases(settings))
    if not cases:
        raise GGUFJaxError(f"{printable(str(path))}: expected something to measure, found none")
    return Experiment(path.stem, question, path, kind, settings, cases, (results or RESULTS) / path.stem)

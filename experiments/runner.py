"""`run`: measures the cases of an experiment that no row is about yet, and reports. `report` does the second alone."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from experiments import machine, plots
from experiments.experiment import Bench, Experiment
from experiments.reader import ROOT
from experiments.results import Results, Row, key_of, rounded
from gguf_jax.cli.activity import Activity
from gguf_jax.cli.output import say, write
from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import listed, shown


@dataclass(frozen=True)
class Planned:
    """A case and what a row of it would be known by."""

    case: Any
    of: dict[str, Any]

    @property
    def key(self) -> str:
        return key_of(self.of)


def run(
    experiment: Experiment,
    *,
    only: str | None = None,
    again: bool = False,
    dry_run: bool = False,
    most: int | None = None,
) -> None:
    """Measure what is missing, append a row for each case, and report.

    Args:
        only: a regular expression that is to be found in a case's text.
        again: measure what there is too.
        dry_run: say what would be measured.
        most: stop after so many cases.

    Raises:
        GGUFJaxError: one line; what was measured before stays.
    """
    chosen = matching(experiment.cases, only)
    results = opened(experiment)
    with experiment.kind.bench(experiment.settings, results.by_key) as bench:
        todo, refused = planned(bench, chosen)
        if not again:
            todo = [each for each in todo if each.key not in results.by_key]
        for reason in dict.fromkeys(reason for _, reason in refused):
            cases = [f"({case})" for case, own in refused if own == reason]
            say(f"left out: {listed(cases, 3)}: {reason}")
        there = len(chosen) - len(refused) - len(todo)
        say(f"{experiment.name}: {len(todo)} cases to measure, {there} there, {len(refused)} left out")
        todo = todo[:most]
        if dry_run:
            write("".join(f"{each.case}\n" for each in todo))
            return
        plots.check_installed()
        with alone(experiment):
            _measured(experiment, bench, results, todo)
    if results.rows:
        report(experiment)


def report(experiment: Experiment) -> None:
    """Tables and plots of the rows that there are."""
    plots.check_installed()
    results = opened(experiment)
    rows = experiment.chosen(results.rows)
    if not rows:
        raise GGUFJaxError(f"{experiment.name}: expected results, found none; `run` measures")
    experiment.folder.mkdir(parents=True, exist_ok=True)
    files = experiment.kind.report(experiment.settings, rows, experiment.folder)
    say(f"{experiment.name}: {len(rows)} of {len(experiment.cases)} cases in {', '.join(path.name for path in files)}")


@contextmanager
def alone(experiment: Experiment) -> Iterator[None]:
    """Within, no other run appends to the same results.

    Raises:
        GGUFJaxError: one does.
    """
    name = hashlib.sha256(os.fsencode(experiment.results.resolve())).hexdigest()[:16]
    try:
        with FileLock(os.path.join(tempfile.gettempdir(), f"experiment-{name}.lock"), timeout=0):
            yield
    except Timeout:
        raise GGUFJaxError(f"{experiment.name}: expected no other run of it, found one that is under way") from None


def opened(experiment: Experiment) -> Results:
    results = Results(experiment.results)
    if results.dropped:
        say(f"{experiment.name}: the last row was only half written, {results.dropped} bytes of it; it is left out")
    return results


def matching(cases: Sequence[Any], only: str | None) -> list[Any]:
    if only is None:
        return list(cases)
    try:
        pattern = re.compile(only)
    except re.error as error:
        raise GGUFJaxError(f"--only: expected a regular expression, found {shown(only)}: {error}") from None
    found = [case for case in cases if pattern.search(str(case))]
    if not found:
        raise GGUFJaxError(f"--only: expected something that is found in a case such as {str(cases[0])!r}, "
                           f"found {shown(only)}")  # fmt: skip
    return found


def planned(bench: Bench, cases: Iterable[Any]) -> tuple[list[Planned], list[tuple[Any, str]]]:
    """Cases with what they are known by, and those that cannot be measured with the reason."""
    todo, refused = [], []
    for case in cases:
        reason = bench.refused(case)
        if reason is not None:
            refused.append((case, reason))
        else:
            of = {"case": asdict(case), "gguf_jax": machine.code_version(), **bench.identity(case)}
            todo.append(Planned(case, of))
    return todo, refused


def _measured(experiment: Experiment, bench: Bench, results: Results, todo: Sequence[Planned]) -> None:
    if not todo:
        return
    began = time.perf_counter()
    command = f"python -m experiments run {shown_path(experiment.path)}"
    with Activity(experiment.name, len(todo)) as activity:
        for number, each in enumerate(todo):
            case_began = time.perf_counter()

            def tell(share: float, number: int = number, case: Any = each.case) -> None:
                done = number + min(share, 0.999)  # a bar at its end would mean the end of all
                activity.describe(f"{case}{remaining(time.perf_counter() - began, done, len(todo))}")
                activity.update(done, len(todo))

            tell(0.0)
            found = rounded(bench.measure(each.case, tell))
            seconds = time.perf_counter() - case_began
            by = machine.described() | {"command": command, "date": date.today().isoformat()}
            results.append(Row(each.key, each.of, found, by | {"seconds": round(seconds, 2)}))
            left = remaining(time.perf_counter() - began, number + 1, len(todo))
            line = (
                f"[{number + 1}/{len(todo)}] {each.case}: {bench.summary(each.case, found)} ({seconds:.1f} s{left})\n"
            )
            activity.clear_for(lambda line=line: write(line))


def remaining(seconds: float, done: float, total: float) -> str:
    """How long the rest will take if it goes on as it went."""
    if done < 1 or done >= total:
        return ""
    left = seconds / done * (total - done)
    return f", {left / 60:.0f} min left" if left >= 90 else f", {left:.0f} s left"


def shown_path(path: Path) -> str:
    """From the repository on, and of a config that lies elsewhere only its name: rows are published."""
    absolute = path.resolve()
    return absolute.relative_to(ROOT).as_posix() if absolute.is_relative_to(ROOT) else absolute.name

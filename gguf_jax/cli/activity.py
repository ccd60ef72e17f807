"""Progress on stderr for whatever takes longer than a second; nothing when stderr is no terminal."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

PATIENCE = 1.0
"""Seconds before a bar appears: short work should not flicker."""


class Activity:
    """`with Activity("loading", total_bytes) as activity: activity.advance(n)`; the bar pulses without a total."""

    def __init__(self, what: str, total: float | None = None, *, is_bytes: bool = False) -> None:
        amount = DownloadColumn() if is_bytes else TaskProgressColumn()
        columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
        if total is not None:
            columns.insert(2, amount)
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(what, total=total)
        self._timer = threading.Timer(PATIENCE, self._progress.start)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.stop()

    def advance(self, amount: float) -> None:
        self._progress.advance(self._task, amount)

    def update(self, done: float, total: float) -> None:
        self._progress.update(self._task, completed=done, total=total)

    def stop(self) -> None:
        """Take the bar away; may be called twice."""
        self._timer.cancel()
        if self._timer.ident is not None and self._timer is not threading.current_thread():
            self._timer.join()  # else it could start the bar after we stop it
        if self._progress.live.is_started:  # stopping one that never started prints an empty line
            self._progress.stop()

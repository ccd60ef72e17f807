"""Progress on stderr for whatever takes longer than a second; nothing when stderr is no terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from gguf_jax.cli.output import is_terminal

PATIENCE = 1.0
"""Seconds before a bar appears: short work should not flicker."""


class Activity:
    """`with Activity("loading", total_bytes) as activity: activity.advance(n)`; the bar pulses without a total.

    Where the activity goes on after its last unit of work, the bar pulses again and says what follows, `then`.
    """

    def __init__(
        self, what: str, total: float | None = None, *, then: str | None = None, is_bytes: bool = False
    ) -> None:
        amount = DownloadColumn() if is_bytes else TaskProgressColumn()
        columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
        if total is not None:
            columns.insert(2, amount)
        self._what, self._then = what, then or what
        self._done, self._total = 0.0, total
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(what, total=total)
        self._timer = threading.Timer(PATIENCE, self._progress.start)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        if is_terminal(sys.stderr):
            self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.stop()

    def advance(self, amount: float) -> None:
        """Count work towards the total that the activity was made with."""
        if self._total is not None:
            self.update(self._done + amount, self._total)

    def update(self, done: float, total: float) -> None:
        self._done, self._total = done, total
        if done < total:
            self._progress.update(self._task, description=self._what, completed=done, total=total)
            return
        # A bar at its end looks stuck. rich takes `total=None` in an update for "as it was", hence a new task.
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(self._then, total=None)

    def describe(self, what: str) -> None:
        """Say what is going on now."""
        self._what = what
        self._progress.update(self._task, description=what)

    def clear_for(self, work: Callable[[], None]) -> None:
        """Do `work`, which prints, while the bar is out of the way."""
        live = self._progress.live
        showing = live.is_started
        if showing:
            self._progress.stop()
        work()
        if showing:
            self._progress.start()

    def stop(self) -> None:
        """Take the bar away; may be called twice."""
        self._timer.cancel()
        if self._timer.ident is not None and self._timer is not threading.current_thread():
            self._timer.join()  # else it could start the bar after we stop it
        if self._progress.live.is_started:  # stopping one that never started prints an empty line
            self._progress.stop()

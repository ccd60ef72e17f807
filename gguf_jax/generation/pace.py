"""`Pace`: whether a model is so fast that the calls of its programs count."""

from __future__ import annotations

import time


class Pace:
    """Whether tokens come faster than calls are worth: looked at by the clock, since only it knows all that counts."""

    FAST = 0.005
    """Seconds for a token of all slots."""
    ENOUGH = 8
    """Steps in a row that nothing else was done in, until one knows."""

    def __init__(self) -> None:
        self.fast = False
        self._last: float | None = None
        self._spent: list[float] = []

    def lap(self, tokens: int) -> None:
        """Called after each step; `tokens` is how many it drew of each slot, 0 if it did anything else."""
        now = time.perf_counter()
        if self._last is not None and tokens:
            self._spent.append((now - self._last) / tokens)
            if len(self._spent) == self.ENOUGH:
                self.fast, self._spent = sorted(self._spent)[self.ENOUGH // 2] < self.FAST, []
        self._last = now if tokens else None

"""`Figures`: what a server has done since it was started, and how fast it is now."""

from __future__ import annotations

import collections
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from gguf_jax.generation import Request


@dataclass
class Figures:
    """Totals, of which the seconds are requests' own, as llama-server counts them: those of several that are answered
    at once add up to more than have passed. Written by the worker's thread alone, in between two steps.

    Attributes:
        prompt_tokens, prompt_cached: tokens of prompts that were run, and that a cache held already.
        prompt_seconds: from a request's arrival in its slot until its first token.
        drawn, drawn_seconds: tokens of answers, and the time from the first to the last.
        answered: requests that came to their end.
        steps, busy: of the scheduler that drew something, and the slots that it was for in all of them.
        longest: sequence, in tokens.
        guessed, accepted: tokens that speculation proposed, and those that were right.
    """

    prompt_tokens: int = 0
    prompt_cached: int = 0
    prompt_seconds: float = 0.0
    drawn: int = 0
    drawn_seconds: float = 0.0
    answered: int = 0
    steps: int = 0
    busy: int = 0
    longest: int = 0
    guessed: int = 0
    accepted: int = 0
    _began: dict[Request, float] = field(default_factory=dict)
    _first: dict[Request, float] = field(default_factory=dict)

    def begin(self, request: Request) -> None:
        self._began[request] = time.perf_counter()

    def step(self, events: Collection[tuple[Request, int]]) -> None:
        """What a step has drawn: tokens with whose they are, one or several of each request."""
        self.steps += bool(events)
        self.busy += len({request for request, _ in events})

    def draw(self, request: Request) -> None:
        """A token of it has become known."""
        self.drawn += 1
        now = time.perf_counter()
        if request in self._first:
            return
        self._first[request] = now
        self.prompt_tokens += len(request.prompt) - request.reused
        self.prompt_cached += request.reused
        self.prompt_seconds += now - self._began.get(request, now)

    def end(self, request: Request) -> None:
        """It is over, whoever has ended it."""
        self._began.pop(request, None)
        first = self._first.pop(request, None)
        if first is not None:
            self.drawn_seconds += time.perf_counter() - first
            self.longest = max(self.longest, len(request.prompt) + len(request.tokens))
            self.guessed += request.guessed
            self.accepted += request.accepted


class Rate:
    """How fast a number grows, over the last seconds in which somebody looked.

    Args:
        seconds: that it looks back, if it is asked as often.
    """

    def __init__(self, seconds: float = 3.0) -> None:
        self._seconds = seconds
        self._seen: collections.deque[tuple[float, int]] = collections.deque()

    def of(self, value: int, now: float) -> float:
        """A second, up to now; 0 at first, and after the number has fallen: it then counts something new."""
        if self._seen and value < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, value))
        while len(self._seen) > 2 and self._seen[1][0] <= now - self._seconds:
            self._seen.popleft()
        then, before = self._seen[0]
        return (value - before) / (now - then) if now > then else 0.0

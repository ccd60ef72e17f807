"""Where a generation's time went, with compilation told apart from running."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax


@dataclass
class Timings:
    """Seconds and tokens of one generation. `compile_s` is what it took to have the programs: to trace them, and to
    compile them or read them from the compilation cache; `compiled` counts those that were not there. `prefill_s` and
    `decode_s` do not hold it; `decode_s` runs from the first token to the last, what the caller did between them
    included, since the next step runs meanwhile. `guessed_tokens` are those that speculation proposed, and
    `accepted_tokens` those of them that were right."""

    compile_s: float = 0.0
    compiled: int = 0
    prefill_s: float = 0.0
    prefill_tokens: int = 0
    decode_s: float = 0.0
    decode_tokens: int = 0
    reused_tokens: int = 0
    guessed_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def prefill_per_second(self) -> float:
        return self.prefill_tokens / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_per_second(self) -> float:
        return self.decode_tokens / self.decode_s if self.decode_s else 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "prefill_per_second": self.prefill_per_second,
            "decode_per_second": self.decode_per_second,
        }


class _CompileCounter:
    """Counts the programs that JAX made ready in this process, and of them those that the compilation cache held. JAX
    tells listeners of each; they cannot be taken back, so there is one for the process, made when first asked for."""

    instance: _CompileCounter | None = None

    def __init__(self) -> None:
        self.count = self.cached = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        jax.monitoring.register_event_listener(self._listen_to_cache)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        # of a program from the cache too, whatever its name says
        self.count += event == "/jax/core/compile/backend_compile_duration"

    def _listen_to_cache(self, event: str, **_: Any) -> None:
        self.cached += event == "/jax/compilation_cache/cache_hits"

    @classmethod
    def get(cls) -> _CompileCounter:
        if cls.instance is None:
            cls.instance = cls()
        return cls.instance


class Stopwatch:
    """Times calls of compiled programs. JAX returns from a call before the result is there, unless it had to compile:
    then the call's own time is the compilation's."""

    def __init__(self, timings: Timings) -> None:
        self.timings = timings
        self._counter = _CompileCounter.get()
        self._mark = time.perf_counter()

    def call(self, program: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a program; if it was not ready, the call's time goes to `compile_s` and out of the running phase."""
        before, cached, start = self._counter.count, self._counter.cached, time.perf_counter()
        result = program(*args, **kwargs)
        if self._counter.count != before:
            spent = time.perf_counter() - start
            self.timings.compile_s += spent
            self.timings.compiled += self._counter.count - before - (self._counter.cached - cached)
            self._mark += spent
        return result

    def lap(self) -> float:
        """Seconds since the last lap, without compilation."""
        now = time.perf_counter()
        spent, self._mark = now - self._mark, now
        return max(0.0, spent)

"""`ScoreTable`: the logits behind the tokens of a sequence, as far as they were computed."""

from __future__ import annotations

import jax
import numpy as np

from gguf_jax.errors import GGUFJaxError

MOST_PENDING = 64
"""Rows that may stay on the device before they are fetched."""


class ScoreTable:
    """Rows of logits, float32 `[V]`, by the index of the token that they stand behind.

    A row comes to the host when somebody asks; memory grows with the rows that were put in, not with the context.
    """

    def __init__(self, vocab_size: int, limit: int) -> None:
        self._vocab_size, self._limit = vocab_size, limit
        self._rows = np.zeros((0, vocab_size), np.float32)
        self._known = np.zeros(limit, bool)
        self._pending: list[tuple[int, int, jax.Array]] = []

    def put(self, start: int, count: int, rows: jax.Array) -> None:
        """The first `count` of `rows [>= count, V]` stand behind the tokens from index `start` on."""
        self._pending.append((start, count, rows))
        self._known[start : start + count] = True
        if sum(count for _, count, _ in self._pending) > MOST_PENDING:
            self._fetch()

    def forget(self, start: int) -> None:
        """What stands behind the tokens from `start` on is no longer true."""
        self._pending = [(at, min(n, start - at), rows) for at, n, rows in self._pending if at < start]
        stale = start + np.flatnonzero(self._known[start : len(self._rows)])
        self._rows[stale] = 0
        self._known[start:] = False

    def has(self, index: int) -> bool:
        return bool(self._known[index])

    def row(self, index: int) -> np.ndarray:
        """The logits `[V]` behind the token at `index`. Raises GGUFJaxError where they were not kept."""
        if not (0 <= index < self._limit and self._known[index]):
            raise GGUFJaxError(f"scores: expected a token whose logits were kept (logits_all=True), found {index}")
        return self.dense(index + 1)[index]

    def dense(self, count: int) -> np.ndarray:
        """The first rows, float32 `[count, V]`; zeros where they are not known. Not a copy."""
        self._fetch()
        self._grow(count)
        return self._rows[:count]

    def known(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the first `count` rows those that are known: indices `[F]`, and a copy of them `[F, V]`."""
        rows = self.dense(count)
        at = np.flatnonzero(self._known[:count])
        return at, rows[at]

    def _fetch(self) -> None:
        pending, self._pending = self._pending, []
        for start, count, rows in pending:
            self._grow(start + count)
            self._rows[start : start + count] = np.asarray(rows)[:count]

    def _grow(self, count: int) -> None:
        if count <= len(self._rows):
            return
        # zeros cost no memory before something is written to them, so that only rows that are known are copied
        larger = np.zeros((min(self._limit, max(count, 2 * len(self._rows))), self._vocab_size), np.float32)
        known = np.flatnonzero(self._known[: len(self._rows)])
        larger[known] = self._rows[known]
        self._rows = larger

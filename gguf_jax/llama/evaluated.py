"""`Evaluated`: one sequence and its cache, which is evaluated, cut short, saved and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import steps
from gguf_jax.generation.setting import Setting
from gguf_jax.llama import programs
from gguf_jax.llama.saved_cache import restored, saved
from gguf_jax.llama.score_table import ScoreTable


class ContextFull(GGUFJaxError, ValueError, RuntimeError):
    """There is no room for another token."""


class Evaluated(Setting):
    """A sequence of tokens, with keys and values (or states) of them.

    Args:
        all_scores: whether the logits behind every token are kept; otherwise those behind the last of each `eval`.
        options: see `Setting`.

    Attributes:
        input_ids: int32 `[ctx_size]`, of which the first `n_tokens` have been evaluated.
        scores: the logits behind them.
    """

    def __init__(self, model: Any, *, all_scores: bool = False, **options: Any) -> None:
        super().__init__(model, **options)
        self.all_scores = all_scores
        self.input_ids = np.zeros(self.ctx_size, np.intc)
        self.scores = ScoreTable(self.config.vocab_size, self.ctx_size)
        self._cache: Any = self.new_cache(1)
        self._n_tokens = 0
        self._last: jax.Array | None = None  # the logits [1, V] behind the last token, as far as they are known
        self._ahead: list[int] = []  # tokens that a cache of states holds beyond `n_tokens`: it cannot forget them
        self._changes = 0  # what a generation that goes on looks at: whether somebody else has changed the sequence

    def refresh(self) -> None:
        """As `Setting.refresh`. What the cache holds is of the model as it was, and forgotten."""
        super().refresh()
        self.truncate(0)
        self._ahead = [-1]

    @property
    def n_tokens(self) -> int:
        return self._n_tokens

    @property
    def rewinds(self) -> bool:
        """Whether the sequence can be cut short and gone on with from there, without running it again."""
        return self._cache is None or self._cache.rewinds

    @property
    def changes(self) -> int:
        """Another number whenever the sequence may have changed, but for what a generation draws."""
        return self._changes

    def ids(self) -> list[int]:
        """The tokens of the sequence."""
        return self.input_ids[: self._n_tokens].tolist()

    @property
    def known(self) -> bool:
        """Whether the logits behind the last token are there."""
        return self._last is not None

    def truncate(self, count: int) -> None:
        """Forgets the tokens from `count` on."""
        if not 0 <= count <= self._n_tokens:
            raise GGUFJaxError(f"n_tokens: expected from 0 to {self._n_tokens}, found {count}")
        self._changes += 1
        if count == self._n_tokens:
            return
        self._ahead = [*self.input_ids[count : self._n_tokens].tolist(), *self._ahead]
        self._n_tokens, self._last = count, None
        self.scores.forget(count)

    def eval(self, tokens: Sequence[int], *, prompt: bool = False) -> None:
        """Evaluates tokens behind those that are there.

        Args:
            tokens: ids; none are nothing.
            prompt: run one token as a chunk of a prompt, as `Engine` does, and not as a decoding step.

        Raises:
            ContextFull: there is no room for them.
            GGUFJaxError: an id is not in the vocabulary.
        """
        if not len(tokens):
            return
        self._changes += 1
        before = self._n_tokens
        end = before + len(tokens)
        self._check_new(tokens, end)
        start = self._first_to_run(tokens)
        self.input_ids[before:end] = tokens
        self.scores.forget(before)
        if self._cache is None:  # a call that was interrupted has taken it
            self._cache = self.new_cache(1)
        self._ahead = [-1]  # until it is known what the cache holds
        if end - start == 1 and start and not prompt:
            self._follow(start)
        else:
            while start < end:
                start = self._run_chunk(start, end)
        self._n_tokens, self._ahead = end, []
        assert self._last is not None
        if not self.all_scores:
            self.scores.put(end - 1, 1, self._last)

    def logits(self) -> jax.Array:
        """The logits float32 `[1, V]` behind the last token; computed again where a step has not kept them.

        Raises:
            GGUFJaxError: there is no token yet.
        """
        if not self._n_tokens:
            raise GGUFJaxError("eval: expected at least one token before sampling, found none")
        if self._last is None:
            last = int(self.input_ids[self._n_tokens - 1])
            changes = self._changes
            self.truncate(self._n_tokens - 1)
            self.eval([last])
            if self.rewinds:  # the cache still holds what stood behind
                self._changes = changes
        assert self._last is not None
        return self._last

    def save(self) -> bytes:
        """What the cache holds of the sequence."""
        self.settle()
        return saved(self._cache, self._n_tokens)

    def settle(self) -> None:
        """Makes a cache of states hold what the sequence says, and no more."""
        if self._cache is None or (self._ahead and not self._cache.rewinds):
            count = self._n_tokens
            ids = self.input_ids[:count].tolist()
            self.truncate(0)
            self.eval(ids, prompt=True)

    def load(self, input_ids: Sequence[int], cache: bytes, at: np.ndarray, rows: np.ndarray) -> None:
        """Takes over what was saved: the tokens, `save`'s bytes, and the logits `rows [F, V]` behind those at
        indices `at [F]`.

        Raises:
            GGUFJaxError: it is of another model or context, and nothing is changed.
        """
        count, vocab = len(input_ids), self.config.vocab_size
        if count > self.ctx_size:
            raise GGUFJaxError(f"state: expected at most {self.ctx_size} tokens, as n_ctx says, found {count}")
        if count and not 0 <= min(input_ids) <= max(input_ids) < vocab:
            raise GGUFJaxError(f"state: expected token ids from 0 to {vocab - 1}, found others")
        if rows.shape != (len(at), vocab) or (len(at) and not 0 <= min(at) <= max(at) < count):
            raise GGUFJaxError(
                f"state: expected rows of {vocab} logits behind {count} tokens, found {list(rows.shape)}"
            )
        like = self._cache if self._cache is not None else self.new_cache(1)
        self._cache = restored(like, count, cache)
        self._changes += 1
        self.scores.forget(0)
        self.input_ids[:count] = input_ids
        self._n_tokens, self._ahead, self._last = count, [], None
        for index, row in zip(np.asarray(at).tolist(), rows, strict=True):
            self.scores.put(index, 1, jnp.asarray(row[None]))
        if count and self.scores.has(count - 1):
            self._last = jnp.asarray(self.scores.dense(count)[count - 1 :])

    def scores_at(self, index: int) -> jax.Array:
        """The logits `[1, V]` behind the token at `index`. Raises GGUFJaxError where they were not kept."""
        if index == self._n_tokens - 1:
            return self.logits()
        return jnp.asarray(self.scores.row(index)[None])

    # ---- what it is made of ----

    def _take(self, tokens: Sequence[int]) -> None:
        """Tokens that the cache holds belong to the sequence."""
        end = self._n_tokens + len(tokens)
        self.input_ids[self._n_tokens : end] = tokens
        self._n_tokens, self._last, self._ahead = end, None, []

    def _check_new(self, tokens: Sequence[int], end: int) -> None:
        if end > self.ctx_size:
            raise ContextFull(
                f"n_ctx: expected at most {self.ctx_size} tokens in the context, found {end} "
                f"({self._n_tokens} evaluated, {len(tokens)} new)"
            )
        low, high = min(tokens), max(tokens)
        if low < 0 or high >= self.config.vocab_size:
            raise GGUFJaxError(
                f"tokens: expected ids from 0 to {self.config.vocab_size - 1}, found {low if low < 0 else high}"
            )

    def _first_to_run(self, tokens: Sequence[int]) -> int:
        """The index of the first token that the cache does not hold. Keys and values are written anew from `n_tokens`
        on; states that have seen more than that can only be gone on with from there, or begun anew."""
        if self._cache is None:
            return 0
        if self._cache.rewinds or not self._ahead:
            return self._n_tokens
        seen = len(self._ahead)
        return self._n_tokens + seen if len(tokens) > seen and list(tokens[:seen]) == self._ahead else 0

    def _follow(self, at: int) -> None:
        """One token as a decoding step."""
        cache, self._cache = self._cache, None
        token, position = self.input_ids[at : at + 1], np.array([at], np.int32)
        logits, self._cache = steps.following(
            self.leaves, token, position, cache, spec=self.spec, span=self.span(at + 1)
        )
        self._last = logits
        if self.all_scores:
            self.scores.put(at, 1, logits)

    def _run_chunk(self, start: int, end: int) -> int:
        """The next chunk of the tokens up to `end`; where the one after it begins."""
        length = self.chunk_length(end - start)
        count = min(length, end - start)
        tokens, positions = np.zeros((1, length), np.int32), np.full((1, length), -1, np.int32)
        tokens[0, :count] = self.input_ids[start : start + count]
        positions[0, :count] = range(start, start + count)
        span = self.span(start + count)
        cache, self._cache = self._cache, None
        if self.all_scores:
            rows, self._cache = programs.all_logits(self.leaves, tokens, positions, cache, spec=self.spec, span=span)
            self.scores.put(start, count, rows[0])
            self._last = rows[:, count - 1]
        else:
            last = np.array([count - 1], np.int32)
            logits = jnp.zeros((1, self.config.vocab_size), jnp.float32)
            self._last, self._cache = steps.prefill(
                self.leaves, tokens, positions, last, logits, cache, spec=self.spec, span=span
            )
        return start + count

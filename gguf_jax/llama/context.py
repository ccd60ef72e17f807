"""`Context`: one sequence that tokens are drawn behind, in three ways that draw the same.

The programs are those that `Engine` runs, one sequence at a time, so that what they draw is the same. What makes it
different from an engine is that the caller sees the sequence between any two tokens, and may change it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import steps
from gguf_jax.generation.constraint import Constraint
from gguf_jax.generation.sampling import (
    Sampler,
    SamplerPlan,
    SamplingParams,
    make_sampler,
    plan_for,
    with_prompt,
)
from gguf_jax.generation.speculation import MOST_DRAFTED, guess_length
from gguf_jax.llama.drafts import Guess
from gguf_jax.llama.evaluated import Evaluated

Processor = Callable[[np.ndarray, np.ndarray], np.ndarray]
Criteria = Callable[[np.ndarray, np.ndarray], bool]
Tokens = Generator[int, Sequence[int] | None, None]


class Context(Evaluated):
    """A sequence that answers are generated behind; see `Evaluated` for the rest of it."""

    def sample(
        self,
        params: SamplingParams,
        *,
        index: int | None = None,
        processor: Processor | None = None,
        constraint: Constraint | None = None,
    ) -> int:
        """A token behind the last one (or the one at `index`), which is not evaluated. Penalties count the tokens that
        are there."""
        logits = self.logits() if index is None else self.scores_at(index)
        return self._choose(logits, self._sampler(params, self.ids()), params, processor, constraint)[0]

    def generate(
        self,
        params: SamplingParams,
        *,
        processor: Processor | None = None,
        criteria: Criteria | None = None,
        constraint: Constraint | None = None,
        draft: Guess | None = None,
        from_scores: bool = False,
        most: int | None = None,
    ) -> Tokens:
        """Draw tokens behind the sequence. A token is evaluated once the next one is asked for; what is sent to the
        generator is evaluated behind it.

        Args:
            params: how to draw; with a seed.
            processor: called with (`input_ids [n]`, logits `[V]`) before each token; it gives the logits to draw from.
            criteria: called with the same after each; True ends it, before that token.
            constraint: what may come.
            draft: guesses what follows; guesses are verified together. Whatever needs to see logits goes without.
            from_scores: keep the logits behind every token.
            most: how many tokens will be asked for at most: no more are run.

        Raises:
            ContextFull: the last token that there was room for has been drawn, and another is asked for.
        """
        on_host = processor is not None or criteria is not None or constraint is not None
        if on_host or from_scores or self.all_scores:
            return self._from_scores(params, processor, criteria, constraint)
        if draft is not None and self.rewinds:
            return self._guessed(params, draft)
        return self._ahead_of_host(params, most)

    # ---- the three ways to generate ----

    def _from_scores(
        self,
        params: SamplingParams,
        processor: Processor | None,
        criteria: Criteria | None,
        constraint: Constraint | None,
    ) -> Tokens:
        """The model runs, and then it is seen what may be drawn."""
        sampler = self._sampler(params, ())
        while True:
            logits = self.logits()
            token, sampler = self._choose(logits, sampler, params, processor, constraint)
            complete = constraint is not None and constraint.accept(token)
            ids = self.input_ids[: self._n_tokens]
            if criteria is not None and criteria(ids, np.array(logits[0])):
                return
            sent = yield token
            if complete:
                return
            self.eval([token, *(sent or ())])

    def _ahead_of_host(self, params: SamplingParams, most: int | None) -> Tokens:
        """The next step is dispatched before the token of the last is read: the device does not wait for the host.

        A cache of states cannot take a token back, so it holds one more than the sequence says; see `_ahead`.
        """
        try:
            yield from self._stepped(params, most)
        finally:
            # a step may still be running when the caller has had enough: its cache is not free before it ends
            if not sys.is_finalizing():
                jax.block_until_ready(self._cache)

    def _stepped(self, params: SamplingParams, most: int | None) -> Tokens:
        plan = plan_for([params], self.config.vocab_size)
        drawn: list[int] = []
        tokens, sampler, _ = steps.choose(self.logits(), self._sampler(params, ()), plan=plan)
        position: Any = np.array([self._n_tokens], np.int32)
        while True:
            more = self._n_tokens < self.ctx_size and (most is None or len(drawn) + 1 < most)
            following = tokens
            if more:
                self._ahead = [-1]  # until it is known
                cache, self._cache = self._cache, None  # donated: until the call returns nobody may read it
                following, position, self._cache, sampler, _ = steps.decode(
                    self.leaves,
                    tokens,
                    position,
                    cache,
                    sampler,
                    spec=self.spec,
                    plan=plan,
                    span=self.span(self._n_tokens + 1),
                )
            token = only(tokens)
            drawn.append(token)
            if more:
                self._ahead = [token]
            changes = self._changes
            sent = yield token
            if more and changes == self._changes and not sent:
                self._take([token])
                tokens = following
            else:
                self.eval([token, *(sent or ())])
                tokens, sampler, _ = steps.choose(self.logits(), self._sampler(params, drawn), plan=plan)
                position = np.array([self._n_tokens], np.int32)

    def _guessed(self, params: SamplingParams, draft: Guess) -> Tokens:
        """Guesses of what follows are run together with the last token; those that are what would have been drawn
        count. The tokens are those without guesses."""
        plan = plan_for([params], self.config.vocab_size)
        tokens, sampler, _ = steps.choose(self.logits(), self._sampler(params, ()), plan=plan)
        drawn: list[int] = []
        queue = [only(tokens)]
        while True:
            token = queue.pop(0)
            drawn.append(token)
            changes = self._changes
            sent = yield token
            if sent or changes != self._changes:
                self.eval([token, *(sent or ())])
                tokens, sampler, _ = steps.choose(self.logits(), self._sampler(params, drawn), plan=plan)
                queue = [only(tokens)]
                continue
            if queue:  # the cache holds it already
                self._take([token])
                continue
            self._check_new([token], self._n_tokens + 1)
            guesses = self._guesses(draft, token, sampler, plan)
            cache, self._cache = self._cache, None
            position = np.array([self._n_tokens], np.int32)
            found, tokens, self._cache, sampler, _ = steps.verify(
                self.leaves,
                tokens,
                guesses,
                position,
                cache,
                sampler,
                spec=self.spec,
                plan=plan,
                span=self.span(self._n_tokens + 1 + guesses.shape[1]),
            )
            self._take([token])
            queue = [each for each in np.asarray(found)[0].tolist() if each >= 0]

    # ---- what they are made of ----

    def _guesses(self, draft: Guess, token: int, sampler: Sampler, plan: SamplerPlan) -> np.ndarray:
        """What is guessed to follow `token`, int32 `[1, K]`, -1 behind them."""
        room = min(MOST_DRAFTED, self.ctx_size - self._n_tokens - 1)
        ids = np.append(self.input_ids[: self._n_tokens], np.intc(token))
        guesses = [int(each) for each in draft(ids, sampler, plan)][: max(room, 0)]
        known = [each for each in guesses if 0 <= each < self.config.vocab_size]
        row = np.full((1, guess_length(max(len(known), 1))), -1, np.int32)
        row[0, : len(known)] = known
        return row

    def _choose(
        self,
        logits: jax.Array,
        sampler: Sampler,
        params: SamplingParams,
        processor: Processor | None,
        constraint: Constraint | None,
    ) -> tuple[int, Sampler]:
        vocab = self.config.vocab_size
        if processor is not None:
            row = np.asarray(processor(self.input_ids[: self._n_tokens], np.array(logits[0])), np.float32)
            if row.shape != (vocab,):
                raise GGUFJaxError(f"logits_processor: expected {vocab} logits, found shape {list(row.shape)}")
            logits = jnp.asarray(row[None])
        allowed = None
        if constraint is not None:
            allowed = np.zeros((1, -(-vocab // 32)), np.uint32)
            constraint.mask(allowed[0])
        tokens, sampler, _ = steps.choose(logits, sampler, allowed, plan=plan_for([params], vocab))
        return only(tokens), sampler

    def _sampler(self, params: SamplingParams, drawn: Sequence[int]) -> Sampler:
        """The sampler after `drawn`. Penalties count what was drawn and not the prompt, as llama-cpp-python's do."""
        sampler = make_sampler([params], self.config.vocab_size, context_length=self.ctx_size)
        if not drawn:
            return sampler
        return replace(with_prompt(sampler, [drawn]), step=jnp.array([len(drawn)], jnp.int32))


def only(tokens: jax.Array) -> int:
    """The one token of `[1]`, read on the host: to index on the device would be another program."""
    return int(np.asarray(tokens)[0])

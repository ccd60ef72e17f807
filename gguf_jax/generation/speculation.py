"""Speculative decoding: several tokens a step where what follows can be guessed. The answer stays what it is.

A drafter proposes tokens, `steps.verify` runs them all at once and draws at each place as it would without them: with
the same seed the same noise, so that a token is kept exactly if it is the one that would have been drawn.

    Scheduler(model, speculation=PromptLookup())            # text that repeats itself or its prompt
    Scheduler(model, speculation=DraftModel(small))         # a smaller model with the same vocabulary
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import steps
from gguf_jax.generation.request import Request, common
from gguf_jax.generation.sampling import Sampler, SamplerPlan
from gguf_jax.generation.setting import Setting, bucket
from gguf_jax.models import Decoder

MOST_DRAFTED = 7
"""Tokens that can be guessed at once: in sequences of up to 8 the native kernels give a token what they give it alone,
bit for bit. (Elsewhere sums may be taken in another order, and where two tokens are as good to the last bit, the other
one may be drawn.)"""


class Drafter(Protocol):
    """Proposes what follows."""

    most: int
    """Of tokens for a slot."""

    def draft(
        self, wanted: Mapping[int, tuple[Request, int]], sampler: Sampler, plan: SamplerPlan
    ) -> dict[int, list[int]]:
        """For slots, each with its request and how many tokens it may be given, guesses of what follows its tokens.
        `sampler` is what the target draws with; it is not changed."""
        ...


class Speculation(Protocol):
    """A way to guess, as `Scheduler` is given it."""

    def drafter(self, setting: Setting, slots: int) -> Drafter: ...


def _check_tokens(tokens: int) -> None:
    if not 1 <= tokens <= MOST_DRAFTED:
        raise GGUFJaxError(f"speculation: expected from 1 to {MOST_DRAFTED} tokens to be guessed, found {tokens}")


@dataclass(frozen=True)
class PromptLookup:
    """What followed the last tokens when they stood in the prompt or the answer before.

    Attributes:
        tokens: at most how many are guessed.
        longest, shortest: how many last tokens are looked for; the longest that is found, where it was seen last.
    """

    tokens: int = 7
    longest: int = 4
    shortest: int = 2

    def __post_init__(self) -> None:
        _check_tokens(self.tokens)
        if not 1 <= self.shortest <= self.longest <= 64:
            raise GGUFJaxError(
                f"speculation: expected 1 <= shortest <= longest <= 64, found {self.shortest} and {self.longest}"
            )

    def drafter(self, setting: Setting, slots: int) -> Drafter:
        return _Lookup(self)


class _Lookup:
    def __init__(self, what: PromptLookup) -> None:
        self.most = what.tokens
        self._sizes = range(what.longest, what.shortest - 1, -1)
        self._indices: weakref.WeakKeyDictionary[Request, _Index] = weakref.WeakKeyDictionary()

    def draft(
        self, wanted: Mapping[int, tuple[Request, int]], sampler: Sampler, plan: SamplerPlan
    ) -> dict[int, list[int]]:
        found = {}
        for slot, (request, most) in wanted.items():
            index = self._indices.get(request)
            if index is None:
                index = self._indices[request] = _Index(self._sizes, request.prompt)
            index.extend(request.tokens[len(index.tokens) - len(request.prompt) :])
            if guess := index.following(most):
                found[slot] = guess
        return found


class _Index:
    """Where each run of tokens of some lengths ended when it was seen last, but for the one at the very end."""

    def __init__(self, sizes: Sequence[int], tokens: Sequence[int]) -> None:
        self.tokens: list[int] = []
        self._sizes = sizes
        self._ends: dict[tuple[int, ...], int] = {}
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            # the run that ends here is noted when something follows it
            for size in self._sizes:
                if size <= len(self.tokens):
                    self._ends[tuple(self.tokens[-size:])] = len(self.tokens)
            self.tokens.append(token)

    def following(self, most: int) -> list[int]:
        for size in self._sizes:
            end = self._ends.get(tuple(self.tokens[-size:])) if size <= len(self.tokens) else None
            if end is not None:
                guess: list[int] = []
                for i in range(end, end + most):  # what repeats itself is gone on with beyond its end
                    guess.append(self.tokens[i] if i < len(self.tokens) else guess[i - len(self.tokens)])
                return guess
        return []


@dataclass(frozen=True, eq=False)
class DraftModel:
    """What a smaller model says.

    Attributes:
        model: with the target's vocabulary.
        tokens: how many are guessed.
        options: as of `Setting`, for the draft model: `cache_type`, `dtype`, `precision`.
    """

    model: Decoder
    tokens: int = 4
    options: Mapping[str, Any] | None = None

    def drafter(self, setting: Setting, slots: int) -> Drafter:
        _check_tokens(self.tokens)
        target, draft = setting.config.vocab_size, self.model.config.vocab_size
        if target != draft:
            raise GGUFJaxError(f"speculation: expected a draft model with the target's {target} tokens, found {draft}")
        return _Drafting(self, setting, slots)


class _Drafting:
    def __init__(self, what: DraftModel, setting: Setting, slots: int) -> None:
        self.most = what.tokens
        options: dict[str, Any] = dict(ctx_size=setting.ctx_size, batch_size=setting.batch_size)
        self._setting = Setting(what.model, **(options | dict(what.options or {})))
        self._cache: Any = self._setting.new_cache(slots)
        if not self._cache.rewinds:
            raise GGUFJaxError("speculation: expected a draft model that keeps keys and values, found one of states")
        self._held: list[list[int]] = [[] for _ in range(slots)]

    def draft(
        self, wanted: Mapping[int, tuple[Request, int]], sampler: Sampler, plan: SamplerPlan
    ) -> dict[int, list[int]]:
        sequences = {slot: request.prompt + request.tokens for slot, (request, _) in wanted.items()}
        starts = {slot: min(common(self._held[slot], tokens), len(tokens) - 1) for slot, tokens in sequences.items()}
        longest = self._setting.batch_size
        while max(len(tokens) - starts[slot] for slot, tokens in sequences.items()) > longest:
            behind = {slot: tokens for slot, tokens in sequences.items() if len(tokens) - starts[slot] > longest}
            starts |= self._catch_up(behind, starts, longest)
        length = bucket(max(len(tokens) - starts[slot] for slot, tokens in sequences.items()), 2, longest)
        tokens, positions, last = self._chunk(sequences, starts, length)
        cache, self._cache = self._cache, None  # donated
        guesses, self._cache = steps.draft(
            self._setting.leaves,
            tokens,
            positions,
            last,
            cache,
            sampler,
            spec=self._setting.spec,
            plan=plan,
            span=self._setting.span(int(positions.max()) + self.most),
            count=self.most,
        )
        rows = np.asarray(guesses)
        found = {slot: rows[slot].tolist() for slot in wanted}
        for slot, sequence in sequences.items():  # the last guess was drawn and not run
            self._held[slot] = sequence + found[slot][:-1]
        return {slot: found[slot][:most] for slot, (_, most) in wanted.items() if most}

    def _catch_up(self, sequences: Mapping[int, list[int]], starts: Mapping[int, int], length: int) -> dict[int, int]:
        """Runs a chunk of what the draft model has not seen; where each slot is then."""
        pieces = {slot: tokens[: starts[slot] + length] for slot, tokens in sequences.items()}
        tokens, positions, last = self._chunk(pieces, starts, length)
        cache, self._cache = self._cache, None
        _, self._cache = steps.prefill(
            self._setting.leaves,
            tokens,
            positions,
            last,
            jnp.zeros((len(self._held), self._setting.config.vocab_size)),
            cache,
            spec=self._setting.spec,
            span=self._setting.span(int(positions.max()) + 1),
        )
        return {slot: starts[slot] + length for slot in sequences}

    def _chunk(
        self, sequences: Mapping[int, list[int]], starts: Mapping[int, int], length: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens and positions `[B, length]` of what follows `starts`, and where each row ends `[B]`."""
        batch = len(self._held)
        tokens, positions = np.zeros((batch, length), np.int32), np.full((batch, length), -1, np.int32)
        last = np.full(batch, -1, np.int32)
        for slot, sequence in sequences.items():
            rest = sequence[starts[slot] :]
            tokens[slot, : len(rest)] = rest
            positions[slot, : len(rest)] = range(starts[slot], len(sequence))
            last[slot] = len(rest) - 1
        return tokens, positions, last


def propose(
    drafter: Drafter, going: Mapping[int, Request], slots: int, sampler: Sampler, plan: SamplerPlan
) -> np.ndarray | None:
    """Guesses for `steps.verify`, int32 `[slots, K]` with -1 where there is none; None: nothing is guessed at all.

    Args:
        going: slots that want another token, and whose they are. A constraint would have to be asked before each token:
            such a slot gets no guesses.
    """
    room = {
        i: (request, min(drafter.most, request.ahead, request.max_tokens - len(request.tokens) - 1))
        for i, request in going.items()
        if request.constraint is None
    }
    guesses = drafter.draft(room, sampler, plan) if any(most > 0 for _, most in room.values()) else {}
    if not guesses:
        return None
    drafts = np.full((slots, guess_length(max(map(len, guesses.values())))), -1, np.int32)
    for i, guess in guesses.items():
        drafts[i, : len(guess)] = guess
        going[i].guess(len(guess))
    return drafts


def guess_length(longest: int) -> int:
    """The number of guesses that is compiled for so many: with the last token a power of two, so 1, 3 or 7."""
    return bucket(longest + 1, 2, MOST_DRAFTED + 1) - 1


__all__ = ["DraftModel", "Drafter", "PromptLookup", "Speculation", "guess_length", "propose"]

"""`Request`: a prompt that a scheduler works on, and the slots that requests stand in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation.constraint import Constraint
from gguf_jax.generation.sampling_params import SamplingParams

FinishReason = Literal["stop", "length", "cancelled", "error"]


class QueueFull(GGUFJaxError):
    """There is no room for another request to wait."""


@dataclass(eq=False)
class Request:
    """One prompt and what has become of it.

    Attributes:
        id: in the order of `Scheduler.add`.
        tokens: the answer so far, the token that ended it included.
        finish: why it ended: "stop" at a token of `end_ids` or where its constraint ends, "length" at `max_tokens` or a
            full context, "cancelled", "error"; None: it has not.
        error: what was wrong, in one line.
        top: how many of the best tokens' log-probabilities are wanted beside that of each token; None: none at all.
        constraint: what the answer must look like.
        log_probs: for each of `tokens` its own and those of the best, by falling probability, where they are wanted:
            natural logarithms, of the model, before anything that `params` or `constraint` changes.
        reused: tokens of the prompt that a cache held already.
        guessed, accepted: tokens that speculation proposed, and those of them that were right.
        ahead: how many it is to propose next.
    """

    id: int
    prompt: list[int]
    params: SamplingParams
    max_tokens: int
    end_ids: frozenset[int]
    top: int | None = None
    constraint: Constraint | None = None
    tokens: list[int] = field(default_factory=list)
    log_probs: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)
    finish: FinishReason | None = None
    error: str | None = None
    reused: int = 0
    guessed: int = 0
    accepted: int = 0
    ahead: int = 3
    _open: int = 0

    def guess(self, count: int) -> None:
        """Notes that so many tokens are proposed."""
        self.guessed, self._open = self.guessed + count, count

    def check(self, right: int) -> None:
        """Notes how many of them were right: where all were, more are proposed next, else as many as were right."""
        self.accepted += right
        if self._open:
            self.ahead = min(2 * self.ahead + 1, 64) if right == self._open else max(1, right)
            self._open = 0


@dataclass(frozen=True)
class SlotState:
    """What stands in a slot, in numbers of tokens.

    Attributes:
        processing: whether a request does.
        prompt: its prompt, of which `done` have been run or were held already, `reused` of them.
        drawn: its answer so far.
        held: what the cache has, of this request or of the last one's prompt.
    """

    processing: bool
    prompt: int
    done: int
    reused: int
    drawn: int
    held: int


@dataclass
class Slot:
    """A row of the cache.

    Attributes:
        request: whose it is; None: it is free.
        held: tokens of a prompt whose keys and values are in it.
        drawn: tokens that were drawn for the request, those included that the host has not read.
        turn: when a chunk of the prompt was last run.
    """

    request: Request | None = None
    held: list[int] = field(default_factory=list)
    drawn: int = 0
    turn: int = 0

    @property
    def prefilling(self) -> bool:
        return self.request is not None and not self.drawn

    def leave(self) -> None:
        """The request goes; its prompt stays, as far as it was run. Its answer is forgotten: a token that was run by
        itself may differ in the last bits from one that is run in a prompt, and what a prompt is answered must not
        depend on who was here before."""
        self.request, self.drawn = None, 0

    @property
    def state(self) -> SlotState:
        request = self.request
        if request is None:
            return SlotState(False, 0, 0, 0, 0, len(self.held))
        drawn = len(request.tokens)
        done = len(request.prompt) if self.drawn else len(self.held)
        return SlotState(True, len(request.prompt), done, request.reused, drawn, done + drawn)


def common(one: Sequence[int], two: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def packed(
    chunks: Mapping[int, Sequence[int]], starts: Mapping[int, int], rows: Sequence[int], length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chunks of slots as the rows of one program: tokens and positions int32 `[N, length]` (-1: padding) and where each
    ends `[N]`.

    Args:
        chunks, starts: of each slot the tokens, and the position of the first.
        rows: which slot stands in each row; one that is named twice is in the last of its rows, and padding before.
    """
    tokens, positions = np.zeros((len(rows), length), np.int32), np.full((len(rows), length), -1, np.int32)
    last = np.zeros(len(rows), np.int32)
    for row, slot in enumerate(rows):
        if slot in rows[row + 1 :]:
            continue
        chunk, start = chunks[slot], starts[slot]
        tokens[row, : len(chunk)] = chunk
        positions[row, : len(chunk)] = range(start, start + len(chunk))
        last[row] = len(chunk) - 1
    return tokens, positions, last

"""`Scheduler`: continuous batching. Requests come and go; a fixed number of slots is decoded in one program.

    scheduler = Scheduler(model, slots=8)
    requests = [scheduler.add(prompt, SamplingParams(), max_tokens=64) for prompt in prompts]
    while scheduler.busy:
        for request, token in scheduler.step(): ...

Every `step` runs one token of every slot that has a prompt behind it, and at most one chunk of one prompt, so that a
long prompt does not keep the others waiting. A step is dispatched before the tokens of the one before it are read:
the device does not wait for the host, and what it computes for a sequence that has ended is thrown away.

What a request answers does not depend on what runs beside it: shapes are those of the slots, whoever is in them, and a
plan that serves more parameters chooses the same tokens. Nothing is compiled once the plan has seen the kinds of
parameters there are, and each length of chunk and span has been met.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import steps
from gguf_jax.generation.sampling import Sampler, SamplerPlan, SamplingParams, make_sampler, plan_for, with_prompt
from gguf_jax.generation.setting import Setting
from gguf_jax.models import Decoder

FinishReason = Literal["stop", "length", "cancelled"]

MOST_SCORED = 64
SCORED = (5, 20, MOST_SCORED)
"""How many of the best tokens programs are compiled to score, beside none of them."""


class QueueFull(GGUFJaxError):
    """There is no room for another request to wait."""


@dataclass(eq=False)
class Request:
    """One prompt and what has become of it.

    Attributes:
        id: in the order of `add`.
        tokens: the answer so far, the token that ended it included.
        finish: why it ended: "stop" at a token of `end_ids`, "length" at `max_tokens` or a full context, "cancelled";
            None: it has not.
        top: how many of the best tokens' log-probabilities are wanted beside that of each token; None: none at all.
        log_probs: for each of `tokens` its own and those of the best, by falling probability, where they are wanted:
            natural logarithms, of the model, before anything that `params` changes.
        reused: tokens of the prompt that a cache held already.
    """

    id: int
    prompt: list[int]
    params: SamplingParams
    max_tokens: int
    end_ids: frozenset[int]
    top: int | None = None
    tokens: list[int] = field(default_factory=list)
    log_probs: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)
    finish: FinishReason | None = None
    reused: int = 0


@dataclass
class _Slot:
    """A row of the cache.

    Attributes:
        request: whose it is; None: it is free.
        held: tokens whose keys and values are in it.
        drawn: tokens that were drawn for the request, those included that the host has not read.
    """

    request: Request | None = None
    held: list[int] = field(default_factory=list)
    drawn: int = 0

    @property
    def prefilling(self) -> bool:
        return self.request is not None and not self.drawn


@dataclass
class _Drawn:
    """What was drawn and not read: tokens, their scores where somebody wants them, and of each place whose it is."""

    tokens: jax.Array
    scores: steps.LogProbs | None
    owners: dict[int, Request]


class Scheduler(Setting):
    """Runs requests in slots.

    Args:
        model: see `Setting`, as for the other options.
        slots: sequences that are decoded together.
        max_queue: requests that may wait for a slot; None: any number.
        reuse: whether the beginning of a prompt that a free slot holds is not run again. The slot with the longest one
            is taken. (With `precision="fast"` a prompt that is run in other pieces may differ in the last bits.)
    """

    def __init__(
        self, model: Decoder, *, slots: int = 4, max_queue: int | None = None, reuse: bool = True, **options: Any
    ) -> None:
        if slots < 1:
            raise GGUFJaxError(f"slots: expected at least 1, found {slots}")
        super().__init__(model, **options)
        self.max_queue, self.reuse = max_queue, reuse
        self._slots = [_Slot() for _ in range(slots)]
        self._queue: collections.deque[Request] = collections.deque()
        self._ids = itertools.count()
        self._cache: Any = self.new_cache(slots)
        self._tokens = jnp.zeros(slots, jnp.int32)  # of every slot the last token, as the device has it
        self._plan = SamplerPlan()
        self._sampler = make_sampler([SamplingParams.greedy()] * slots, self.config.vocab_size)
        self._top = 0
        """How many of the best are scored, for whoever has wanted most."""
        self._unread: list[_Drawn] = []

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._queue or self._unread or any(slot.request for slot in self._slots))

    @property
    def waiting(self) -> int:
        """Requests without a slot."""
        return len(self._queue)

    @property
    def free(self) -> int:
        """Slots without a request."""
        return sum(slot.request is None for slot in self._slots)

    def add(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        max_tokens: int | None = None,
        end_ids: Collection[int] = (),
        top: int | None = None,
    ) -> Request:
        """A request that `step` will work on; they get slots in the order in which they came.

        Args:
            prompt: token ids.
            max_tokens: longest answer; None: as far as the context reaches.
            end_ids: tokens that end the answer.
            top: see `Request`; from 0 to 64.

        Raises:
            PromptTooLong, GGUFJaxError: as `Setting.check_prompt`; `max_tokens` is less than 1; a biased token is not
                in the vocabulary.
            QueueFull: `max_queue` requests are waiting.
        """
        self.check_prompt(prompt)
        if max_tokens is not None and max_tokens < 1:
            raise GGUFJaxError(f"max_tokens: expected at least 1, found {max_tokens}")
        if self.max_queue is not None and len(self._queue) >= self.max_queue and not self.free:
            raise QueueFull(f"queue: expected at most {self.max_queue} waiting requests, found as many")
        for token in params.logit_bias:
            if token >= self.config.vocab_size:
                raise GGUFJaxError(f"logit_bias: expected token ids below {self.config.vocab_size}, found {token}")
        if top is not None and not 0 <= top <= MOST_SCORED:
            raise GGUFJaxError(f"top: expected from 0 to {MOST_SCORED} log-probabilities, found {top}")
        room = self.ctx_size - len(prompt)
        longest = room if max_tokens is None else min(max_tokens, room)
        request = Request(next(self._ids), list(prompt), params, longest, frozenset(end_ids), top)
        self._queue.append(request)
        return request

    def cancel(self, request: Request) -> None:
        """Ends a request, wherever it is; what it has answered stays. One that has ended is left alone."""
        if request.finish is not None:
            return
        request.finish = "cancelled"
        if request in self._queue:
            self._queue.remove(request)
        for slot in self._slots:
            if slot.request is request:
                slot.request = None

    def step(self) -> list[tuple[Request, int]]:
        """Goes on with everything by one token, or one chunk of a prompt.

        Returns:
            requests with the tokens that have become known, in the order in which they were drawn. A request whose
            `finish` is set has got its last one.
        """
        self._admit()
        before, self._unread = self._unread, []
        self._decode()
        found = [event for drawn in before for event in self._read(drawn)]
        self._prefill()
        return found

    # ---- what a step is made of ----

    def _admit(self) -> None:
        while self._queue and (free := [i for i, slot in enumerate(self._slots) if slot.request is None]):
            request = self._queue.popleft()
            common = [self._common(slot, request.prompt) for slot in self._slots]
            kept = self._cache.kept(common) if self.reuse else [0] * len(common)
            # the longest beginning, and else the slot that has least to lose
            index = max(free, key=lambda i: (kept[i], -len(self._slots[i].held)))
            slot = self._slots[index]
            slot.request, slot.drawn, slot.held = request, 0, slot.held[: kept[index]]
            request.reused = kept[index]

    @staticmethod
    def _common(slot: _Slot, prompt: Sequence[int]) -> int:
        """Tokens that a prompt has in common with a slot; the last one is always run, for its logits."""
        pairs = zip(slot.held, prompt[:-1], strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    def _decode(self) -> None:
        """Dispatches a token for every slot that wants one."""
        owners: dict[int, Request] = {}
        positions = np.full(len(self._slots), -1, np.int32)
        for i, slot in enumerate(self._slots):
            request = slot.request
            if request is not None and 0 < slot.drawn < request.max_tokens:
                owners[i], positions[i] = request, len(request.prompt) + slot.drawn - 1
                slot.drawn += 1
        if not owners:
            return
        cache, self._cache = self._cache, None  # donated: until the call returns nobody may read it
        operands = self.leaves, self._tokens, positions, cache, self._sampler
        options: dict[str, Any] = dict(spec=self.spec, plan=self._plan, span=self.span(int(positions.max()) + 1))
        scores = None
        if any(request.top is not None for request in owners.values()):
            found = steps.decode_scored(*operands, **options, top=self._top)
            self._tokens, _, self._cache, self._sampler, scores = found
        else:
            self._tokens, _, self._cache, self._sampler = steps.decode(*operands, **options)
        self._unread.append(_Drawn(self._tokens, scores, owners))

    def _read(self, drawn: _Drawn) -> list[tuple[Request, int]]:
        """Waits for tokens, and gives them to those that still want them."""
        ids = np.asarray(drawn.tokens)
        scores = None if drawn.scores is None else [np.asarray(each) for each in drawn.scores]
        found = []
        for i, request in drawn.owners.items():
            if request.finish is not None:
                continue
            row, slot = i % len(ids), self._slots[i]
            token = int(ids[row])
            request.tokens.append(token)
            if request.top is not None and scores is not None:
                own, values, best = (each[row] for each in scores)
                pairs = zip(best[: request.top].tolist(), values[: request.top].tolist(), strict=True)
                request.log_probs.append((float(own), list(pairs)))
            if token in request.end_ids:
                request.finish = "stop"
            elif len(request.tokens) == request.max_tokens:
                request.finish = "length"
            found.append((request, token))
            # what was drawn from this token has put it into the cache
            slot.held = request.prompt + request.tokens[: slot.drawn - 1]
            if request.finish is not None:
                slot.request = None
        return found

    def _prefill(self) -> None:
        """Dispatches a chunk of the prompt that has waited longest, and behind its last one the first token."""
        waiting = [(slot.request.id, i) for i, slot in enumerate(self._slots) if slot.request and slot.prefilling]
        if not waiting:
            return
        index = min(waiting)[1]
        slot, request = self._slots[index], self._slots[index].request
        assert request is not None
        start, left = len(slot.held), len(request.prompt) - len(slot.held)
        length = self.chunk_length(left)
        chunk = request.prompt[start : start + length]
        tokens, positions = np.zeros((1, length), np.int32), np.full((1, length), -1, np.int32)
        tokens[0, : len(chunk)] = chunk
        positions[0, : len(chunk)] = range(start, start + len(chunk))
        cache, self._cache = self._cache, None
        logits, self._cache = steps.prefill_slot(
            self.leaves,
            tokens,
            positions,
            np.int32(len(chunk) - 1),
            cache,
            np.int32(index),
            spec=self.spec,
            span=self.span(start + len(chunk)),
        )
        slot.held = [*slot.held, *chunk]
        if left <= length:
            self._begin(index, request, logits)

    def _begin(self, index: int, request: Request, logits: jax.Array) -> None:
        """The first token of a request, whose sampler joins the others."""
        needed = with_prompt(self._sampler_of(request.params), [request.prompt])
        self._plan = self._plan.joined(plan_for([request.params], self.config.vocab_size))
        scores = None
        if request.top is None:
            token, row = steps.first(logits, needed, plan=self._plan)
        else:
            self._top = max(self._top, next(size for size in (0, *SCORED) if size >= request.top))
            token, row, scores = steps.first_scored(logits, needed, plan=self._plan, top=self._top)
        self._sampler, self._tokens = steps.insert(self._sampler, self._tokens, row, token, np.int32(index))
        self._slots[index].drawn = 1
        self._unread.append(_Drawn(token, scores, {index: request}))

    def _sampler_of(self, params: SamplingParams) -> Sampler:
        """A sampler of one slot, in the shapes of the others', which grow where it needs more."""
        vocab = self.config.vocab_size
        own = make_sampler([params], vocab, context_length=self.ctx_size)
        here, there = self._sampler.window.shape[1], own.window.shape[1]
        if there > here:  # a ring that is longer: the place of a token changes, so that each is put there anew
            self._sampler = _with_window(self._sampler, there)
        elif here > there:
            own = make_sampler([params], vocab, context_length=self.ctx_size, window=here)
        if own.bias is not None and self._sampler.bias is None:
            self._sampler = replace(self._sampler, bias=jnp.zeros((len(self._slots), vocab)))
        elif own.bias is None and self._sampler.bias is not None:
            own = replace(own, bias=jnp.zeros((1, vocab)))
        return own


def _with_window(sampler: Sampler, size: int) -> Sampler:
    """The same sampler with longer rings: token n of those seen stands at `n % size`."""
    batch, old = sampler.window.shape
    ages = jnp.arange(old)
    nth = sampler.seen[:, None] - 1 - ages  # the tokens in the ring, the last one first
    values = jnp.take_along_axis(sampler.window, nth % max(old, 1), axis=1) if old else sampler.window
    place = jnp.where(nth >= 0, nth % size, size)
    window = jnp.full((batch, size), -1, jnp.int32).at[jnp.arange(batch)[:, None], place].set(values, mode="drop")
    return replace(sampler, window=window)

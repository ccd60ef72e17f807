"""`Scheduler`: continuous batching. Requests come and go; a fixed number of slots is decoded in one program.

    scheduler = Scheduler(model, slots=8)
    requests = [scheduler.add(prompt, SamplingParams(), max_tokens=64) for prompt in prompts]
    while scheduler.busy:
        for request, token in scheduler.step(): ...

Every `step` runs one token of every slot that has a prompt behind it, and no more of the prompts than one chunk's
length, so that a long one does not keep the others waiting. A step is dispatched before the tokens of the one before it
are read: the device does not wait for the host, and what it computes for a sequence that has ended is thrown away.

What a request answers does not depend on what runs beside it: shapes are those of the slots, whoever is in them, and a
plan that serves more parameters chooses the same tokens. Nothing is compiled once the plan has seen the kinds of
parameters there are, and each length of chunk and span has been met.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import steps
from gguf_jax.generation.constraint import Constraint
from gguf_jax.generation.pace import Pace
from gguf_jax.generation.request import FinishReason, QueueFull, Request, Slot, SlotState, common, packed
from gguf_jax.generation.sampling import SamplerPlan, SamplingParams, make_sampler, plan_for, with_prompt
from gguf_jax.generation.setting import Setting, bucket
from gguf_jax.generation.slot_samplers import fitting
from gguf_jax.generation.speculation import Drafter, Speculation, propose
from gguf_jax.models import Decoder

__all__ = ["MOST_SCORED", "FinishReason", "QueueFull", "Request", "Scheduler", "SlotState"]

MOST_SCORED = 64
SCORED = (0, 5, 20, MOST_SCORED)
"""How many of the best tokens programs are compiled to score."""

MIN_REACH = 256
"""Fewest positions of a slot that chunks are compiled for; others are the powers of two up to the context."""


@dataclass
class _Drawn:
    """What was drawn and not read: tokens `[B]` or `[B, T]`, their scores where somebody wants them, and of each place
    whose it is."""

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
            is taken. What counts is what was run as a prompt; the native kernels give it the same bits in whatever
            chunks.
        speculation: how to guess what follows, see `generation.speculation`; None: not at all.
        burst: tokens that are drawn in one program where a token takes less than some milliseconds, so that calls and
            not the device would bound the speed; what is drawn behind an answer's end is thrown away. 1: never several.
    """

    def __init__(
        self,
        model: Decoder,
        *,
        slots: int = 4,
        max_queue: int | None = None,
        reuse: bool = True,
        speculation: Speculation | None = None,
        burst: int = 4,
        **options: Any,
    ) -> None:
        if slots < 1:
            raise GGUFJaxError(f"slots: expected at least 1, found {slots}")
        if not 1 <= burst <= 64:
            raise GGUFJaxError(f"burst: expected from 1 to 64 tokens, found {burst}")
        super().__init__(model, **options)
        self.burst, self._pace = burst, Pace()
        self.max_queue, self.reuse = max_queue, reuse
        self._speculation = speculation
        self._slots = [Slot() for _ in range(slots)]
        self._queue: collections.deque[Request] = collections.deque()
        self._ids = itertools.count()
        self._turns = itertools.count(1)
        self.reset()

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._queue or self._unread or self._failed or any(slot.request for slot in self._slots))

    @property
    def waiting(self) -> int:
        """Requests without a slot."""
        return len(self._queue)

    @property
    def free(self) -> int:
        """Slots without a request."""
        return sum(slot.request is None for slot in self._slots)

    @property
    def slots(self) -> list[SlotState]:
        """What stands in each slot."""
        return [slot.state for slot in self._slots]

    def add(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        max_tokens: int | None = None,
        end_ids: Collection[int] = (),
        top: int | None = None,
        constraint: Constraint | None = None,
    ) -> Request:
        """A request that `step` will work on; they get slots in the order in which they came.

        Args:
            prompt: token ids.
            max_tokens: longest answer; None: as far as the context reaches.
            end_ids: tokens that end the answer.
            top: see `Request`; from 0 to 64.
            constraint: what the answer must look like; of this request alone.

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
        request = Request(next(self._ids), list(prompt), params, longest, frozenset(end_ids), top, constraint)
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
                slot.leave()

    def reset(self) -> None:
        """Begins anew after a step has failed, whose cache is gone: all requests are cancelled, nothing is held."""
        for request in [*self._queue, *(slot.request for slot in self._slots if slot.request is not None)]:
            self.cancel(request)
        slots = len(self._slots)
        self._slots = [Slot() for _ in range(slots)]
        self._unread: list[_Drawn] = []
        self._failed: list[Request] = []
        self._cache: Any = None  # before there is another
        self._drafter: Drafter | None = None
        self._cache = self.new_cache(slots)
        if self._speculation is not None:
            if not self._cache.rewinds:
                raise GGUFJaxError("speculation: expected a model that keeps keys and values, found one of states")
            self._drafter = self._speculation.drafter(self, slots)
        self._tokens = jnp.zeros(slots, jnp.int32)  # of every slot the last token, as the device has it
        self._plan = SamplerPlan()
        self._sampler = make_sampler([SamplingParams.greedy()] * slots, self.config.vocab_size)
        self._top = 0
        """How many of the best are scored, for whoever has wanted most."""

    def step(self) -> list[tuple[Request, int]]:
        """Goes on with every answer by one token (by several where they were guessed), and with prompts by chunks of
        together at most `batch_size` tokens.

        Returns:
            requests with the tokens that have become known, in the order in which they were drawn. A request whose
            `finish` is set has got its last one; where that is "error", what stands for it is -1.
        """
        self._admit()
        before, self._unread = self._unread, []
        owners = {} if self._drafter else self._going()
        drawn = 0
        if self._drafter:
            found = self._read(before)  # what follows is guessed from it
            self._guess(self._drafter)
        elif any(request.constraint for request in owners.values()):
            found = self._decode_constrained(owners, before)
        else:
            drawn = self._decode(owners)
            found = self._read(before)
        room = self.batch_size
        while room > 0 and (run := self._prefill(room)):
            room, drawn = room - run, 0
        self._pace.lap(drawn)
        failed, self._failed = self._failed, []
        return found + [(request, -1) for request in failed]

    # ---- what a step is made of ----

    def _admit(self) -> None:
        while self._queue and (free := [i for i, slot in enumerate(self._slots) if slot.request is None]):
            request = self._queue.popleft()
            # the last token is always run, for its logits
            prompt = request.prompt[:-1]
            same = [common(slot.held, prompt) if i in free else 0 for i, slot in enumerate(self._slots)]
            kept = self._cache.kept(same) if self.reuse else [0] * len(same)
            # the longest beginning, and else the slot that has least to lose
            index = max(free, key=lambda i: (kept[i], -len(self._slots[i].held)))
            self._slots[index] = Slot(request, self._slots[index].held[: kept[index]])
            request.reused = kept[index]

    def _going(self) -> dict[int, Request]:
        """Slots that want another token, and whose they are."""
        return {
            i: slot.request
            for i, slot in enumerate(self._slots)
            if slot.request is not None and 0 < slot.drawn < slot.request.max_tokens
        }

    def _places(self, owners: Mapping[int, Request]) -> np.ndarray:
        """Of every slot the position int32 `[B]` of its last token, -1 where it is idle."""
        positions = np.full(len(self._slots), -1, np.int32)
        for i, request in owners.items():
            positions[i] = len(request.prompt) + self._slots[i].drawn - 1
        return positions

    def _scored(self, requests: Collection[Request]) -> int | None:
        return self._top if any(request.top is not None for request in requests) else None

    def _decode(self, owners: dict[int, Request]) -> int:
        """Dispatches a token for every slot that wants one, or a burst of them; how many for each."""
        if not owners:
            return 0
        positions = self._places(owners)
        count = self._burst_length(owners)
        cache, self._cache = self._cache, None  # donated: until the call returns nobody may read it
        operands = self.leaves, self._tokens, positions, cache, self._sampler
        options: dict[str, Any] = dict(spec=self.spec, plan=self._plan, span=self.span(int(positions.max()) + count))
        options["top"] = self._scored(owners.values())
        if count > 1:
            tokens, self._tokens, self._cache, self._sampler, scores = steps.decode_burst(
                *operands, **options, count=count
            )
        else:
            self._tokens, _, self._cache, self._sampler, scores = steps.decode(*operands, **options)
            tokens = self._tokens
        self._note(owners, scores, tokens, count)
        return count

    def _burst_length(self, owners: Mapping[int, Request]) -> int:
        """How many tokens are drawn in one program: several, where the host would be waited for otherwise, and nobody
        waits for a slot or for his first token meanwhile."""
        if self.burst == 1 or not self._pace.fast or any(slot.prefilling for slot in self._slots):
            return 1
        left = min(request.max_tokens - self._slots[i].drawn for i, request in owners.items())
        return self.burst if left >= self.burst or not self._queue else 1

    def _decode_constrained(self, owners: dict[int, Request], before: list[_Drawn]) -> list[tuple[Request, int]]:
        """`_decode` in two parts: what may come next is asked while the model runs on what came last."""
        positions = self._places(owners)
        cache, self._cache = self._cache, None
        span = self.span(int(positions.max()) + 1)
        logits, self._cache = steps.following(self.leaves, self._tokens, positions, cache, spec=self.spec, span=span)
        found = self._read(before)
        allowed = self._allowed(owners)
        top = self._scored(owners.values())
        self._tokens, self._sampler, scores = steps.choose(logits, self._sampler, allowed, plan=self._plan, top=top)
        self._note(owners, scores)
        return found

    def _guess(self, drafter: Drafter) -> None:
        """Dispatches several tokens for every slot whose next ones a drafter knows, one for the others."""
        owners = self._going()
        if not owners:
            return
        drafts = propose(drafter, owners, len(self._slots), self._sampler, self._plan)
        allowed = self._allowed(owners) if any(request.constraint for request in owners.values()) else None
        if drafts is None:
            if allowed is None:
                self._decode(owners)
                return
            drafts = np.full((len(self._slots), 0), -1, np.int32)
        positions = self._places(owners)
        cache, self._cache = self._cache, None
        tokens, self._tokens, self._cache, self._sampler, scores = steps.verify(
            self.leaves,
            self._tokens,
            drafts,
            positions,
            cache,
            self._sampler,
            allowed,
            spec=self.spec,
            plan=self._plan,
            span=self.span(int(positions.max()) + 1 + drafts.shape[1]),
            top=self._scored(owners.values()),
        )
        self._note(owners, scores, tokens)

    def _note(
        self,
        owners: dict[int, Request],
        scores: steps.LogProbs | None,
        tokens: jax.Array | None = None,
        count: int = 1,
    ) -> None:
        for i, request in owners.items():
            if self._slots[i].request is request:  # it may have ended while its last token was read
                self._slots[i].drawn += count
        self._unread.append(_Drawn(self._tokens if tokens is None else tokens, scores, owners))

    def _allowed(self, owners: Mapping[int, Request]) -> np.ndarray:
        """What may come next, uint32 `[B, ceil(V / 32)]`: anything, where nobody says otherwise."""
        allowed = np.full((len(self._slots), -(-self.config.vocab_size // 32)), 0xFFFFFFFF, np.uint32)
        for i, request in owners.items():
            if request.constraint is None or request.finish is not None:
                continue
            try:
                request.constraint.mask(allowed[i])
            except Exception as error:  # of one request, whatever it is: the others go on
                self._fail(request, error)
        return allowed

    def _fail(self, request: Request, error: Exception) -> None:
        self.cancel(request)
        lines = str(error).splitlines()
        request.finish, request.error = "error", lines[0] if lines else type(error).__name__
        self._failed.append(request)

    def _read(self, before: list[_Drawn]) -> list[tuple[Request, int]]:
        """Waits for tokens, and gives them to those that still want them."""
        found: list[tuple[Request, int]] = []
        for drawn in before:
            ids = np.asarray(drawn.tokens)
            scores = None if drawn.scores is None else [np.asarray(each) for each in drawn.scores]
            for i, request in drawn.owners.items():
                row = i % len(ids)
                own = None if scores is None else [each[row] for each in scores]
                tokens = [int(ids[row])] if ids.ndim == 1 else [token for token in ids[row].tolist() if token >= 0]
                for j, token in enumerate(tokens):
                    if request.finish is not None:
                        break
                    at = own if own is None or ids.ndim == 1 else [each[j] for each in own]
                    self._take(request, token, at)
                    found.append((request, token))
                if self._drafter is not None:
                    request.check(len(tokens) - 1)
                slot = self._slots[i]
                if slot.request is not request:
                    continue
                if self._drafter is not None:
                    slot.drawn = len(request.tokens)
                if request.finish is not None:
                    slot.leave()
        return found

    def _take(self, request: Request, token: int, scores: list[Any] | None) -> None:
        """The next token of an answer, which may be its last."""
        request.tokens.append(token)
        if request.top is not None and scores is not None:
            own, values, best = scores
            pairs = zip(best[: request.top].tolist(), values[: request.top].tolist(), strict=True)
            request.log_probs.append((float(own), list(pairs)))
        try:
            ends = request.constraint is not None and request.constraint.accept(token)
        except Exception as error:  # see _allowed
            return self._fail(request, error)
        if ends or token in request.end_ids:
            request.finish = "stop"
        elif len(request.tokens) == request.max_tokens:
            request.finish = "length"

    def _prefill(self, room: int) -> int:
        """Dispatches a chunk of the prompt that has waited longest, and beside it of others whose next chunks are as
        long, up to `room` tokens; behind the last one of a prompt its first token. How many tokens that were."""
        waiting = sorted(
            (slot.turn, slot.request.id, i) for i, slot in enumerate(self._slots) if slot.request and slot.prefilling
        )
        lengths = {i: length for *_, i in waiting if (length := self.chunk_length(self._left(i))) <= room}
        if not lengths:
            return 0
        length = next(iter(lengths.values()))
        together = [i for i, each in lengths.items() if each == length][: room // length]
        # as many as are compiled for: those that only fill up stand before the one whose row they are put into
        count = 1 << (len(together) - 1).bit_length()
        rows = [together[0]] * (count - len(together)) + together
        starts = {i: len(self._slots[i].held) for i in together}
        chunks = {i: self._prompt(i)[start : start + length] for i, start in starts.items()}
        tokens, positions, last = packed(chunks, starts, rows, length)
        for i, chunk in chunks.items():
            self._slots[i].held, self._slots[i].turn = [*self._slots[i].held, *chunk], next(self._turns)
        end = int(positions.max()) + 1
        cache, self._cache = self._cache, None
        logits, self._cache = steps.prefill_slots(
            self.leaves,
            tokens,
            positions,
            last,
            cache,
            np.asarray(rows, np.int32),
            spec=self.spec,
            reach=bucket(end, MIN_REACH, self.ctx_size),
            span=self.span(end),
        )
        for row, i in enumerate(together, count - len(together)):
            request = self._slots[i].request
            if request is not None and not self._left(i):
                self._begin(i, request, steps.row_of(logits, np.int32(row)))
        return count * length

    def _left(self, index: int) -> int:
        """Tokens of a slot's prompt that have not been run."""
        slot = self._slots[index]
        return len(self._prompt(index)) - len(slot.held)

    def _prompt(self, index: int) -> list[int]:
        request = self._slots[index].request
        return [] if request is None else request.prompt

    def _begin(self, index: int, request: Request, logits: jax.Array) -> None:
        """The first token of a request, whose sampler joins the others."""
        self._sampler, own = fitting(self._sampler, request.params, self.config.vocab_size, self.ctx_size)
        own = with_prompt(own, [request.prompt])
        self._plan = self._plan.joined(plan_for([request.params], self.config.vocab_size))
        if request.top is not None:
            self._top = max(self._top, next(size for size in SCORED if size >= request.top))
        allowed = None if request.constraint is None else self._allowed({index: request})[index : index + 1]
        if request.finish is not None:  # its constraint has failed
            return
        top = self._scored([request])
        token, row, scores = steps.choose(logits, own, allowed, plan=self._plan, top=top)
        self._sampler, self._tokens = steps.insert(self._sampler, self._tokens, row, token, np.int32(index))
        self._slots[index].drawn = 1
        self._unread.append(_Drawn(token, scores, {index: request}))

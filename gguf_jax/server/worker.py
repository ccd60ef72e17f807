"""`Worker`: a scheduler on a thread of its own, and how requests on an event loop get at it.

The scheduler belongs to that thread alone. What others want of it are calls that the thread makes between two steps;
what it has for them goes into their queues. So a request costs the event loop nothing while a token is computed, and
one that goes away is cancelled at the next step.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Literal

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import Constraint, Piece, Request, SamplingParams, Scheduler
from gguf_jax.generation.text import Answer
from gguf_jax.server.figures import Figures

Load = Callable[[Callable[[float], None]], tuple[Any, Scheduler]]
"""Makes model and scheduler, telling how far it is, from 0 to 1."""


class NotReady(GGUFJaxError):
    """The model is being loaded, could not be loaded, or the server is going down."""


class EngineFailed(GGUFJaxError):
    """A program failed while requests were answered, for which none of them may be to blame."""


class TimedOut(GGUFJaxError):
    """A request's time was over before its answer had begun."""


class Inbox:
    """What has become known of an answer and has not been looked at, on the event loop of whoever wants it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._found: list[Piece | Exception] = []
        self._waiter: asyncio.Future[None] | None = None

    def put(self, found: Piece | Exception) -> None:
        self._found.append(found)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> list[Piece | Exception]:
        """All there is, at least one."""
        while not self._found:
            self._waiter = self.loop.create_future()
            await self._waiter
        found, self._found = self._found, []
        return found


@dataclass(eq=False)
class _Job:
    """A request on its way: where its pieces go."""

    request: Request
    answer: Answer
    inbox: Inbox
    taken: int = 0  # tokens that have been handed over


class Worker:
    """Loads a model and answers with it.

    Args:
        load: called on the worker's thread.
        answer_seconds: how long a request may take, waiting included. One that takes longer ends as one does that has
            reached its length; one whose answer has not begun fails. None: as long as it wants.

    Attributes:
        status: what /health says.
        progress: of loading, from 0 to 1.
        model, scheduler: once it is ready.
        figures: what has been done since the start.
    """

    def __init__(self, load: Load, answer_seconds: float | None = None) -> None:
        self._load, self._answer_seconds = load, answer_seconds
        self.status: Literal["loading", "ready", "failed", "stopping"] = "loading"
        self.progress = 0.0
        self.error: str | None = None
        self.model: Any = None
        self.scheduler: Scheduler | None = None
        self.figures = Figures()
        self._calls: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._jobs: dict[Request, _Job] = {}
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="gguf-jax worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def refuse(self) -> None:
        """Takes nothing new from now on."""
        self.status = "stopping" if self.status == "ready" else self.status

    def give_up(self) -> None:
        """Ends what is running as if its time were over."""
        self._soon(lambda: [self._expire(job) for job in list(self._jobs.values())])

    def stop(self, timeout: float | None = None) -> None:
        """Lets what is running come to its end, but no longer than `timeout` seconds, and takes nothing new."""
        self.refuse()
        self._stopping = True
        with self._wake:
            self._wake.notify()
        if self.status != "loading":  # which nobody waits for
            self._thread.join(timeout)

    _stopping = False

    @property
    def active(self) -> int:
        """Requests that have not ended."""
        return len(self._jobs)

    async def batches(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        ignore_eog: bool = False,
        top: int | None = None,
        constraint: Constraint | None = None,
        shown: Collection[int] = (),
    ) -> AsyncGenerator[list[Piece]]:
        """What each token adds to the answer, as `generation.pieces` has it; those together that became known together.
        A caller that leaves off cancels it. Control tokens of `shown` are part of its text.

        Raises:
            NotReady: there is no model (yet).
            GGUFJaxError: as `Scheduler.add`.
        """
        loop = asyncio.get_running_loop()

        def begin() -> _Job:
            if self.scheduler is None or self.status != "ready":
                raise NotReady(self.reason())
            tokenizer = self.model.tokenizer
            eog = frozenset() if ignore_eog else tokenizer.eog_ids
            room = self.scheduler.ctx_size - len(prompt)
            answer = Answer(0, tokenizer, prompt, stop, min(max_tokens or room, room), eog, shown)
            options: dict[str, Any] = dict(max_tokens=max_tokens, end_ids=eog, top=top, constraint=constraint)
            request = self.scheduler.add(prompt, params, **options)
            self._jobs[request] = job = _Job(request, answer, Inbox(loop))
            self.figures.begin(request)
            return job

        self._check_ready()
        begun: Future[_Job] = self._soon(begin)
        try:
            job = await asyncio.wrap_future(begun)
        except asyncio.CancelledError:  # it may have begun all the same
            begun.add_done_callback(
                lambda done: done.cancelled() or done.exception() or self._soon(lambda: self._end(done.result()))
            )
            raise
        seconds = self._answer_seconds
        over = loop.call_later(seconds, self._soon, lambda: self._expire(job)) if seconds else None
        try:
            while True:
                found = await job.inbox.take()
                pieces = [each for each in found if isinstance(each, Piece)]
                if pieces:
                    yield pieces
                    if pieces[-1].finish is not None:
                        return
                for each in found:
                    if isinstance(each, Exception):
                        raise each
        finally:
            if over is not None:
                over.cancel()
            self._soon(lambda: self._end(job))

    def reason(self) -> str:
        """Why it does not answer."""
        if self.status == "failed":
            return str(self.error)
        if self.status == "stopping":
            return "the server is going down"
        return f"the model is being loaded ({self.progress:.0%})"

    def _check_ready(self) -> None:
        if self.status != "ready":
            raise NotReady(self.reason())

    def _soon(self, function: Callable[[], Any]) -> Future[Any]:
        """Has the worker's thread call a function between two steps."""
        future: Future[Any] = Future()
        with self._wake:
            self._calls.append((function, future))
            self._wake.notify()
        return future

    # ---- on the thread ----

    def _run(self) -> None:
        def told(progress: float) -> None:
            self.progress = progress

        try:
            self.model, self.scheduler = self._load(told)
        except Exception as error:  # whatever it is, /health has to say so
            self.error, self.status = f"the model could not be loaded: {error}", "failed"
            return
        self.progress, self.status = 1.0, "ready"
        try:
            while self._turn():
                pass
        except Exception as error:  # what is left cannot answer, and nobody shall wait for it
            self.error, self.status = f"the engine has failed: {_line(error)}", "failed"
            _log("the engine has failed", error)
            self._hand_over([(job, EngineFailed(self.error)) for job in self._jobs.values()])
            self._jobs.clear()
            with self._wake:
                calls, self._calls = self._calls, []
            for _, future in calls:
                if future.set_running_or_notify_cancel():
                    future.set_exception(NotReady(self.error))

    def _turn(self) -> bool:
        """One step, or a wait for something to do; False when all is over."""
        assert self.scheduler is not None
        with self._wake:
            while not self._calls and not self.scheduler.busy:
                if self._stopping:
                    return False
                self._wake.wait()
            calls, self._calls = self._calls, []
        for function, future in calls:
            if not future.set_running_or_notify_cancel():  # whoever wanted it has gone
                continue
            try:
                future.set_result(function())
            except Exception as error:  # the caller's
                future.set_exception(error)
        if self.scheduler.busy:
            try:
                events = self.scheduler.step()
            except Exception as error:  # a program failed: everybody is told, nobody waits for ever
                jobs = list(self._jobs.values())
                _log("a step failed", error)
                self._hand_over([(job, EngineFailed(f"engine: {_line(error)}")) for job in jobs])
                for job in jobs:
                    self._end(job)
                self.scheduler.reset()
                return True
            self.figures.step(events)
            found = ((self._jobs.get(request), token) for request, token in events)
            self._hand_over([(job, self._piece(job, token)) for job, token in found if job is not None])
        return True

    @staticmethod
    def _hand_over(pieces: Sequence[tuple[_Job, Piece | Exception]]) -> None:
        """Puts pieces into their queues, all of a step in one call: each wakes the event loop by a system call."""

        def put(pieces: Sequence[tuple[_Job, Piece | Exception]]) -> None:
            for job, piece in pieces:
                job.inbox.put(piece)

        loops = {job.inbox.loop for job, _ in pieces}
        for loop in loops:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(put, [each for each in pieces if each[0].inbox.loop is loop])

    def _piece(self, job: _Job, token: int) -> Piece | Exception:
        try:
            return self._added(job, token)
        except Exception as error:  # of this answer alone
            _log("a token could not be told", error)
            self._end(job)
            return EngineFailed(f"engine: {_line(error)}")

    def _added(self, job: _Job, token: int) -> Piece | Exception:
        request = job.request
        if request.finish == "error":
            self._end(job)
            return GGUFJaxError(request.error or "the answer could not be gone on with")
        self.figures.draw(request)
        job.taken += 1
        # a token that ends an answer may not say so itself: it was the last that a constraint had room for
        last = request.finish == "stop" and job.taken == len(request.tokens)
        piece = job.answer.put(token, last)
        if request.log_probs:
            piece = replace(piece, log_probs=request.log_probs[job.taken - 1])
        if piece.finish is not None:
            piece = replace(piece, reused=request.reused)
            self.figures.answered += 1
            self._end(job)
        return piece

    def _expire(self, job: _Job) -> None:
        if job.request not in self._jobs:
            return
        begun = bool(job.request.tokens)
        self._hand_over([(job, job.answer.put(-1) if begun else TimedOut("the request's time was over too early"))])
        self._end(job)

    def _end(self, job: _Job) -> None:
        assert self.scheduler is not None
        self._jobs.pop(job.request, None)
        self.figures.end(job.request)
        self.scheduler.cancel(job.request)


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _log(message: str, error: Exception) -> None:
    logging.getLogger("gguf_jax").error(message, exc_info=error)

"""`Reader`: what of an answer is text and what are calls of tools, as it comes; `FormReader`, by a form."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Protocol

from gguf_jax.chat.forms import Form
from gguf_jax.chat.scan import Balance, Scan, Short, Wrong, begun, call, named, rest
from gguf_jax.chat.tools import Arguments, CallBegun, Event, Thought, Tool, joined

THOUGHT = ("<think>", "</think>")
"""What models that think aloud put around it; nothing in between is a call."""


NOTHING = Form("")


class _Stage(Enum):
    START = auto()  # a call may begin the answer
    THOUGHT = auto()
    TEXT = auto()
    CALLS = auto()  # what comes first stands before the next call
    ARGUMENTS = auto()  # of a call that has begun
    CLOSE = auto()  # what ends it
    AFTER = auto()  # another call, the end of calls, or text
    GAP = auto()  # white space behind calls


class Reader(Protocol):
    """Takes an answer in pieces, and gives texts, calls and thoughts in their order. What is joined from them does not
    depend on how the answer was cut."""

    def put(self, text: str) -> list[Event]:
        """What is clear now."""
        ...

    def flush(self) -> list[Event]:
        """The rest, at the end of the answer."""
        ...


class FormReader:
    """A `Reader` of answers with calls in a form.

    Text that may yet be the beginning of a call is held back; what turns out to be none (of no known tool, or no JSON)
    is text, as it is. White space before and after calls is dropped.

    Args:
        form: how calls are written; None: there are none.
        tools: those that may be called.
        thinking: the prompt ends within a thought.
        apart: a thought that begins the answer is given as such; else it is text like the rest.
        sure: a grammar enforces calls: their arguments are given as they come, where the form has them as JSON.
    """

    def __init__(
        self,
        form: Form | None,
        tools: Sequence[Tool] = (),
        *,
        thinking: bool = False,
        apart: bool = False,
        sure: bool = False,
    ) -> None:
        self._form, self._tools, self._apart = form or NOTHING, named(tools), apart
        if form is None:
            self._begins, self._triggers = (), ()
        elif form.trigger:
            self._begins, self._triggers = (), (form.trigger,)
        else:
            self._begins, self._triggers = (form.opening, *form.leads), form.leads
        self._in_parts = sure and self._form.parameter is None
        self._balance, self._behind = Balance(), list[str]()
        self._held = ""
        self._bare = apart and thinking  # white space is dropped until there is something else
        self._inside = False  # behind what begins calls, and before what ends them
        self._stage = _Stage.THOUGHT if thinking else _Stage.START

    def put(self, text: str) -> list[Event]:
        self._held += text
        return self._advance(final=False)

    def flush(self) -> list[Event]:
        return self._advance(final=True)

    def _advance(self, final: bool) -> list[Event]:
        found: list[Event] = []
        while self._held:
            before = self._stage, len(self._held)
            self._step(found, final)
            if (self._stage, len(self._held)) == before:
                break
        return joined(found)

    def _step(self, found: list[Event], final: bool) -> None:
        match self._stage:
            case _Stage.START:
                self._start(final)
            case _Stage.THOUGHT:
                self._thought(found, final)
            case _Stage.TEXT:
                self._text(found, final)
            case _Stage.CALLS:
                self._calls(found, final)
            case _Stage.ARGUMENTS:
                self._arguments(found)
            case _Stage.CLOSE:
                self._close(final)
            case _Stage.AFTER:
                self._after(final)
            case _Stage.GAP:
                self._gap()

    def _start(self, final: bool) -> None:
        """Whether the answer begins with a thought or a call."""
        if self._bare:
            self._held = self._held.lstrip()
        rest = self._held.lstrip()
        if rest.startswith(THOUGHT[0]):
            self._stage = _Stage.THOUGHT
            if self._apart:
                self._held, self._bare = rest[len(THOUGHT[0]) :], True
        elif any(rest.startswith(begin) for begin in self._begins):
            self._stage = _Stage.CALLS
        elif final or not any(begin.startswith(rest) for begin in (THOUGHT[0], *self._begins)):
            self._stage = _Stage.TEXT

    def _thought(self, found: list[Event], final: bool) -> None:
        end = self._held.find(THOUGHT[1])
        over = end >= 0
        if not self._apart:
            kept = 0 if final else _held_back(self._held, (THOUGHT[1],))
            self._take(found, end + len(THOUGHT[1]) if over else len(self._held) - kept)
        else:
            if self._bare:
                self._held = self._held.lstrip()
                end = self._held.find(THOUGHT[1])
            text = self._held[:end] if over else self._held
            kept = 0 if final or over else _held_back(text, (THOUGHT[1],))
            text = text[: len(text) - kept].rstrip()
            found.append(Thought(text))
            self._held = self._held[end + len(THOUGHT[1]) if over else len(text) :]
            self._bare = over or (self._bare and not text)
            if final and not over:
                self._held = ""
        if over:
            self._stage = _Stage.START

    def _text(self, found: list[Event], final: bool) -> None:
        places = [at for trigger in self._triggers if (at := self._held.find(trigger)) >= 0]
        if places:
            self._take(found, len(self._held[: min(places)].rstrip()))
            self._stage, self._inside = _Stage.CALLS, False
        elif final or not self._triggers:
            self._take(found, len(self._held))
        else:  # white space waits, for before a call it is dropped
            kept = _held_back(self._held, self._triggers)
            self._take(found, len(self._held[: len(self._held) - kept].rstrip()))

    def _calls(self, found: list[Event], final: bool) -> None:
        scan = Scan(self._held, final=final)
        scan.space()
        start = scan.at
        try:
            if not self._inside:
                for lead in self._form.leads:
                    if self._held.startswith(lead, start):
                        scan.literal(lead)
                scan.literal(self._form.begin)
            if self._in_parts:
                name, self._behind = begun(scan, self._form, self._tools)
                found.append(CallBegun(name))
                self._balance = Balance()
            else:
                found.append(call(scan, self._form, self._tools))
        except Short:
            if final:  # a call without arguments is none
                self._take(found, len(self._held))
            return
        except Wrong:
            self._take(found, start + 1)
            self._stage = _Stage.TEXT
            return
        self._held = self._held[scan.at :]
        self._inside, self._stage = True, _Stage.ARGUMENTS if self._in_parts else _Stage.AFTER

    def _arguments(self, found: list[Event]) -> None:
        end = self._balance.put(self._held)
        text = self._held if end is None else self._held[:end]
        found.append(Arguments(text))
        self._held = self._held[len(text) :]
        if end is not None:
            self._stage = _Stage.CLOSE

    def _close(self, final: bool) -> None:
        scan = Scan(self._held, final=final)
        try:
            rest(scan, self._behind)
            self._held = self._held[scan.at :]
        except Short:
            return
        except Wrong:  # whatever it is, it stands behind the call
            pass
        self._stage = _Stage.AFTER

    def _after(self, final: bool) -> None:
        """Behind a call: another one, or the end of them."""
        form, short = self._form, False
        ways = (_Stage.CALLS, (form.between, form.opening)), (_Stage.GAP, (form.end,))
        for stage, (literal, *following) in ways if form.end else ways[:1]:
            try:
                self._held = self._held[self._reached(literal, *following) :]
            except Short:
                short = True
            except Wrong:
                pass
            else:
                self._stage = stage
                return
        if short and not final:
            return
        if short and "".join(form.end.split()).startswith("".join(self._held.split())):
            self._held = ""  # the end of calls, cut off
        self._stage = _Stage.GAP

    def _reached(self, literal: str, following: str = "") -> int:
        """Where a literal ends that stands here, with another behind it. Raises as `Scan`."""
        scan = Scan(self._held)
        scan.literal(literal)
        at = scan.at
        scan.literal(following)
        return at

    def _gap(self) -> None:
        """Behind calls white space is dropped."""
        self._held = self._held.lstrip()
        if self._held:
            self._stage = _Stage.TEXT

    def _take(self, found: list[Event], count: int) -> None:
        found.append(self._held[:count])
        self._held = self._held[count:]


def _held_back(text: str, endings: Sequence[str]) -> int:
    """How many characters at the end of a text may be the beginning of one of `endings`."""
    longest = max(map(len, endings), default=1) - 1
    lengths = range(min(longest, len(text)), 0, -1)
    return next((n for n in lengths if any(each.startswith(text[len(text) - n :]) for each in endings)), 0)

"""gpt-oss's answers: messages, each with a head that says whom it is for, rather than text with marks in it.

    <|channel|>analysis<|message|>...<|end|>
    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>
    <|start|>assistant<|channel|>final<|message|>...<|return|>

The prompt ends with `<|start|>assistant`; `<|call|>` and `<|return|>` end the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from gguf_jax.chat.forms import Form
from gguf_jax.chat.scan import Wrong, named, written
from gguf_jax.chat.tools import NAME, Call, Event, Thought, Tool, joined

FORM = Form("<|channel|>commentary to=functions.⟨name⟩ <|constrain|>json<|message|>⟨arguments⟩")
"""What an enforced call looks like."""

FINAL = "<|channel|>final<|message|>"
"""What an answer begins with that must have a form."""

MESSAGE = "<|message|>"
ENDS = re.compile(r"<\|(?:end|start|channel)\|>")
MARKERS = frozenset({"<|start|>", "<|end|>", "<|channel|>", "<|constrain|>", MESSAGE})
HEAD = ("<|channel|>", "<|start|>", "to=", MESSAGE)
CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
RECIPIENT = re.compile(rf"to=functions\.({NAME.pattern})")


def is_harmony(source: str) -> bool:
    """Whether a chat template is gpt-oss's."""
    return all(marker in source for marker in ("<|channel|>", MESSAGE, "<|start|>"))


class Harmony:
    """A `Reader`. A message of the channel `analysis` is a thought, one to a known tool with a JSON object a call, and
    anything else text.

    Args:
        apart: thoughts are given; else they are left out.
    """

    def __init__(self, tools: Sequence[Tool] = (), *, apart: bool = True) -> None:
        self._tools, self._apart = named(tools), apart
        self._held = ""
        self._head: str | None = None  # of the message whose text is being read

    def put(self, text: str) -> list[Event]:
        self._held += text
        return self._advance(final=False)

    def flush(self) -> list[Event]:
        return self._advance(final=True)

    def _advance(self, final: bool) -> list[Event]:
        found: list[Event] = []
        while self._held:
            before = self._head, len(self._held)
            if self._head is None:
                self._read_head(final)
            else:
                self._read_text(found, final)
            if (self._head, len(self._held)) == before:
                break
        return joined(found)

    def _read_head(self, final: bool) -> None:
        head, mark, rest = self._held.partition(MESSAGE)
        if mark:
            self._head, self._held = head, rest
            return
        start = self._held.strip().removeprefix("assistant").lstrip()
        if final or not any(start.startswith(mark) or mark.startswith(start) for mark in HEAD):
            self._head = ""  # a model that does not keep to the form

    def _read_text(self, found: list[Event], final: bool) -> None:
        head = self._head or ""
        end = ENDS.search(self._held)
        name = RECIPIENT.search(head)
        if end is None and not final:
            if name is None:
                kept = _begun(self._held)
                self._say(found, head, self._held[: len(self._held) - kept])
                self._held = self._held[len(self._held) - kept :]
            return
        text = self._held if end is None else self._held[: end.start()]
        call = None if name is None else self._call(name[1], text)
        if call is not None:
            found.append(call)
        else:
            self._say(found, head, text)
        # a head may follow at once
        self._held = "" if end is None else self._held[end.end() if end[0] == "<|end|>" else end.start() :]
        self._head = None

    def _call(self, name: str, text: str) -> Call | None:
        try:
            arguments = json.loads(text or "{}")
            return Call(name, written(arguments)) if name in self._tools and isinstance(arguments, dict) else None
        except (ValueError, RecursionError, Wrong):
            return None

    def _say(self, found: list[Event], head: str, text: str) -> None:
        channel = CHANNEL.search(head)
        if channel is None or channel[1] != "analysis":
            found.append(text)
        elif self._apart:
            found.append(Thought(text))


def _begun(text: str) -> int:
    """How many characters at the end may be the beginning of a mark."""
    at = text.rfind("<")
    tail = text[at:] if at >= 0 else ""
    return len(tail) if tail and any(mark.startswith(tail) for mark in ("<|end|>", "<|start|>", "<|channel|>")) else 0

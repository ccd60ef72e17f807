"""Grammars for calls: an answer that must be one, and an answer in which what begins as a call is one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from gguf_jax.chat.forms import SLOT, Form
from gguf_jax.chat.reader import THOUGHT
from gguf_jax.chat.tools import Tool
from gguf_jax.grammars import embedded


class Special(Protocol):
    """What of a tokenizer says which texts are control tokens."""

    @property
    def eog_ids(self) -> frozenset[int]: ...
    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]: ...
    def is_control(self, id: int) -> bool: ...


def control_ids(tokenizer: Special, markers: Sequence[str] | frozenset[str]) -> dict[str, int]:
    """Those of some texts that are one control token each."""
    found = {}
    for marker in sorted(markers):
        ids = tokenizer.encode(marker, add_special=False, parse_special=True)
        if len(ids) == 1 and tokenizer.is_control(ids[0]):
            found[marker] = ids[0]
    return found


def grammar(
    form: Form,
    tools: Sequence[Tool],
    special: Mapping[str, int],
    *,
    required: bool,
    parallel: bool,
    other: Mapping[str, Any] | None = None,
    before: str = "",
    thinking: bool = False,
) -> str:
    """A Lark grammar for answers with calls of `tools`.

    Args:
        special: the form's texts that are control tokens, with their ids.
        required: the answer is calls and nothing else. If not, it is any text (of no control tokens but those of
            `special`), in which the form's trigger begins a call; the form must have one.
        parallel: several calls may follow one another.
        other: with `required`, JSON schema of what the answer may be instead, and `before` what stands before it.
        thinking: the answer begins within a thought. In thoughts calls are only talked about; where an answer begins
            with one, what is enforced begins behind it.
    """
    write = _Writer(form, special)
    rules = [rule for i, tool in enumerate(tools) for rule in write.arguments(i, tool)]
    more = "(following)*" if parallel else ""
    if parallel:
        # Lexemes are as long as can be: what stands between calls is one with what they begin with, lest it be taken
        # for the beginning of what stands behind them.
        rules += write.calls("following", tools, form.between + form.call)
    end = write.literal(form.end)
    if required:
        rules += write.calls("call", tools, form.call)
        instead = "" if other is None else f" | {write.literal(before)} {_json(other, strict=True)}"
        return "\n".join([f"start: {write.literal(form.begin)} call {more} {end}{instead}", *rules])
    # Behind the trigger the answer goes on with what the form has behind it.
    trigger = form.trigger
    if form.begin:
        rules += write.calls("call", tools, form.call)
        called, again = f"{write.literal(form.begin.partition(trigger)[2])} call {more} {end}", False
    else:
        rules += write.calls("call", tools, form.call.removeprefix(trigger))
        called, again = "call", parallel
    lines = [
        *write.reached("trigger", "TEXT", trigger),
        *write.reached("thought", "TEXT", THOUGHT[1]),
        f"called: {called}",
        f"rest: (trigger called){'*' if again else '?'} text",
        f"start: {'within' if thinking else 'opening within | first'}",
        "within: thought rest | UNCLOSED",
        "text: TEXT",
        r"TEXT: /(.|\n)*/",
        f"UNCLOSED: {'TEXT' if THOUGHT[1] in special else f'TEXT & ~(TEXT {_quoted(THOUGHT[1])} TEXT)'}",
    ]
    if not thinking:
        lines.append(f"first: first_trigger called {'rest' if again else 'text'} | FIRST")
        lines += write.reached("first_trigger", "FIRST", trigger)
        if THOUGHT[0] in special:
            lines += [rf"opening: /\s*/ {write.literal(THOUGHT[0])}", "FIRST: TEXT"]
        else:
            lines += ["opening: OPENING", rf"OPENING: /\s*/ {_quoted(THOUGHT[0])}", "FIRST: TEXT & ~(OPENING TEXT)"]
    return "\n".join([*lines, *rules])


class _Writer:
    """Parts of a form as parts of a grammar."""

    def __init__(self, form: Form, special: Mapping[str, int]) -> None:
        self._form, self._special = form, special
        texts = "|".join(map(re.escape, sorted(special, key=len, reverse=True)))
        self._split = re.compile(f"({texts})") if texts else None

    def literal(self, text: str) -> str:
        """A text; what is a control token in it stands there by its id."""
        pieces = self._split.split(text) if self._split else [text]
        return " ".join(f"<[{self._special[p]}]>" if p in self._special else _quoted(p) for p in pieces if p)

    def reached(self, name: str, before: str, text: str) -> list[str]:
        """The rule of what stands before the first of a text, and the text."""
        lazy = "" if text in self._special else "[lazy]"
        return [f"{name}{lazy}: {before} {self.literal(text)}"]

    def calls(self, name: str, tools: Sequence[Tool], pattern: str) -> list[str]:
        """The rules of a call of any of several tools, which is written by a pattern."""
        each = [f"{name}_{i}: {self._call(i, tool, pattern)}" for i, tool in enumerate(tools)]
        return [f"{name}: {' | '.join(f'{name}_{i}' for i in range(len(tools)))}", *each]

    def _call(self, number: int, tool: Tool, pattern: str) -> str:
        slots = {"arguments": f"arguments_{number}", "number": "/[0-9]{1,3}/", "id": "/[a-zA-Z0-9]{9}/"}
        pieces = SLOT.split(pattern.replace("⟨name⟩", tool.name))
        return " ".join(slots[piece] if i % 2 else self.literal(piece) for i, piece in enumerate(pieces))

    def arguments(self, number: int, tool: Tool) -> list[str]:
        """The rules of a tool's arguments."""
        if self._form.parameter is None:
            return [f"arguments_{number}: {_json(tool.parameters, tool.strict)}"]
        properties = tool.parameters.get("properties")
        required = tool.parameters.get("required")
        required = required if isinstance(required, list) else []
        rules, names = [], []
        shared = {key: tool.parameters[key] for key in ("$defs", "definitions") if key in tool.parameters}
        for i, (key, schema) in enumerate((properties if isinstance(properties, Mapping) else {}).items()):
            name = f"parameter_{number}_{i}"
            names.append(name if key in required else f"{name}?")
            rules += self._parameter(name, key, {**schema, **shared} if isinstance(schema, Mapping) else {}, tool)
        return [f"arguments_{number}: {' '.join(names) or _quoted('')}", *rules]

    def _parameter(self, name: str, key: str, schema: Mapping[str, Any], tool: Tool) -> list[str]:
        is_string = tool.is_string(key)
        before, _, after = (self._form.parameter or "").partition("⟨value⟩")
        values = {"key": key, "string": "true" if is_string else "false"}
        head = self.literal(SLOT.sub(lambda slot: values[slot[1]], before))
        if not is_string:
            return [f"{name}: {head} {_json(schema, tool.strict)} {self.literal(after)}"]
        found = tool.parameter(key)
        values = found.get("enum", [found["const"]] if "const" in found else None)
        if isinstance(values, list):
            texts = " | ".join(map(_quoted, values))
            return [f"{name}: {head} ({texts}) {self.literal(after)}"]
        # as it is, up to what stands behind it
        return [f"{name}: {head} {name}_text", rf"{name}_text[lazy]: /(.|\n)*/ {_quoted(after)}"]


def _quoted(text: str) -> str:
    return json.dumps(text)


def _json(schema: Any, strict: bool) -> str:
    """A schema within a grammar. What cannot be enforced of one that is not strict is left to the model."""
    return embedded(schema if isinstance(schema, Mapping) else {}, lenient=not strict)


def thinks(text: str) -> bool:
    """Whether a prompt ends within a thought."""
    return text.rstrip().endswith(THOUGHT[0])

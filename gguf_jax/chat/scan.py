"""Reading one call out of what a model has written so far, by the form it is written in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from gguf_jax.chat.forms import SLOT, Form
from gguf_jax.chat.tools import NAME, Call, Tool

SPACE = re.compile(r"\s*")
CHUNKS = re.compile(r"\S+")
BRACKETS = re.compile(r'["{}\[\]]')
STRING = re.compile(r'(?:[^"\\]|\\.)*"', re.DOTALL)
ID = re.compile(r"[\w-]+")


class Short(Exception):
    """The text ends before it is clear what it is."""


class Wrong(Exception):
    """The text is none of this."""


class Scan:
    """A place in a text that is read from left to right.

    Methods raise Short where more of the text could make what is asked for of it, Wrong where nothing could.

    Args:
        final: no more will come. A literal that is cut off by the end then counts: a token that ends an answer, or a
            stop string, may have taken its place.
    """

    def __init__(self, text: str, at: int = 0, final: bool = False) -> None:
        self.text, self.at, self.final = text, at, final

    def space(self) -> None:
        found = SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def literal(self, literal: str) -> None:
        """A text, whatever white space stands around or within it."""
        for chunk in CHUNKS.findall(literal):
            self.space()
            if self.text.startswith(chunk, self.at):
                self.at += len(chunk)
            elif chunk.startswith(self.text[self.at :]):
                if not self.final:
                    raise Short
                self.at = len(self.text)
            else:
                raise Wrong
        self.space()

    def match(self, pattern: re.Pattern[str]) -> str:
        """As much as a pattern takes, which something must follow."""
        found = pattern.match(self.text, self.at)
        if found is None:
            self._nothing()
        if found.end() == len(self.text) and not self.final:
            raise Short
        self.at = found.end()
        return found[0]

    def value(self) -> Any:
        """A JSON object or list, with what may stand around it."""
        self.space()
        if self.at == len(self.text):
            self._nothing()
        if self.text[self.at] not in "{[":
            raise Wrong
        end = self._balanced()
        try:
            value = json.loads(self.text[self.at : end], parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise Wrong from error
        self.at = end
        self.space()
        return value

    def until(self, literal: str) -> str:
        """What stands before a literal, which is passed over."""
        end = re.compile(r"\s*".join(map(re.escape, CHUNKS.findall(literal)))).search(self.text, self.at)
        if end is None:
            raise (Wrong if self.final else Short)
        found, self.at = self.text[self.at : end.start()], end.end()
        return found

    def _balanced(self) -> int:
        """Where brackets that open here are closed again."""
        depth, at = 0, self.at
        while found := BRACKETS.search(self.text, at):
            at = found.end()
            if found[0] == '"':
                string = STRING.match(self.text, at)
                if string is None:
                    break
                at = string.end()
            else:
                depth += 1 if found[0] in "{[" else -1
                if depth == 0:
                    return at
        raise (Wrong if self.final else Short)

    def _nothing(self) -> NoReturn:
        raise (Short if self.at == len(self.text) and not self.final else Wrong)


class Balance:
    """Where a JSON object that comes in pieces ends."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False

    def put(self, text: str) -> int | None:
        """How much of the next piece belongs to it; None: all of it, and there is more to come."""
        for i, character in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return i + 1
        return None


def begun(scan: Scan, form: Form, tools: Mapping[str, Tool]) -> tuple[str, list[str]]:
    """The name of a call that begins here exactly as the form has it, up to its arguments, and the parts of the form
    behind those."""
    pieces = SLOT.split(form.call)
    name = ""
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            scan.literal(piece)
        elif piece == "name":
            name = scan.match(NAME)
            if name not in tools:
                raise Wrong
        elif piece == "arguments":
            if scan.at == len(scan.text):
                raise Short
            if scan.text[scan.at] != "{":
                raise Wrong
            return name, pieces[i + 1 :]
        else:
            scan.match(ID)
    raise Wrong


def rest(scan: Scan, pieces: Sequence[str]) -> None:
    """What of a form stands behind the arguments."""
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            scan.literal(piece)
        else:
            scan.match(ID)


def call(scan: Scan, form: Form, tools: Mapping[str, Tool]) -> Call:
    """The call that begins here. Wrong where it is of none of `tools`, or its arguments are no JSON object."""
    before, value, after = form.parts
    if value:
        scan.literal(before)
        found = _of_object(scan.value())
        scan.literal(after)
    else:
        found = _in_slots(scan, form, tools)
    if found.name not in tools:
        raise Wrong
    return found


def _of_object(value: Any) -> Call:
    """Models are not strict about the names of keys: those of any form will do in all."""
    if not isinstance(value, dict):
        raise Wrong
    name = value.get("name", value.get("tool_name"))
    given = value.get("arguments", value.get("parameters", {}))
    identity = value.get("id", value.get("tool_call_id"))
    if isinstance(given, str):
        try:
            given = json.loads(given, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise Wrong from error
    if not isinstance(name, str) or not isinstance(given, dict):
        raise Wrong
    # a number counts the calls of an answer, and tells them apart in no other
    known = identity if isinstance(identity, str) and not identity.isdecimal() else None
    return Call(name, written(given), known)


def _in_slots(scan: Scan, form: Form, tools: Mapping[str, Tool]) -> Call:
    pieces = SLOT.split(form.call)
    name, identity, arguments = "", None, {}
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            # white space may end a value, so only what is around a literal is passed over
            scan.literal(piece)
        elif piece == "name":
            name = scan.match(NAME)
            if name not in tools:
                raise Wrong
        elif piece == "arguments":
            arguments = scan.value() if form.parameter is None else _parameters(scan, form.parameter, tools[name])
        else:
            identity = scan.match(ID)
    if not isinstance(arguments, dict):
        raise Wrong
    known = identity if identity is not None and not identity.isdecimal() else None
    return Call(name, written(arguments), known)


def _parameters(scan: Scan, pattern: str, tool: Tool) -> dict[str, Any]:
    """Arguments one by one, as long as there is another."""
    pieces = SLOT.split(pattern)
    found: dict[str, Any] = {}
    while True:
        start = scan.at
        try:
            scan.literal(pieces[0])
        except Wrong:
            scan.at = start
            return found
        key, is_string = "", None
        for i, piece in enumerate(pieces[1:], 1):
            if i % 2 == 0:
                continue
            following = pieces[i + 1]
            if piece == "key":
                key = scan.until(following).strip()
            elif piece == "string":
                is_string = scan.until(following).strip() == "true"
            else:
                raw = scan.until(following)
                found[key] = _read(_inner(raw, pieces[i - 1], following), key, tool, is_string)


def _inner(raw: str, before: str, after: str) -> str:
    """A value without the line breaks that the form has around it."""
    raw = raw.removeprefix("\n") if before.endswith("\n") else raw
    return raw.removesuffix("\n") if after.startswith("\n") else raw


def _read(raw: str, key: str, tool: Tool, is_string: bool | None) -> Any:
    """A value that is written without quotation marks: a string, if the form or the tool's schema says so."""
    if is_string is None:
        is_string = tool.is_string(key)
    if is_string:
        return raw
    try:
        return json.loads(raw, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return raw


def written(arguments: Mapping[str, Any]) -> str:
    """Arguments as JSON text. Raises Wrong for what has none, such as an infinite number."""
    try:
        return json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise Wrong from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def named(tools: Sequence[Tool]) -> dict[str, Tool]:
    return {tool.name: tool for tool in tools}

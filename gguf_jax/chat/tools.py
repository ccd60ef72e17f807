"""`Tool` and `Call`: what a model may call, and what it has called; OpenAI's dictionaries read into them."""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import shown

NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
"""What a tool may be called: OpenAI's rule, and a point."""

MOST_TOOLS = 128

Choice = Literal["none", "auto", "required"]


class ToolError(GGUFJaxError, ValueError):
    """Tools, a choice of one, or messages about them are not as they must be."""


@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    Attributes:
        parameters: JSON schema of its arguments, an object.
        strict: whether a schema with what cannot be enforced is refused; else as much of it is enforced as can be.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = False

    def parameter(self, name: str) -> Mapping[str, Any]:
        """The schema of one argument, a reference within the schema followed; empty where there is none."""
        properties = self.parameters.get("properties")
        found = properties.get(name) if isinstance(properties, Mapping) else None
        for _ in range(8):
            reference = found.get("$ref") if isinstance(found, Mapping) else None
            if not isinstance(reference, str) or not reference.startswith("#/"):
                break
            found = self.parameters
            for key in reference[2:].split("/"):
                found = found.get(key) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def is_string(self, name: str) -> bool:
        """Whether an argument can only be a string."""
        schema = self.parameter(name)
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if isinstance(values, list) and values:
            return all(isinstance(value, str) for value in values)
        return schema.get("type") == "string"

    def as_dict(self) -> dict[str, Any]:
        """As chat templates take it."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class Call:
    """A call of a tool; `arguments` is a JSON object as text, `id` what the model gave it, if it did."""

    name: str
    arguments: str
    id: str | None = None

    def as_dict(self, number: int, ids: str) -> dict[str, Any]:
        """As a message of an assistant has it. `ids` is a form's (`Form.ids`), `number` that of the call."""
        made = ids.format(name=self.name, number=number, random=new_id())
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id or made, "type": "function", "function": function}


@dataclass(frozen=True)
class Thought:
    """What a model thinks before it answers."""

    text: str


@dataclass(frozen=True)
class CallBegun:
    """A call whose arguments are on their way."""

    name: str

    def as_dict(self, number: int, ids: str) -> dict[str, Any]:
        """As `Call.as_dict`, with no arguments yet."""
        return Call(self.name, "").as_dict(number, ids)


@dataclass(frozen=True)
class Arguments:
    """A piece of the arguments of the call that has begun last."""

    text: str


Event = str | Call | Thought | CallBegun | Arguments
"""What an answer consists of."""


def joined(found: Sequence[Event]) -> list[Event]:
    """The same with texts that follow one another as one, and thoughts, and no empty ones."""
    events: list[Event] = []
    for each in found:
        last = events[-1] if events else None
        if isinstance(each, str) and isinstance(last, str):
            events[-1] = last + each
        elif isinstance(each, Thought) and isinstance(last, Thought):
            events[-1] = Thought(last.text + each.text)
        elif isinstance(each, Arguments) and isinstance(last, Arguments):
            events[-1] = Arguments(last.text + each.text)
        elif each not in ("", Thought(""), Arguments("")):
            events.append(each)
    return events


def new_id() -> str:
    """Nine letters and digits: what Mistral's templates insist on, and others do not mind."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


def read_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[Tool]:
    """OpenAI's `tools`. Raises ToolError."""
    found: list[Tool] = []
    if tools is not None and (not isinstance(tools, Sequence) or isinstance(tools, str)):
        raise ToolError(f"tools: expected a list, found {shown(tools)}")
    if tools is not None and len(tools) > MOST_TOOLS:
        raise ToolError(f"tools: expected at most {MOST_TOOLS}, found {len(tools)}")
    for i, each in enumerate(tools or ()):
        where = f"tools[{i}]"
        if not isinstance(each, Mapping):
            raise ToolError(f"{where}: expected an object, found {shown(each)}")
        if each.get("type", "function") != "function":
            raise ToolError(f"{where}.type: expected 'function', found {shown(each['type'])}")
        function = each.get("function")
        if not isinstance(function, Mapping):
            raise ToolError(f"{where}.function: expected an object, found {shown(function)}")
        found.append(_tool(function, f"{where}.function"))
    names = [tool.name for tool in found]
    for name in names:
        if names.count(name) > 1:
            raise ToolError(f"tools: expected names that differ, found {name!r} twice")
    return found


def _tool(function: Mapping[str, Any], where: str) -> Tool:
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ToolError(f"{where}.name: expected up to 64 letters, digits, '_', '.' or '-', found {shown(name)}")
    description = function.get("description")
    if not isinstance(description, str | None):
        raise ToolError(f"{where}.description: expected a text, found {shown(description)}")
    parameters = function.get("parameters")
    if not isinstance(parameters, Mapping | None):
        raise ToolError(f"{where}.parameters: expected a JSON schema, which is an object, found {shown(parameters)}")
    known: dict[str, Any] = {"strict": function.get("strict") is True}
    if parameters:
        kind = parameters.get("type", "object")
        if kind != "object":
            raise ToolError(f"{where}.parameters.type: expected 'object', found {shown(kind)}")
        known["parameters"] = {"type": "object", **parameters}
    return Tool(name, description or "", **known)


def read_choice(choice: str | Mapping[str, Any] | None, tools: Sequence[Tool]) -> tuple[Choice, list[Tool]]:
    """OpenAI's `tool_choice` -> the choice, and the tools that may be called. Raises ToolError."""
    if choice is None:
        return ("auto" if tools else "none"), list(tools)
    if choice in ("none", "auto"):
        return ("none" if not tools else choice), list(tools)  # pyright: ignore[reportReturnType]
    if choice == "required":
        if not tools:
            raise ToolError("tool_choice: expected tools with 'required', found none")
        return "required", list(tools)
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        named = [tool for tool in tools if tool.name == name]
        if not named:
            names = ", ".join(tool.name for tool in tools) or "no tools"
            raise ToolError(f"tool_choice: expected one of {names}, found {shown(name)}")
        return "required", named
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        return _allowed(choice.get("allowed_tools"), tools)
    expected = "'none', 'auto', 'required' or {'type': 'function', 'function': {'name': ...}}"
    raise ToolError(f"tool_choice: expected {expected}, found {shown(choice)}")


def _allowed(allowed: Any, tools: Sequence[Tool]) -> tuple[Choice, list[Tool]]:
    """OpenAI's `allowed_tools`: a choice among some of the tools."""
    given = allowed if isinstance(allowed, Mapping) else {}
    mode, some = given.get("mode"), given.get("tools")
    if mode not in ("auto", "required") or not isinstance(some, list) or not some:
        raise ToolError("tool_choice.allowed_tools: expected a mode, 'auto' or 'required', and a list of tools")
    found = []
    for each in some:
        is_tool = isinstance(each, Mapping) and each.get("type") == "function"
        _, named = read_choice(each if is_tool else {}, tools)
        found += named
    return mode, found


def arguments_of(text: Any, where: str) -> dict[str, Any]:
    """The arguments of a call in a conversation, which are JSON text, or an object already. Raises ToolError."""
    value = text
    if isinstance(text, str):
        try:
            value = json.loads(text or "{}")
        except (ValueError, RecursionError) as error:
            raise ToolError(f"{where}: expected a JSON object as text, found {shown(text)}") from error
    if not isinstance(value, dict):
        raise ToolError(f"{where}: expected a JSON object as text, found {shown(text)}")
    return value

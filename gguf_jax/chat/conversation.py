"""`prepare`: from OpenAI's messages, tools and choice to a prompt, and to what reads and enforces the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from gguf_jax.chat import harmony
from gguf_jax.chat.enforced import control_ids, grammar, thinks
from gguf_jax.chat.forms import Form
from gguf_jax.chat.harmony import Harmony
from gguf_jax.chat.reader import THOUGHT, FormReader, Reader
from gguf_jax.chat.template import Template, Templated, template_of
from gguf_jax.chat.tools import Call, Choice, Tool, ToolError, arguments_of, read_choice, read_tools
from gguf_jax.errors import GGUFJaxError

Aloud = Literal["no", "tags", "harmony"]


@dataclass(frozen=True)
class Conversation:
    """A prompt, and how its answer is to be taken.

    Attributes:
        prompt: what the template made of it; to be encoded with `parse_special`.
        form: how calls are written; None: there are none to be made.
        tools: those that may be called.
        choice: "none", "auto" or "required".
        grammar: a Lark grammar that the answer must follow; None: none, calls are only looked for.
        shown: control tokens that belong to the answer's text, for `Reader` to see.
        thinking: the prompt ends within a thought.
        aloud: whether the model thinks before it answers: between `<think>` marks, or as gpt-oss does.
    """

    prompt: str
    form: Form | None = None
    tools: Sequence[Tool] = ()
    choice: Choice = "none"
    grammar: str | None = None
    shown: frozenset[int] = frozenset()
    thinking: bool = False
    aloud: Aloud = "no"

    def reader(self, apart: bool = False, in_parts: bool = False) -> Reader | None:
        """What tells texts, calls and thoughts of one answer from each other; None: it is all text.

        Args:
            apart: thoughts are given as such. Else those between `<think>` marks are text, as they are written, and
                gpt-oss's are left out.
            in_parts: arguments that a grammar enforces are given as they come (`CallBegun`, `Arguments`), not as calls.
        """
        if self.aloud == "harmony":
            return Harmony(self.tools, apart=apart)
        if self.form is None and not (apart and self.aloud == "tags"):
            return None
        sure = in_parts and self.grammar is not None
        apart = apart and self.aloud == "tags"
        return FormReader(self.form, self.tools, thinking=self.thinking, apart=apart, sure=sure)


RESERVED = frozenset({"self", "messages", "tools", "add_generation_prompt", "template"})
"""Variables of templates that have a meaning of their own."""


def prepare(
    tokenizer: Templated,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    tool_choice: str | Mapping[str, Any] | None = None,
    parallel: bool = True,
    closed: bool = False,
    schema: Mapping[str, Any] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> Conversation:
    """A conversation as a prompt.

    With "required" or a named tool the grammar enforces a call; with "auto" it enforces what follows the words with
    which a call begins, in forms that have such words. Where the template knows no tools they are described in a system
    message, and a call is an answer that is a JSON object with `name` and `arguments`.

    Args:
        messages: OpenAI's, with `tool_calls` of assistants and messages of tools.
        tools, tool_choice: OpenAI's.
        parallel: whether several calls may be made at once, where a grammar has a say.
        closed: a thought that the template opens is closed, for an answer that must have a form from its beginning.
        schema: JSON schema of an answer that is no call, where tools may be called and need not be.
        variables: further ones for the template.

    Raises:
        ToolError: tools, the choice or messages are not as they must be.
        GGUFJaxError: the template refuses the conversation, or there is none.
    """
    extra = dict(variables or {})
    for name in extra:
        if name in RESERVED:
            raise ToolError(f"variables: expected others than {name!r}, which has its own argument")
    if not messages:
        raise ToolError("messages: expected at least one, found none")
    if not any("developer" in source for source in tokenizer.chat_templates.values()):
        # OpenAI's name for whom most templates call the system
        messages = [{**each, "role": "system"} if each.get("role") == "developer" else each for each in messages]
    known = read_tools(tools)
    choice, callable_ = read_choice(tool_choice, known)
    history = any(each.get("tool_calls") or each.get("role") == "tool" for each in messages)
    aloud = _aloud(tokenizer)
    if choice == "none" and not history:
        prompt = tokenizer.apply_chat_template(messages, **extra)
        return _plain(tokenizer, prompt, aloud, closed)
    template = template_of(tokenizer)
    offered = known if choice != "none" else []
    written = _messages(messages, template)
    if template.tools:
        dictionaries = [tool.as_dict() for tool in offered]
        prompt = tokenizer.apply_chat_template(written, tools=dictionaries or None, **extra)
    else:
        prompt = _described(tokenizer, written, offered, extra)
    if choice == "none":
        return _plain(tokenizer, prompt, aloud, closed)
    form = template.form
    markers = form.markers | (harmony.MARKERS if aloud == "harmony" else set(THOUGHT))
    special = control_ids(tokenizer, markers)
    shown = frozenset(special.values())
    found = Conversation(prompt, form, callable_, choice, None, shown, thinks(prompt), aloud)
    write = partial(grammar, form, callable_, special, parallel=parallel)
    required = choice == "required"
    if required or schema is not None:
        other = None if required else schema
        before = harmony.FINAL if aloud == "harmony" else ""
        return _closed(replace(found, grammar=write(required=True, other=other, before=before)))
    if form.trigger:
        found = replace(found, grammar=write(required=False, thinking=found.thinking))
    return _closed(found) if closed else found


def _aloud(tokenizer: Templated) -> Aloud:
    sources = tokenizer.chat_templates.values()
    if any(map(harmony.is_harmony, sources)):
        return "harmony"
    return "tags" if any(mark in source for source in sources for mark in THOUGHT) else "no"


def _plain(tokenizer: Templated, prompt: str, aloud: Aloud, closed: bool) -> Conversation:
    """A conversation without tools."""
    if aloud == "harmony":
        if closed:  # the rest is one message
            return Conversation(prompt + harmony.FINAL)
        return Conversation(prompt, shown=frozenset(control_ids(tokenizer, harmony.MARKERS).values()), aloud=aloud)
    if aloud == "no":
        return Conversation(prompt)
    shown = frozenset(control_ids(tokenizer, frozenset(THOUGHT)).values())
    found = Conversation(prompt, shown=shown, thinking=thinks(prompt), aloud=aloud)
    return _closed(found) if closed else found


def _closed(found: Conversation) -> Conversation:
    """A thought that the prompt has opened is closed there."""
    if not found.thinking:
        return found
    return replace(found, prompt=f"{found.prompt.rstrip()}\n\n{THOUGHT[1]}\n\n", thinking=False)


def _messages(messages: Sequence[Mapping[str, Any]], template: Template) -> list[dict[str, Any]]:
    """Messages as a template wants them: arguments as objects or texts, calls as content where it leaves them out."""
    found: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for i, message in enumerate(messages):
        each = dict(message)
        calls = each.get("tool_calls")
        if calls:
            read = _calls(calls, f"messages[{i}].tool_calls")
            names |= {call.id: call.name for call, _ in read if call.id}
            if template.calls is None:
                del each["tool_calls"]
                written = template.form.write([call for call, _ in read])
                each["content"] = f"{each.get('content') or ''}{written}"
            else:
                each["content"] = each.get("content") or template.empty
                as_objects = template.calls == "objects"
                each["tool_calls"] = [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": arguments if as_objects else call.arguments},
                    }
                    for call, arguments in read
                ]
        elif "tool_calls" in each:
            del each["tool_calls"]
        if each.get("role") == "tool":
            name = names.get(str(each.get("tool_call_id")), each.get("name"))
            if name is not None:  # many templates want it, and OpenAI's messages have it no more
                each.setdefault("name", name)
        found.append(each)
    return found


def _calls(calls: Any, where: str) -> list[tuple[Call, dict[str, Any]]]:
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise ToolError(f"{where}: expected a list, found {type(calls).__name__}")
    found = []
    for i, each in enumerate(calls):
        function = each.get("function") if isinstance(each, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str):
            raise ToolError(f"{where}[{i}]: expected an object with a function and its name, found none")
        arguments = arguments_of(function.get("arguments"), f"{where}[{i}].function.arguments")
        identity = each.get("id")
        text = json.dumps(arguments, ensure_ascii=False)
        found.append((Call(name, text, identity if isinstance(identity, str) else None), arguments))
    return found


DESCRIPTION = """You may call functions. These are available:

{tools}

To call one, answer with nothing but a JSON object: {{"name": <function name>, "arguments": <object of arguments>}}. \
To call several, write one such object on each line. If no function is needed, answer in plain text."""


def _described(
    tokenizer: Templated, messages: list[dict[str, Any]], tools: Sequence[Tool], extra: Mapping[str, Any]
) -> str:
    """The prompt of a template that knows no tools: they are described in a message, and results are a user's."""
    turned: list[dict[str, Any]] = []
    for each in messages:
        if each.get("role") != "tool":
            turned.append(each)
            continue
        content = f"Result of {each.get('name', 'the function')}: {each.get('content', '')}"
        if turned and turned[-1].get("result"):
            turned[-1]["content"] += f"\n{content}"
        else:
            turned.append({"role": "user", "content": content, "result": True})
    turned = [{key: value for key, value in each.items() if key != "result"} for each in turned]
    if not tools:
        return tokenizer.apply_chat_template(turned, **extra)
    functions = "\n".join(json.dumps(tool.as_dict()["function"], ensure_ascii=False) for tool in tools)
    text = DESCRIPTION.format(tools=functions)
    first = turned[0]
    if first.get("role") == "system":
        return tokenizer.apply_chat_template(
            [first | {"content": f"{first.get('content') or ''}\n\n{text}"}, *turned[1:]], **extra
        )
    try:
        return tokenizer.apply_chat_template([{"role": "system", "content": text}, *turned], **extra)
    except GGUFJaxError:  # some know no system message
        merged = first | {"content": f"{text}\n\n{first.get('content') or ''}"}
        return tokenizer.apply_chat_template([merged, *turned[1:]], **extra)

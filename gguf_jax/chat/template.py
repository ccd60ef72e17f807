"""What a chat template can do about tools: found out by giving it a call to write and reading what it wrote.

Templates say nothing about themselves, and looking for words in their text misleads: many name other models' forms, or
build markers from pieces. But a form that reads the call back out of what a template made of it is the form that the
model was trained with. (Words are looked for only in templates that describe tools and then leave calls out.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

from gguf_jax.chat import harmony
from gguf_jax.chat.forms import FORMS, Form
from gguf_jax.chat.reader import FormReader
from gguf_jax.chat.tools import Call, Tool
from gguf_jax.errors import GGUFJaxError

Arguments = Literal["objects", "texts"]


class Templated(Protocol):
    """What conversations need of a tokenizer."""

    @property
    def chat_templates(self) -> Mapping[str, str]: ...
    @property
    def eog_ids(self) -> frozenset[int]: ...
    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        **extra: Any,
    ) -> str: ...
    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]: ...
    def is_control(self, id: int) -> bool: ...


@dataclass(frozen=True)
class Template:
    """What was found out.

    Attributes:
        name: of the form, in `FORMS`.
        tools: whether it tells the model what tools there are.
        calls: how it wants the arguments of calls in a conversation; None: it leaves calls out.
        empty: what it wants as the content of a message that is calls and nothing else.
    """

    name: str
    tools: bool
    calls: Arguments | None
    empty: str | None = ""

    @property
    def form(self) -> Form:
        return harmony.FORM if self.name == "harmony" else FORMS[self.name]


PLAIN = Template("generic", False, None)
"""One that knows no tools: they are described in a message, and calls are text."""

PROBE = Tool(
    "probe_tool",
    "Does what is asked.",
    {
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "Some words."},
            "count": {"type": "integer", "description": "How many."},
        },
        "required": ["text"],
    },
)
ARGUMENTS = {"text": "some words", "count": 3}


def template_of(tokenizer: Templated) -> Template:
    """What the template of a tokenizer can do."""
    key = tuple(sorted(tokenizer.chat_templates.items()))
    return _found(_Once(tokenizer, key))


class _Once:
    """A tokenizer that is told from others by its templates, so that what was found out is kept for them."""

    def __init__(self, tokenizer: Templated, key: tuple[tuple[str, str], ...]) -> None:
        self.tokenizer, self.key = tokenizer, key

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Once) and self.key == other.key


@lru_cache(maxsize=8)
def _found(once: _Once) -> Template:
    tokenizer = once.tokenizer
    question = [{"role": "user", "content": "Please."}]
    asked = _rendered(tokenizer, question)
    prompt = _rendered(tokenizer, question, add_generation_prompt=True)
    if asked is None or prompt is None:
        return PLAIN
    tools = PROBE.name in prompt
    if not tools:
        return PLAIN
    if any(map(harmony.is_harmony, tokenizer.chat_templates.values())):
        return Template("harmony", tools, "objects")
    kinds: tuple[Arguments, ...] = ("objects", "texts")
    for content in ("", None):
        for kind in kinds:
            arguments = ARGUMENTS if kind == "objects" else json.dumps(ARGUMENTS)
            function = {"name": PROBE.name, "arguments": arguments}
            calls = [{"id": "abcdefghi", "type": "function", "function": function}]
            written = _rendered(tokenizer, [*question, {"role": "assistant", "content": content, "tool_calls": calls}])
            if written is None:
                continue
            start = len(prompt) if written.startswith(prompt) else _common(asked, written)
            answer = written[start:]
            read = {name: fit for name, form in FORMS.items() if (fit := _fit(form, answer)) is not None}
            if read:
                return Template(min(read, key=lambda name: read[name]), tools, kind, content)
    source = tokenizer.chat_templates.get("tool_use", tokenizer.chat_templates.get("", ""))
    words = (name for name, form in FORMS.items() if form.trigger and form.trigger in source)
    name = next(words, None)
    return PLAIN if name is None else Template(name, tools, None)


def _rendered(
    tokenizer: Templated, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False
) -> str | None:
    try:
        return tokenizer.apply_chat_template(
            messages, tools=[PROBE.as_dict()], add_generation_prompt=add_generation_prompt
        )
    except GGUFJaxError:  # a template may refuse what this one asks of it
        return None


def _common(one: str, other: str) -> int:
    """How many characters two texts begin alike with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _fit(form: Form, answer: str) -> tuple[bool, int] | None:
    """How well a form fits an answer, less being better: whether it would have written the call otherwise, and how much
    it takes for text; None: it does not find the call. One form may read what another one writes."""
    reader = FormReader(form, [PROBE])
    found = reader.put(answer) + reader.flush()
    calls = [each for each in found if isinstance(each, Call)]
    if len(calls) != 1 or json.loads(calls[0].arguments) != ARGUMENTS:
        return None
    written = "".join(form.write(calls).split())
    return written not in "".join(answer.split()), sum(len(each) for each in found if isinstance(each, str))

"""What an answer must look like, as requests say it in several ways, compiled beside the event loop."""

from __future__ import annotations

import asyncio
import json
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gguf_jax import grammars
from gguf_jax.errors import GGUFJaxError
from gguf_jax.server import asked

MOST_KEPT = 8
"""Compiled grammars of a tokenizer that are kept: a service asks for the same few schemas again and again."""


@dataclass(frozen=True)
class Wanted:
    """A grammar that was asked for, and the field that did."""

    kind: grammars.Kind
    source: Any
    where: str

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """It as a JSON schema; None where it is none."""
        if self.kind == "json_object":
            return {"type": "object"}
        return self.source if self.kind == "json_schema" else None


def of_openai(body: asked.OpenAISampling) -> Wanted | None:
    """What OpenAI's and llama-server's fields ask for. Raises GGUFJaxError for several at once."""
    found = []
    if body.grammar:
        found.append(_text(body.grammar, "grammar"))
    if body.json_schema is not None:
        found.append(Wanted("json_schema", body.json_schema, "json_schema"))
    if (form := body.response_format) is not None and form.type != "text":
        where = "response_format"
        if form.type == "json_schema":
            if form.json_schema is None or form.json_schema.schema_ is None:
                raise GGUFJaxError(f"{where}.json_schema.schema: expected a JSON schema with 'json_schema', found none")
            found.append(Wanted("json_schema", form.json_schema.schema_, f"{where}.json_schema.schema"))
        elif form.schema_ is not None:
            found.append(Wanted("json_schema", form.schema_, f"{where}.schema"))
        else:
            found.append(Wanted("json_object", None, where))
    return _one(found)


def of_runner(body: asked.Completion) -> Wanted | None:
    """What the runner's `format` and `grammar` ask for."""
    found = []
    if body.format == "json":
        found.append(Wanted("json_object", None, "format"))
    elif isinstance(body.format, dict):
        found.append(Wanted("json_schema", body.format, "format"))
    if body.grammar:
        found.append(_text(body.grammar, "grammar"))
    return _one(found)


def _text(source: str, where: str) -> Wanted:
    """GBNF; or, as llama-server has it, Lark where the text says that it is llguidance's."""
    return Wanted("lark" if source.lstrip().startswith("%llguidance") else "gbnf", source, where)


def _one(found: list[Wanted]) -> Wanted | None:
    if len(found) > 1:
        names = " and ".join(each.where for each in found)
        raise GGUFJaxError(f"{found[0].where}: expected one way to say what the answer looks like, found {names}")
    return found[0] if found else None


_kept: weakref.WeakKeyDictionary[Any, OrderedDict[tuple[str, str], grammars.Grammar]] = weakref.WeakKeyDictionary()


async def compiled(wanted: Wanted, tokenizer: Any) -> grammars.Grammar:
    """A grammar for a tokenizer. Raises as `grammars.compile`."""
    key = (wanted.kind, wanted.source if isinstance(wanted.source, str) else json.dumps(wanted.source))
    kept = _kept.setdefault(tokenizer, OrderedDict())
    if key not in kept:
        found = await asyncio.to_thread(grammars.compile, wanted.kind, wanted.source, tokenizer, where=wanted.where)
        kept[key] = found
        while len(kept) > MOST_KEPT:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]

"""`LlamaGrammar`: a grammar that answers follow, compiled for a tokenizer when it is first used with it."""

from __future__ import annotations

import json
import os
from typing import Any

from gguf_jax import grammars
from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation.constraint import Constraint
from gguf_jax.gguf.text import printable
from gguf_jax.grammars.source import MOST_CHARACTERS


class LlamaGrammar:
    """A grammar: GBNF, a JSON schema, or any JSON object. Needs the extra `grammars` to be used.

    What is wrong with it is said when it is used: a `GrammarError`, in one line with its place.
    """

    def __init__(self, kind: grammars.Kind, source: str | None) -> None:
        self.kind: grammars.Kind = kind
        self.source = source
        self._compiled: tuple[Any, grammars.Grammar] | None = None

    @classmethod
    def from_string(cls, grammar: str, verbose: bool = True) -> LlamaGrammar:
        """Of a text in GBNF; its first rule is named `root`."""
        return cls("gbnf", grammar)

    @classmethod
    def from_file(cls, file: str | os.PathLike[str], verbose: bool = True) -> LlamaGrammar:
        """Of a file in GBNF. Raises GGUFJaxError where it cannot be read."""
        try:
            with open(file, encoding="utf-8") as opened:
                text = opened.read(MOST_CHARACTERS + 1)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise GGUFJaxError(f"{printable(os.fsdecode(file))}: cannot be read: {reason}") from None
        return cls.from_string(text)

    @classmethod
    def from_json_schema(cls, json_schema: str, verbose: bool = True) -> LlamaGrammar:
        """Of a JSON schema's text. Where it lists an object's properties and does not say whether there may be others,
        there may not: as in llama.cpp, and else a model can go on with new ones for ever."""
        try:
            return cls("json_schema", json.dumps(closed(json.loads(json_schema))))
        except (ValueError, RecursionError):  # what is wrong is said where it is compiled
            return cls("json_schema", json_schema)

    @classmethod
    def json_object(cls) -> LlamaGrammar:
        """Of any JSON object."""
        return cls("json_object", None)

    def constraint(self, tokenizer: Any) -> Constraint:
        """What one answer is held to. Raises GrammarError and Unsupported, as `grammars.compile`."""
        if self._compiled is None or self._compiled[0] is not tokenizer:
            self._compiled = tokenizer, grammars.compile(self.kind, self.source, tokenizer, where="grammar")
        return self._compiled[1].constraint()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_compiled": None}


COMPOSED = ("allOf", "anyOf", "oneOf", "not", "if", "$ref")
"""Keywords with which a schema's properties are not all that it lists."""

VALUES = ("const", "enum", "default", "examples")
"""Keywords behind which there are values and no schemas."""


def closed(schema: Any) -> Any:
    """A schema with `additionalProperties: false` wherever properties are listed and nothing is said of others."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: value if key in (*VALUES, "allOf") else closed(value) for key, value in schema.items()}
    lists = isinstance(schema.get("properties"), dict) and schema.get("type", "object") == "object"
    said = {"additionalProperties", "unevaluatedProperties", "patternProperties", *COMPOSED}
    return found | {"additionalProperties": False} if lists and not said & schema.keys() else found

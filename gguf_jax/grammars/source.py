"""From what a user wrote to what llguidance reads, and from its complaints to one line with a place in it."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Literal, cast

from gguf_jax.errors import GGUFJaxError, Unsupported
from gguf_jax.gguf.text import printable

Kind = Literal["json_schema", "json_object", "regex", "gbnf", "lark"]

MOST_CHARACTERS = 1 << 16
"""Of a grammar's source."""

MOST_MULTIPLES = 10_000
"""Of all `multipleOf` of a schema together, in units of their last decimals: an automaton that counts remainders has as
many states, and one for two of them at once as many as their product."""

MOST_TERMINALS = 500
"""Of a Lark grammar. Each may be a part of the next: thousands, each of them a repetition, take minutes to compile."""

MOST_RULES = 1000
"""Of GBNF: the converter takes the square of it."""

TERMINAL = re.compile(r"\b_*[A-Z][A-Z0-9_]*(?:\.\d+)?\s*:")

LEVELS = "expected a schema of fewer levels, found more than can be read"

JSON_OPTIONS = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""JSON is written on one line, with a space behind a comma and a colon or without. Where any white space may stand, a
model can go on with nothing else until its answer is too long, and all of it is paid for."""


class GrammarError(GGUFJaxError, ValueError):
    """A grammar that cannot be compiled: where, and what is wrong there."""


def library() -> Any:
    """The package llguidance. Raises Unsupported where it is not installed."""
    try:
        import llguidance
    except ImportError as error:
        raise Unsupported(
            "grammars: expected the package llguidance, found none; pip install 'gguf_jax[grammars]'"
        ) from error
    return llguidance


def translated(kind: Kind, source: str | Mapping[str, Any] | bool | None, where: str) -> str:
    """A grammar in llguidance's Lark. Raises GrammarError for what is seen to be wrong without its parser."""
    if kind not in KINDS:
        raise GrammarError(f"{where}: expected a kind of grammar among {', '.join(KINDS)}, found {kind!r}")
    if kind not in ("json_schema", "json_object") and not isinstance(source, str):
        raise GrammarError(f"{where}: expected a text, found {type(source).__name__}")
    if isinstance(source, str) and len(source) > MOST_CHARACTERS:
        raise GrammarError(f"{where}: expected at most {MOST_CHARACTERS} characters, found {len(source)}")
    return KINDS[kind](source, where) + UNFORCED


UNFORCED = '\n%llguidance {"no_forcing": true}\n'
"""The last of such lines counts. Without it llguidance looks for all the text that an answer must go on with, and looks
for ever where that has no end, as in `/a+/ /a+/`."""


def complaint(kind: Kind, source: object, message: str) -> str:
    """What llguidance says of a grammar, as one line: the place first, as far as it is one of the user's source."""
    place = ""
    if found := re.match(r"(?:at )?(\d+)\((\d+)\): ", message):
        message = message[found.end() :]
        place = f"line {found[1]}, column {found[2]}: " if kind == "lark" else ""
    if found := re.search(r"regex parse error:\n    (.*)\n    ( *)\^+\nerror: (.*)", message):
        column = len(found[2]) + 1
        regex, what = found[1], found[3]
        place += f"column {column}: " if kind == "regex" else f"regex {_short(regex)}: column {column}: "
        return place + what
    if "recursion limit exceeded" in message:
        return LEVELS
    message = message.removeprefix("failed to compile JSON schema: ")
    message = re.sub(r"\n +\d+ \| .*", "", message, flags=re.DOTALL)  # the line that is wrong, with an arrow under it
    message = printable(" ".join(message.split()))
    return place + (message if len(message) <= 400 else message[:397] + "...")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _json_schema(source: Any, where: str) -> str:
    if isinstance(source, str):
        try:
            source = json.loads(source)
        except json.JSONDecodeError as error:
            raise GrammarError(f"{where}: line {error.lineno}, column {error.colno}: {error.msg}") from error
        except RecursionError as error:
            raise GrammarError(f"{where}: {LEVELS}") from error
    if not isinstance(source, (Mapping, bool)):
        raise GrammarError(f"{where}: expected a schema, which is an object, found {type(source).__name__}")
    try:
        schema = {} if source is True else source
        text = json.dumps(schema, allow_nan=False)
    except RecursionError as error:
        raise GrammarError(f"{where}: {LEVELS}") from error
    except (TypeError, ValueError) as error:
        raise GrammarError(f"{where}: expected a schema that can be written as JSON: {error}") from error
    if len(text) > MOST_CHARACTERS:
        raise GrammarError(f"{where}: expected at most {MOST_CHARACTERS} characters of JSON, found {len(text)}")
    _check_multiples(schema, where)
    return f"start: {embedded(schema)}"


def embedded(schema: Mapping[str, Any] | bool, lenient: bool = False) -> str:
    """A schema as a part of a Lark grammar. Lenient: what cannot be enforced of it is passed over."""
    options = {"x-guidance": {**JSON_OPTIONS, "lenient": lenient}}
    return f"%json {json.dumps({**tidied(schema), **options} if isinstance(schema, Mapping) else schema)}"


def _json_object(source: Any, where: str) -> str:
    if source is not None:
        raise GrammarError(f"{where}: expected no source for any JSON object, found {type(source).__name__}")
    return _json_schema({"type": "object"}, where)


def _regex(source: Any, where: str) -> str:
    return f"start: /{library().regex_to_lark(source)}/"


def _lark(source: Any, where: str) -> str:
    schemas = []
    for found in re.finditer(r"%json\s*", source):
        with contextlib.suppress(ValueError, RecursionError):  # llguidance says what is wrong with it
            schemas.append(json.JSONDecoder().raw_decode(source, found.end())[0])
    _check_multiples(schemas, where)
    _check_terminals(source, where)
    return source


def _check_terminals(text: str, where: str) -> None:
    count = len(TERMINAL.findall(text))
    if count > MOST_TERMINALS:
        raise GrammarError(f"{where}: expected at most {MOST_TERMINALS} terminals, found {count}")


def _gbnf(source: Any, where: str) -> str:
    library()
    from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

    if (count := source.count("::=")) > MOST_RULES:
        raise GrammarError(f"{where}: expected at most {MOST_RULES} rules, found {count}")
    try:
        text = gbnf_to_lark(source)
    except GbnfToLarkError as error:
        place = _line_and_column(source, error.pos.pos)
        raise GrammarError(f"{where}: {place}: {str(error).split(' at line ')[0]}") from error
    except RecursionError as error:
        raise GrammarError(f"{where}: expected a grammar of fewer levels, found more than can be read") from error
    except Exception as error:  # the converter has no class for what it says of rules
        message = printable(str(error))
        name = re.match(r"Rule '([^']*)'", message)
        uses = list(re.finditer(rf"(?<![\w-]){re.escape(name[1])}(?![\w-])", source)) if name else []
        place = _line_and_column(source, uses[-1].start()) + ": " if uses else ""
        raise GrammarError(f"{where}: {place}{message}") from error
    _check_terminals(text, where)  # rules that do not recur become terminals
    if len(text) > 4 * MOST_CHARACTERS:
        raise GrammarError(f"{where}: expected a grammar that is at most {4 * MOST_CHARACTERS} characters of Lark")
    return text


def _line_and_column(text: str, at: int) -> str:
    line = text.count("\n", 0, at)
    return f"line {line + 1}, column {at - (text.rfind(chr(10), 0, at) + 1) + 1}"


FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
"""Those that llguidance enforces."""

SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
SCHEMAS = ("items", "additionalProperties", "additionalItems", "contains")
SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
SAYS_MORE = frozenset({"additionalProperties", "unevaluatedProperties", "patternProperties", "anyOf", "oneOf", "$ref"})


def tidied(schema: Any) -> Any:
    """A schema as it is enforced: what it allows, the one that was given allows as well.

    There is no room for other properties than it names, where it does not say that there may be: a model could make up
    some for ever, and few who write schemas mean that; llama.cpp has it so too. With `allOf` nothing is closed, as its
    parts name properties for each other. A `format` that is not in `FORMATS` forbids nothing.
    """
    return _tidied(schema, next(_values(schema, "allOf"), None) is None)


def _tidied(schema: Any, closing: bool, close: bool = True) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    found = dict(schema)
    named = isinstance(found.get("properties"), Mapping)
    if closing and close and named and not SAYS_MORE & found.keys():
        found["additionalProperties"] = False
    if isinstance(form := found.get("format"), str) and form not in FORMATS:
        del found["format"]
    for key in SCHEMAS_BY_NAME:
        if isinstance(each := found.get(key), Mapping):
            found[key] = {name: _tidied(part, closing) for name, part in each.items()}
    for key in SCHEMAS:
        if isinstance(found.get(key), Mapping):
            found[key] = _tidied(found[key], closing)
    for key in SCHEMA_LISTS:
        if isinstance(each := found.get(key), list):
            # alternatives beside properties are about the same object
            found[key] = [_tidied(part, closing, close=not named or key in SCHEMAS) for part in each]
    return found


def _check_multiples(schema: Any, where: str) -> None:
    sizes = []
    for value in _values(schema, "multipleOf"):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            _, digits, exponent = Decimal(repr(value)).as_tuple()
            sizes.append(int("".join(map(str, digits))) if cast(int, exponent) < 0 else int(abs(value)))
    joins = any(next(_values(schema, key), None) is not None for key in ("allOf", "anyOf", "oneOf", "$ref"))
    total = sum(sizes)
    if joins and total <= MOST_MULTIPLES:
        total = max(total, math.prod({*sizes, 1} - {0}))
    if total > MOST_MULTIPLES:
        raise GrammarError(f"{where}: multipleOf: expected at most {MOST_MULTIPLES} units in all, found {total}")


def _values(schema: Any, key: str) -> Iterator[Any]:
    """All values of a key, wherever they stand in nested objects and lists."""
    left = [schema]
    while left:
        each = left.pop()
        if isinstance(each, Mapping):
            if key in each:
                yield each[key]
            left.extend(each.values())
        elif isinstance(each, (list, tuple)):
            left.extend(each)


KINDS: dict[Kind, Callable[[Any, str], str]] = {
    "json_schema": _json_schema,
    "json_object": _json_object,
    "regex": _regex,
    "gbnf": _gbnf,
    "lark": _lark,
}
"""What grammars can be written as: a JSON schema (a mapping or its text), any JSON object (no source), a regular
expression (Rust's syntax) that the whole answer matches, llama.cpp's GBNF, and llguidance's Lark."""

"""Chat templates: Jinja programs in a file's metadata that write a conversation as a prompt.

They come with a file, so they are hostile until shown otherwise. They run in Jinja2's immutable sandbox (no attributes
that lead to Python's internals, no changes to what they are given, `range` of at most 100,000), and what one rendering
may use is bounded:

| what | at most |
|---|---|
| characters of a template | `MAX_SOURCE` |
| steps of all its `for` loops, a sequence counting in full when the loop begins | `MAX_STEPS` |
| length of what `+`, `~` and `*` make, and of the output | `MAX_LENGTH` |
| bits of an integer that `*` and `**` make | `MAX_BITS` |

Not bounded: recursion that branches (macros, recursive loops; only its depth is), and filters that are asked for a huge
result at once (`"x"|center(1000000000)`). For templates of unknown origin that is what a process with limits is for.

What templates expect is what Hugging Face `transformers` gives them: `trim_blocks` and `lstrip_blocks`, `break` and
`continue`, `{% generation %}`, `tojson` that escapes nothing, `raise_exception` and `strftime_now`.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import printable
from gguf_jax.tokenizers import fields

KEY = "tokenizer.chat_template"

MAX_SOURCE = 1 << 20
MAX_STEPS = 5_000_000
MAX_LENGTH = 1 << 24
MAX_BITS = 4096

_steps_left: ContextVar[int] = ContextVar("steps_left", default=MAX_STEPS)


def read_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The templates of a file by name; the default one's name is empty."""
    keys = [key for key in metadata if key == KEY or key.startswith(f"{KEY}.")]
    values = {key.removeprefix(KEY).removeprefix("."): fields.string(metadata, key) for key in keys}
    return {name: source for name, source in values.items() if source is not None}


def render(source: str, variables: Mapping[str, Any], where: str = "chat template") -> str:
    """Runs a template. Whatever goes wrong in it is a GGUFJaxError that begins with `where`."""
    if len(source) > MAX_SOURCE:
        raise GGUFJaxError(f"{where}: expected at most {MAX_SOURCE} characters, found {len(source)}")
    token = _steps_left.set(MAX_STEPS)
    try:
        parts, length = [], 0
        for part in compiled(source).generate(variables):
            length += len(part)
            check_length(length)
            parts.append(part)
        return "".join(parts)
    except Exception as error:  # a template can raise whatever Python can
        raise GGUFJaxError(f"{where}: {described(error)}") from error
    finally:
        _steps_left.reset(token)


def described(error: Exception) -> str:
    line = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
    kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
    message = printable(" ".join(str(error).split())) or type(error).__name__
    return line + kind + (message if len(message) <= 500 else message[:497] + "...")


@lru_cache(maxsize=16)
def compiled(source: str) -> jinja2.Template:
    return ENVIRONMENT.from_string(Bounded().visit(ENVIRONMENT.parse(source)))


class Bounded(NodeTransformer):
    """Sends what loops go through, and what `~` joins, through the filters that count them."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "counted", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return nodes.Filter(
            nodes.List(node.nodes, lineno=node.lineno), "joined", [], [], None, None, lineno=node.lineno
        )


# `pass_context` keeps Jinja from running these while it compiles a template.
@pass_context
def counted(context: object, values: Any) -> Iterable[Any]:
    if isinstance(values, Sized):
        take_steps(len(values))
        return values  # pyright: ignore[reportReturnType]  # a loop over what is no iterable is Jinja's error to raise
    return counted_one_by_one(values)


def counted_one_by_one(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        take_steps(1)
        yield value


@pass_context
def joined(context: object, values: list[Any]) -> str:
    texts = [str(value) for value in values]
    check_length(sum(map(len, texts)))
    return "".join(texts)


def take_steps(number: int) -> None:
    left = _steps_left.get() - number
    if left < 0:
        raise SecurityError(f"expected at most {MAX_STEPS} steps of loops, found more")
    _steps_left.set(left)


def check_length(length: int) -> None:
    if length > MAX_LENGTH:
        raise SecurityError(f"expected texts and lists of at most {MAX_LENGTH} elements, found {length}")


def check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise SecurityError(f"expected integers of at most {MAX_BITS} bits, found {bits}")


class Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with bounds for operators that can make much of little."""

    intercepted_binops = frozenset({"+", "*", "**"})

    def call_binop(self, context: object, operator: str, left: Any, right: Any) -> Any:
        check: Callable[[Any, Any], None] = {"+": check_sum, "*": check_product, "**": check_power}[operator]
        check(left, right)
        return self.binop_table[operator](left, right)


def check_sum(left: Any, right: Any) -> None:
    if isinstance(left, Sized) and isinstance(right, Sized):
        check_length(len(left) + len(right))


def check_product(left: Any, right: Any) -> None:
    match left, right:
        case int(), int():
            check_bits(left.bit_length() + right.bit_length())
        case (int(), Sized()):
            check_length(left * len(right))
        case (Sized(), int()):
            check_length(len(left) * right)


def check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        check_bits(left.bit_length() * right)


class Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: marks what an assistant said, for training; here, just its contents."""

    tags = {"generation"}  # noqa: RUF012  # as the base class declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def strftime_now(format: str) -> str:
    return datetime.datetime.now().strftime(format)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


ENVIRONMENT = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, Generation])
ENVIRONMENT.filters |= {"tojson": tojson, "counted": counted, "joined": joined}
ENVIRONMENT.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}

"""Chat templates: Jinja programs in a file's metadata that write a conversation as a prompt.

They come with a file, so they are hostile until shown otherwise. They run in Jinja2's immutable sandbox (no attributes
that lead to Python's internals, no changes to what they are given, `range` of at most 100,000), without the filters and
methods that chat templates have no use for (`template_calls`), and what one rendering may use is bounded:

| what | at most |
|---|---|
| characters of a template | `MAX_SOURCE` |
| length of a text or list that an operator, a filter, a method or a macro makes, and of the output | `MAX_LENGTH` |
| bits of an integer | `MAX_BITS` |
| steps | `MAX_STEPS` |

An iteration of a loop takes a step, and so do 256 characters or 8 elements that are made; calls, filters and outputs
take some, and a body that can run many times takes more the larger it is. So loops, branching recursion, and values
that grow or pile up all come to an end: within some ten seconds of a CPU core, and mostly far below a gigabyte.

That is an estimate and no guarantee. A template that keeps all it makes can hold 1.3 billion characters, of one byte
to four. Not counted are escapes (a text in a list that is written out can grow tenfold, one that goes into a text
marked as safe fivefold), comparisons of long texts (`in`, `==`), what it takes to compile a template of `MAX_SOURCE`
(ten seconds or more), and what the caller's own variables do when a template calls them. Where that matters, templates
of unknown origin belong in a process with limits.

What templates expect is what Hugging Face `transformers` gives them: `trim_blocks` and `lstrip_blocks`, `break` and
`continue`, `{% generation %}`, `tojson` that escapes nothing, `raise_exception` and `strftime_now`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import printable
from gguf_jax.tokenizers import fields, template_bounds, template_calls
from gguf_jax.tokenizers.template_bounds import (
    CHARACTERS,
    check_length,
    check_power,
    check_product,
    check_remainder,
    check_sum,
    pay_text,
    steps_left,
    take_steps,
    text,
)
from gguf_jax.tokenizers.template_calls import FILTERS

KEY = "tokenizer.chat_template"

MAX_SOURCE = 1 << 20
NODES = 8
"""Nodes of a template's syntax that run in one step."""
CALL_STEPS = 20
"""What it takes to enter a macro, a block or a recursive loop: as long as that many iterations of an empty loop."""

OPERATORS: dict[str, Callable[[Any, Any], None]] = {
    "+": check_sum,
    "*": check_product,
    "**": check_power,
    "%": check_remainder,
}
"""The check of each operator that can make much of little."""


def read_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The templates of a file by name; the default one's name is empty."""
    keys = [key for key in metadata if key == KEY or key.startswith(f"{KEY}.")]
    values = {key.removeprefix(KEY).removeprefix("."): fields.string(metadata, key) for key in keys}
    return {name: source for name, source in values.items() if source is not None}


def render(source: str, variables: Mapping[str, Any], where: str = "chat template") -> str:
    """Runs a template. Whatever goes wrong in it is a GGUFJaxError that begins with `where`."""
    if len(source) > MAX_SOURCE:
        raise GGUFJaxError(f"{where}: expected at most {MAX_SOURCE} characters, found {len(source)}")
    token = steps_left.set(template_bounds.MAX_STEPS)
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
        steps_left.reset(token)


def described(error: Exception) -> str:
    line = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
    kind = "" if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: "
    message = printable(" ".join(str(error)[:2000].split())) or type(error).__name__
    return line + kind + (message if len(message) <= 500 else message[:497] + "...")


@lru_cache(maxsize=16)
def compiled(source: str) -> jinja2.Template:
    return ENVIRONMENT.from_string(Bounded().visit(ENVIRONMENT.parse(source)))


class Bounded(NodeTransformer):
    """Sends what loops go through, what `~` joins and what slices make through the filters that count them, and begins
    each body that can run many times with its price."""

    def __init__(self) -> None:
        self.size = 0

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        self.size += 1
        return super().visit(node, *args, **kwargs)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.TemplateData:
        self.size += len(node.data) * NODES // CHARACTERS
        return node

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.visit_body(node, CALL_STEPS if node.recursive else 0)
        node.iter = filtered(node.iter, "counted")
        return node

    def visit_body(self, node: Any, steps: int = CALL_STEPS) -> Any:
        before = self.size
        self.generic_visit(node)
        price = nodes.Const(steps + (self.size - before) // NODES, lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(filtered(price, "body"), lineno=node.lineno))
        return node

    visit_Macro = visit_CallBlock = visit_Block = visit_body

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return filtered(nodes.List(node.nodes, lineno=node.lineno), "concatenated")

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return filtered(node, "paid") if isinstance(node.arg, nodes.Slice) else node


def filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


def finalized(value: Any) -> Any:
    """What `{{ value }}` writes, paid for: a macro or a `set` block gathers its output before anyone measures it."""
    take_steps(2)
    pay_text(value)
    return value


class Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with bounds for operators and calls."""

    intercepted_binops = frozenset(OPERATORS)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        OPERATORS[operator](left, right)
        return self.binop_table[operator](left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        # Names that no template can give its arguments, as the base class has them.
        if not __self.is_safe_callable(__obj):
            raise SecurityError(f"{type(__obj).__name__} is not safely callable")
        return template_calls.call(__self, __context, __obj, *args, **kwargs)


class Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: marks what an assistant said, for training; here, just its contents."""

    tags = {"generation"}  # noqa: RUF012  # as the base class declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def raise_exception(message: Any) -> NoReturn:
    raise jinja2.TemplateError(text(message))


def strftime_now(format: str) -> str:
    check_length(256 * len(format))  # what Python gives the C library for its answer, in which a field has a width too
    return datetime.datetime.now().strftime(format)


ENVIRONMENT = Environment(
    trim_blocks=True, lstrip_blocks=True, finalize=finalized, extensions=[LoopControlExtension, Generation]
)
ENVIRONMENT.filters = FILTERS
ENVIRONMENT.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
del ENVIRONMENT.globals["lipsum"]  # as many words as it is asked for

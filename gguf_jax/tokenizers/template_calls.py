"""Filters and methods as chat templates have them: Jinja's and Python's, each with a check of what it would make.

A filter that is not in `FILTERS` does not exist, and a text has only the methods in `METHODS`: what is not known to be
bounded is not there. Left out on purpose are the filters that write HTML for pages (`urlize`, `xmlattr`, ...), and
methods that lead to bytes, whose own methods nothing here would check.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from jinja2 import filters as jinja_filters
from jinja2 import pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment, SandboxedEscapeFormatter, SandboxedFormatter
from markupsafe import Markup

from gguf_jax.tokenizers.template_bounds import (
    check_bits,
    check_length,
    check_printf,
    counted,
    pay_length,
    pay_result,
    pay_text,
    take_steps,
    text,
    text_length,
)

Check = Callable[..., None]


def check_width(string: str, width: int = 80, fill: str = " ") -> None:
    pay_length(max(len(string), width))


def check_tabs(string: str, tabsize: int = 8) -> None:
    pay_length(len(string) + string.count("\t") * max(tabsize, 0))


def check_replacement(string: str, old: str, new: str, count: int | None = None) -> None:
    old, new = text(old), text(new)
    found = string.count(old)
    times = found if count is None or count < 0 else min(count, found)
    pay_length(len(string) + times * max(len(new) - len(old), 0))


def check_indent(string: str, width: int | str = 4, first: bool = False, blank: bool = False) -> None:
    unit = len(width) if isinstance(width, str) else max(width, 0)
    check_length(unit)
    pay_length(len(string) + (len(string.splitlines()) + 1) * unit)


def check_wrap(
    string: str, width: int = 79, break_long_words: bool = True, wrapstring: str | None = None, *more: Any, **named: Any
) -> None:
    pay_length(len(string) * (1 + len(text(wrapstring or "\n"))))  # a line holds a character at least
    longest = max(map(len, string.split()), default=0)
    take_steps(longest**2 // max(width, 1) // 4096)  # what is left of a long word is copied for each of its lines


def check_format(string: str, *values: Any, **named: Any) -> None:
    check_printf(string, named or values)


def check_precision(value: Any, precision: int = 0, method: str = "common") -> None:
    check_bits(4 * abs(precision))  # it computes 10 ** precision


def check_batch(values: Any, size: int, fill: Any = None) -> None:
    pay_length(size, 1)


def check_start(values: Any, attribute: Any = None, start: Any = 0) -> None:
    if not isinstance(start, (int, float)):
        raise SecurityError(f"expected a number for sum to start from, found {type(start).__name__}")


def free(value: Any) -> Any:
    return value


def deep(values: Any) -> Any:
    return counted(values, deep=True)


Prepare = Callable[[Any], Any]
"""What a filter's value goes through first: `free`, `counted` (a step for each element), `deep` (the element as text,
for filters that make or compare texts of it), `text` (it becomes a text)."""

PREPARED: dict[str, tuple[Prepare, Check | None]] = {
    "abs": (free, None),
    "attr": (free, None),
    "batch": (counted, check_batch),
    "capitalize": (text, None),
    "center": (text, check_width),
    "count": (free, None),
    "d": (free, None),
    "default": (free, None),
    "dictsort": (deep, None),
    "e": (text, None),
    "escape": (text, None),
    "filesizeformat": (free, None),
    "first": (free, None),
    "float": (free, None),
    "forceescape": (text, None),
    "format": (text, check_format),
    "groupby": (deep, None),
    "indent": (text, check_indent),
    "int": (free, None),
    "items": (free, None),
    "last": (free, None),
    "length": (free, None),
    "list": (counted, None),
    "lower": (text, None),
    "map": (counted, None),
    "max": (deep, None),
    "min": (deep, None),
    "random": (free, None),
    "reject": (counted, None),
    "rejectattr": (counted, None),
    "replace": (text, check_replacement),
    "reverse": (counted, None),
    "round": (free, check_precision),
    "safe": (text, None),
    "select": (counted, None),
    "selectattr": (counted, None),
    "slice": (counted, check_batch),
    "sort": (deep, None),
    "string": (text, None),
    "sum": (counted, check_start),
    "title": (text, None),
    "trim": (text, None),
    "truncate": (text, None),
    "unique": (deep, None),
    "upper": (text, None),
    "wordcount": (text, None),
    "wordwrap": (text, check_wrap),
}
"""Jinja's filters by name."""


def bounded(function: Callable[..., Any], prepare: Prepare, check: Check | None) -> Callable[..., Any]:
    first = int(hasattr(function, "jinja_pass_arg"))  # such a filter takes the context, say, before its value

    @wraps(function)
    def bounded_filter(*args: Any, **named: Any) -> Any:
        take_steps(2)
        value = prepare(args[first])
        if check is not None:
            check(value, *args[first + 1 :], **named)
        return pay_result(function(*args[:first], value, *args[first + 1 :], **named))

    return bounded_filter


# `pass_context` keeps Jinja from running these while it compiles a template.
@pass_context
def join(context: Context, values: Any, d: Any = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        values = context.environment.call_filter("map", values, (), {"attribute": attribute}, context)
    return joined(text(d), values)


def joined(separator: str, values: Any) -> str:
    texts, length = [], 0
    for value in counted(values):
        texts.append(str(text(value)))
        length += len(texts[-1]) + len(separator)
        check_length(length - len(separator))
    pay_length(length - len(separator))
    return str(separator).join(texts)


@pass_context
def concatenated(context: Context, values: list[Any]) -> str:
    return joined("", values)


@pass_context
def counted_in_context(context: Context, values: Any) -> Any:
    return counted(values)


@pass_context
def paid_in_context(context: Context, value: Any) -> Any:
    return pay_result(value)


@pass_context
def body(context: Context, steps: int) -> None:
    # A template can name this filter too, so a negative number must not give anything back.
    take_steps(abs(int(steps)))


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    unit = len(indent) if isinstance(indent, str) else max(indent or 0, 0)
    text_length(value, unit, sum(map(len, separators)) if separators else 2)
    return pay_result(
        json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    )


FILTERS: dict[str, Callable[..., Any]] = {
    **{name: bounded(jinja_filters.FILTERS[name], *how) for name, how in PREPARED.items()},
    "join": join,
    "tojson": tojson,
    "counted": counted_in_context,
    "concatenated": concatenated,
    "paid": paid_in_context,
    "body": body,
}
"""Jinja's, `tojson` as Hugging Face has it, and those that the transformed template counts with."""

# fmt: off
HARMLESS = (
    "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal",
    "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "lower",
    "lstrip", "partition", "removeprefix", "removesuffix", "rfind", "rindex", "rpartition", "rsplit", "rstrip",
    "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper",
)
# fmt: on
"""Methods of a text that make at most a few times as much."""

METHODS: dict[str, Check | None] = {
    **dict.fromkeys(HARMLESS),
    "center": check_width,
    "expandtabs": check_tabs,
    "ljust": check_width,
    "replace": check_replacement,
    "rjust": check_width,
    "zfill": check_width,
}
"""A text's methods by name, and the check of those that can make much of little; `call` has those that need more."""


def call(environment: SandboxedEnvironment, context: Context, function: Any, *args: Any, **named: Any) -> Any:
    """What a template's call comes to, once `environment` has found that it is safe."""
    take_steps(2)
    # Jinja wraps `str.format` when it is looked up.
    method = function if hasattr(function, "__self__") else getattr(function, "__wrapped__", function)
    owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    if isinstance(owner, (bytes, bytearray)) or (isinstance(owner, (int, type)) and name in ("to_bytes", "from_bytes")):
        raise SecurityError(f"expected no method of bytes, found {name}")
    if not isinstance(owner, str):
        return pay_result(context.call(function, *args, **named))
    named = {key: value for key, value in named.items() if key not in ("_loop_vars", "_block_vars")}
    pay_text(owner)
    match name:
        case "format":
            return formatted(environment, owner, args, named)
        case "format_map":
            return formatted(environment, owner, (), *args, **named)
        case "join":
            return joined_texts(owner, *args, **named)
    if name not in METHODS:
        raise SecurityError(f"expected a method of texts that templates may call, found {name}")
    check = METHODS[name]
    if check is not None:
        check(owner, *args, **named)
    return pay_result(function(*args, **named))


def joined_texts(owner: str, values: Any) -> str:
    texts, length = [], 0
    for value in counted(values):
        length += len(owner) + (len(value) if isinstance(value, str) else 0)
        check_length(length - len(owner))
        texts.append(value)
    return pay_result(owner.join(texts))


class BoundedFormatter(SandboxedFormatter):
    """`str.format` that looks at each field before it is written."""

    length = 0

    def format_field(self, value: Any, format_spec: str) -> Any:
        # By now the specification has its nested fields filled in. It can hold a width and a precision.
        take_steps(1)
        self.length += sum(map(int, re.findall("[0-9]+", format_spec)))
        self.pay(text_length(value))
        return super().format_field(value, format_spec)

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion is not None:
            self.pay(text_length(value))
        return super().convert_field(value, conversion)

    def pay(self, length: int) -> None:
        self.length += length
        check_length(self.length)


class BoundedEscapeFormatter(BoundedFormatter, SandboxedEscapeFormatter):
    pass


def formatted(environment: SandboxedEnvironment, string: str, args: tuple[Any, ...], named: Mapping[str, Any]) -> str:
    if isinstance(string, Markup):
        return pay_result(
            Markup(BoundedEscapeFormatter(environment, escape=string.escape).vformat(string, args, named))
        )
    return pay_result(BoundedFormatter(environment).vformat(string, args, named))

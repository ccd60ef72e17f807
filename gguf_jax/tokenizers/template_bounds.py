"""What one rendering of a chat template may use: the account of its work, and the checks of single values.

Values have limits of their own, `MAX_LENGTH` and `MAX_BITS`, which are looked at before a value is made wherever a few
characters of template could ask for an enormous one. `MAX_STEPS` is an account of all the work, since values that are
small enough one by one add up. A value counts as often as it is met: as text, `[x] * 1000` has a thousand times the
length of `x`.
"""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sized, ValuesView
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

MAX_STEPS = 5_000_000
MAX_LENGTH = 1 << 24
MAX_BITS = 4096

CHARACTERS = 256
"""Characters that are made with one step. Fewer would hold memory to less, but there are templates of real models that
build a prompt by `~`, message by message, which copies a text as often as there are messages."""
ELEMENTS = 8
"""Elements of lists that `+` and `*` make with one step: each takes as much memory as several characters."""
NUMBER_LENGTH = 320
"""More characters than a float has without a precision: `'%f' % 1e308` has 316."""

steps_left: ContextVar[int] = ContextVar("steps_left", default=MAX_STEPS)


def take_steps(number: int) -> None:
    left = steps_left.get() - number
    if left < 0:
        raise SecurityError(f"expected at most {MAX_STEPS} steps, found more")
    steps_left.set(left)


def check_length(length: int) -> None:
    if length > MAX_LENGTH:
        raise SecurityError(f"expected texts and lists of at most {MAX_LENGTH} elements, found {length}")


def check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise SecurityError(f"expected integers of at most {MAX_BITS} bits, found {bits}")


def pay_length(length: int, per_step: int = CHARACTERS) -> None:
    check_length(length)
    take_steps(max(length, 0) // per_step)


def pay_result(value: Any) -> Any:
    """Pays for what a filter, a method or a slice has made; for an iterator, whoever goes through it pays."""
    match value:
        case str():
            pay_length(len(value))
        case int():
            check_bits(value.bit_length())
        case list() | tuple() | dict() | set():  # its elements may be new as well: `split`
            pay_length(len(value), 1)
    return value


def pay_text(value: Any) -> None:
    """Pays for `str(value)` before it is made."""
    if isinstance(value, str):
        pay_length(len(value))
    else:
        text_length(value)


def text(value: Any) -> str:
    """`value` as a text, paid for; one that is marked as safe stays so."""
    pay_text(value)
    return value if isinstance(value, str) else pay_result(str(value))


def counted(values: Any, deep: bool = False) -> Any:
    """`values`, each of which costs a step, those with a length at once; with `deep`, each costs what its text does."""
    if isinstance(values, Iterator):
        return counted_one_by_one(values, deep)
    if deep:
        pay_text(values)
    elif isinstance(values, Sized):
        take_steps(len(values))
    elif isinstance(values, Iterable):
        return counted_one_by_one(values, deep)
    return values  # what cannot be gone through is Jinja's error to raise


def counted_one_by_one(values: Iterable[Any], deep: bool) -> Iterator[Any]:
    for value in values:
        take_steps(1)
        if deep:
            pay_text(value)
        yield value


def text_length(value: Any, indent: int = 0, separator: int = 2) -> int:
    """About the length of `str(value)`, or of JSON with that `indent`, found and paid for without making it.

    Escapes are not counted: the text can be ten times as long.
    """
    total = 0
    todo = [(value, indent)]
    while todo:
        item, margin = todo.pop()
        if isinstance(item, str):
            total += len(item) + 2
        elif isinstance(item, int):
            total += item.bit_length() // 3 + 3
        else:
            nested = elements(item)
            take_steps(len(nested))
            total += 32 + margin + len(nested) * (margin + separator)
            todo += [(child, margin + indent) for child in nested]
        check_length(total)
    take_steps(total // CHARACTERS)
    return total


def elements(value: Any) -> list[Any]:
    """What the text of a value shows of other values."""
    match value:
        case Namespace():
            return elements(object.__getattribute__(value, "_Namespace__attrs"))
        case Mapping():
            return [part for pair in value.items() for part in pair]
        case list() | tuple() | set() | frozenset() | KeysView() | ValuesView():
            return list(value)
        case ItemsView():
            return [part for pair in value for part in pair]
    return []


def check_sum(left: Any, right: Any) -> None:
    if isinstance(left, Sized) and isinstance(right, Sized):
        pay_length(len(left) + len(right), CHARACTERS if isinstance(left, str) else ELEMENTS)


def check_product(left: Any, right: Any) -> None:
    match left, right:
        case int(), int():
            check_bits(left.bit_length() + right.bit_length())
        case int(), Sized():
            pay_length(left * len(right), CHARACTERS if isinstance(right, str) else ELEMENTS)
        case Sized(), int():
            check_product(right, left)


def check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        check_bits(left.bit_length() * right)


def check_remainder(left: Any, right: Any) -> None:
    if isinstance(left, (bytes, bytearray)):
        raise SecurityError("expected a text or a number before %, found bytes")
    if isinstance(left, str):
        check_printf(left, right)


def check_printf(format: str, values: Any) -> None:
    """Bounds `format % values`. Every number in the format counts as a width, also one that is not: which ones are
    takes a parser of everything that Python accepts there, and a number of that size is no text of a template."""
    conversions = format.count("%")
    widths = sum(map(int, re.findall("[0-9]+", format)))
    given = values if isinstance(values, tuple) else (values,)
    numbers = [abs(value) for value in given if isinstance(value, int)]
    total = len(format) + conversions * NUMBER_LENGTH + widths + format.count("*") * max(numbers, default=0)
    check_length(total)
    if isinstance(values, Mapping):  # each value as often as the format names it
        total += text_length(values) + conversions * max(map(text_length, values.values()), default=0)
    else:
        total += sum(map(text_length, given))
    pay_length(total)

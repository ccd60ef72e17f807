"""What a metadata value may be: the types that plain Python and NumPy values get, and the checks of explicit ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_jax.errors import GGUFError
from gguf_jax.gguf.string_array import StringArray, encode_string
from gguf_jax.gguf.text import shown
from gguf_jax.gguf.value_type import DTYPES, TYPE_OF_DTYPE, AnyType, ArrayOf, ValueType


@dataclass(frozen=True)
class Typed:
    """A value with an explicit type, for `write` and `Metadata`: `Typed(1, ValueType.U64)`."""

    value: Any
    type: AnyType


def typed_value(key: str, value: Any, kind: AnyType | None = None) -> Typed:
    """Checks a value against its type, or infers the type; the result's value has the form `Metadata` documents."""
    if isinstance(value, Typed):
        value, kind = value.value, value.type
    try:
        if kind is None:
            kind = inferred_type(value)
        return Typed(canonical(value, kind), kind)
    except (GGUFError, OverflowError, TypeError, ValueError) as error:
        raise GGUFError(f"metadata key {shown(key)}: {error}") from error


def inferred_type(value: Any) -> AnyType:
    """The type that a plain value gets; raises GGUFError where none fits."""
    match value:
        case bool():
            return ValueType.BOOL
        case np.generic() if value.dtype in TYPE_OF_DTYPE:
            return TYPE_OF_DTYPE[value.dtype]
        case int():
            return integer_type(value, value)
        case float():
            return ValueType.F32
        case str():
            return ValueType.STRING
        case StringArray():
            return ArrayOf(ValueType.STRING)
        case np.ndarray() if value.dtype.newbyteorder("=") in TYPE_OF_DTYPE:
            return ArrayOf(TYPE_OF_DTYPE[value.dtype.newbyteorder("=")])
        case list() | tuple() if len(value):
            return ArrayOf(element_type(value))
        case list() | tuple():
            raise GGUFError("expected a type for an empty list, such as Typed([], ArrayOf(ValueType.I32))")
    raise GGUFError(f"expected bool, int, float, str, a NumPy array or a list of them, found {type(value).__name__}")


def integer_type(low: int, high: int) -> ValueType:
    """The first of u32, i32, u64, i64 that holds every integer from `low` to `high`."""
    for kind in (ValueType.U32, ValueType.I32, ValueType.U64, ValueType.I64):
        limits = np.iinfo(DTYPES[kind])
        if limits.min <= low and high <= limits.max:
            return kind
    raise GGUFError(f"expected integers of 64 bits, found {low if low == high else f'{low} and {high}'}")


def element_type(values: Sequence[Any]) -> ValueType:
    """The type of the elements of a list that is not empty."""
    if all(isinstance(v, str) for v in values):
        return ValueType.STRING
    if all(isinstance(v, (bool, np.bool_)) for v in values):
        return ValueType.BOOL
    if all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in values):
        return integer_type(int(min(values)), int(max(values)))
    if all(isinstance(v, (int, float, np.integer, np.floating)) and not isinstance(v, bool) for v in values):
        return ValueType.F32
    if all(isinstance(v, (list, tuple, np.ndarray, StringArray, Typed)) for v in values):
        return ValueType.ARRAY
    raise GGUFError(
        f"expected a list of one kind of value, found {', '.join(sorted({type(v).__name__ for v in values}))}"
    )


def canonical(value: Any, kind: AnyType) -> Any:
    """`value` in the form that `Metadata` documents for `kind`; raises where it does not fit (f32 may round)."""
    if isinstance(kind, ArrayOf):
        return canonical_array(value, kind.element)
    match kind:
        case ValueType.STRING:
            if not isinstance(value, str):
                raise GGUFError(f"expected str, found {type(value).__name__}")
            encode_string(value)
            return value
        case ValueType.ARRAY:
            raise GGUFError("expected ArrayOf(element type), found ValueType.ARRAY")
    if not np.isscalar(value):
        raise GGUFError(f"expected {kind}, found {type(value).__name__}")
    return numeric_array([value], kind)[0].item()


def canonical_array(value: Any, element: ValueType) -> Any:
    if not isinstance(value, (list, tuple, np.ndarray, StringArray)):
        raise GGUFError(f"expected an array of {element}, found {type(value).__name__}")
    match element:
        case ValueType.STRING:
            return value if isinstance(value, StringArray) else StringArray.of(value)
        case ValueType.ARRAY:
            return [inner_array(item) for item in value]
    if isinstance(value, StringArray):
        raise GGUFError(f"expected an array of {element}, found strings")
    return numeric_array(value, element)


def inner_array(value: Any) -> Any:
    item = typed_value("element of a nested array", value)
    if not isinstance(item.type, ArrayOf):
        raise GGUFError(f"expected an array of arrays, found {item.type} among its elements")
    return item.value


def numeric_array(value: Sequence[Any] | np.ndarray, element: ValueType) -> np.ndarray:
    dtype = DTYPES[element]
    found = np.asarray(value) if len(value) else np.empty(0, dtype)
    if found.ndim != 1:
        raise GGUFError(f"expected an array of one dimension, found {found.ndim}")
    if found.dtype.newbyteorder("=") == dtype:
        array = found.astype(dtype)
    else:
        allowed = {"b": "b", "u": "ui", "i": "ui", "f": "fui"}[dtype.kind]
        if found.dtype.kind not in allowed:
            raise GGUFError(f"expected {element}, found {shown(list(value[:8]))}")
        with np.errstate(over="ignore"):
            array = found.astype(dtype)
        kept = np.isfinite(array) == np.isfinite(found) if dtype.kind == "f" else array == found
        if not np.all(kept):
            raise GGUFError(f"expected {element}, found {shown(found[~kept][0].item())}, which does not fit")
    array.flags.writeable = False
    return array

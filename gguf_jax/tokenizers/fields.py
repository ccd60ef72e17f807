"""Typed reading of metadata keys: what is missing, or of another type than it must be, is a one-line error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.string_array import StringArray
from gguf_jax.gguf.text import shown


def kind_of(value: Any) -> str:
    """What a value is, for messages."""
    match value:
        case np.ndarray():
            return f"an array of {len(value) if value.ndim else 0} {value.dtype}"
        case str() | bytes():
            return f"the string {shown(value)}"
        case Sequence():
            return f"a sequence of {len(value)} {type(value[0]).__name__}" if len(value) else "an empty sequence"
    return f"{type(value).__name__} {shown(value)}"


def wrong(key: str, expected: str, value: Any) -> GGUFJaxError:
    found = "nothing" if value is None else kind_of(value)
    return GGUFJaxError(f"metadata key {key}: expected {expected}, found {found}")


def string(metadata: Mapping[str, Any], key: str) -> str | None:
    """A string, or None where there is no such key."""
    value = metadata.get(key)
    if value is not None and not isinstance(value, str):
        raise wrong(key, "a string", value)
    return value


def flag(metadata: Mapping[str, Any], key: str) -> bool | None:
    """A bool, or None where there is no such key."""
    value = metadata.get(key)
    if value is not None and not isinstance(value, (bool, np.bool_)):
        raise wrong(key, "a bool", value)
    return None if value is None else bool(value)


def string_array(metadata: Mapping[str, Any], key: str) -> Sequence[str]:
    """An array of strings that must be there, as lazy as it stands in the metadata."""
    value = metadata.get(key)
    if isinstance(value, (str, bytes, np.ndarray)) or not isinstance(value, Sequence):
        raise wrong(key, "an array of strings", value)
    return value


def string_list(key: str, array: Sequence[str]) -> list[str]:
    """The strings of `string_array`."""
    if isinstance(array, StringArray):
        return array.tolist()
    for i, value in enumerate(array):
        if not isinstance(value, str):
            raise wrong(f"{key}[{i}]", "a string", value)
    return list(array)


def number_array(metadata: Mapping[str, Any], key: str, length: int, kinds: str) -> np.ndarray | None:
    """An array of `length` numbers whose dtype is of `kinds` (as in `np.dtype.kind`), or None without such a key."""
    value = metadata.get(key)
    if value is None:
        return None
    expected = f"an array of {length} {'numbers' if 'f' in kinds else 'integers'}, one for each token"
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, np.ndarray)) or len(value) != length:
        raise wrong(key, expected, value)
    try:
        array = np.asarray(value)
    except ValueError:
        raise wrong(key, expected, value) from None
    if array.dtype.kind not in kinds or array.ndim != 1:
        raise wrong(key, expected, value)
    return array


def octets(metadata: Mapping[str, Any], key: str) -> bytes | None:
    """An array of bytes, signed or not, or None where there is no such key."""
    value = metadata.get(key)
    if value is None:
        return None
    if not isinstance(value, np.ndarray) or value.dtype not in (np.int8, np.uint8) or value.ndim != 1:
        raise wrong(key, "an array of bytes", value)
    return value.tobytes()


def token_id(metadata: Mapping[str, Any], key: str, vocab_size: int) -> int | None:
    """A token id, or None where the number is no token: converters write -1 or 4294967295 for "there is none"."""
    value = metadata[key]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise wrong(key, "an integer", value)
    return int(value) if 0 <= value < vocab_size else None

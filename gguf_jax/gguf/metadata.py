"""`Metadata`: the keys and values of a file, read-only, with the exact type of each kept for write-back.

Values are what Python code expects (str, int, float, bool, NumPy arrays), not wrappers; the GGUF type of each stands
beside it in `.types`. Everything here is a copy of the file's bytes, never a view of the mapping: a vocabulary is a few
megabytes, so the copy costs a millisecond, and metadata outlives the file it came from (it rides on a model).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Self

from gguf_jax.gguf.value_type import AnyType
from gguf_jax.gguf.values import typed_value


class Metadata(Mapping[str, Any]):
    """The metadata of a file: an immutable mapping in file order, with the GGUF type of each value in `.types`.

    | GGUF type                  | value                                                                       |
    |----------------------------|-----------------------------------------------------------------------------|
    | u8 ... i64                 | int                                                                         |
    | f32, f64                   | float (an f32 is held exactly; only a signalling NaN becomes a quiet one)   |
    | bool                       | bool                                                                        |
    | string                     | str; bytes that are no UTF-8 survive as lone surrogates (`surrogateescape`) |
    | array of numbers or bools  | read-only NumPy array of that dtype                                         |
    | array of strings           | `StringArray`                                                               |
    | array of arrays            | list of the three above                                                     |

    Hashes and compares by identity, and a deep copy is the object itself, so that it can be a static attribute of a
    model; compare contents with `dict(a) == dict(b)`.
    """

    __slots__ = ("_types", "_values")

    def __init__(self, values: Mapping[str, Any] | None = None):
        """From plain values (types inferred as `write` documents), `Typed` ones, or another Metadata (types kept)."""
        self._values: dict[str, Any] = {}
        self._types: dict[str, AnyType] = {}
        if isinstance(values, Metadata):
            self._values, self._types = values._values, values._types
            return
        for key, value in (values or {}).items():
            item = typed_value(key, value)
            self._values[key], self._types[key] = item.value, item.type

    @classmethod
    def trusted(cls, values: dict[str, Any], types: dict[str, AnyType]) -> Self:
        """For the reader, whose values have the right form already."""
        self = cls()
        self._values, self._types = values, types
        return self

    @property
    def types(self) -> Mapping[str, AnyType]:
        """The type of each value: a `ValueType`, or `ArrayOf` one."""
        return MappingProxyType(self._types)

    def updated(self, changes: Mapping[str, Any], remove: Iterable[str] = ()) -> Metadata:
        """A copy with `changes` (plain or `Typed`; at its place where the key exists) and without `remove`."""
        new = Metadata(changes)
        dropped = set(remove)
        values, types = self._values | new._values, self._types | new._types
        return Metadata.trusted(
            {key: value for key, value in values.items() if key not in dropped},
            {key: kind for key, kind in types.items() if key not in dropped},
        )

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    __eq__ = object.__eq__

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]  # a Mapping is usually unhashable
        return id(self)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __repr__(self) -> str:
        return f"Metadata({len(self)} keys)"

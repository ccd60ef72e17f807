"""The types a metadata value can have: GGUF's thirteen ids, and the array of one of them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

import numpy as np


class ValueType(enum.IntEnum):
    """Id of a metadata value's type in a file (docs/gguf.md, `gguf_metadata_value_type`)."""

    U8 = 0
    I8 = 1
    U16 = 2
    I16 = 3
    U32 = 4
    I32 = 5
    F32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    U64 = 10
    I64 = 11
    F64 = 12

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class ArrayOf:
    """An array of `element`; `ArrayOf(ValueType.ARRAY)` is a nested one, whose inner types its values tell."""

    element: ValueType

    def __str__(self) -> str:
        return f"[{self.element}]"


AnyType = ValueType | ArrayOf

DTYPES: dict[ValueType, np.dtype] = {
    ValueType.U8: np.dtype("u1"),
    ValueType.I8: np.dtype("i1"),
    ValueType.U16: np.dtype("u2"),
    ValueType.I16: np.dtype("i2"),
    ValueType.U32: np.dtype("u4"),
    ValueType.I32: np.dtype("i4"),
    ValueType.F32: np.dtype("f4"),
    ValueType.BOOL: np.dtype("?"),
    ValueType.U64: np.dtype("u8"),
    ValueType.I64: np.dtype("i8"),
    ValueType.F64: np.dtype("f8"),
}
"""NumPy dtype of each scalar type; its size is the size in the file."""

STRUCT_LETTERS: dict[ValueType, str] = dict(zip(DTYPES, "BbHhIif?Qqd", strict=True))
"""Format character of each scalar type in `struct`, where those of NumPy mean other sizes."""

TYPE_OF_DTYPE = {dtype: kind for kind, dtype in DTYPES.items()}
INTEGERS = frozenset(kind for kind, dtype in DTYPES.items() if dtype.kind in "ui")
FLOATS = frozenset({ValueType.F32, ValueType.F64})

BYTE_ORDERS: dict[str, Literal["<", ">"]] = {"little": "<", "big": ">"}
"""The two byte orders a file can have, with their `struct` and dtype prefix."""

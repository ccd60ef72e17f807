"""GGUF files made by hand, right and wrong ones, independently of the package's own writer."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
LETTERS = dict(zip((U8, I8, U16, I16, U32, I32, F32, BOOL, U64, I64, F64), "BbHhIif?Qqd", strict=True))


@dataclass
class Craft:
    """Bytes of headers in one byte order and version. Every part can be overruled by raw bytes or a false count."""

    version: int = 3
    order: str = "<"
    kv: list[bytes] = field(default_factory=list)
    tensors: list[bytes] = field(default_factory=list)

    def number(self, kind: int, value: float) -> bytes:
        return struct.pack(self.order + LETTERS[kind], value)

    def u32(self, value: int) -> bytes:
        return self.number(U32, value)

    def length(self, value: int) -> bytes:
        return self.number(U32 if self.version == 1 else U64, value)

    def string(self, value: str | bytes, length: int | None = None) -> bytes:
        raw = value.encode() if isinstance(value, str) else value
        return self.length(len(raw) if length is None else length) + raw

    def array(self, element: int, values: list[Any], count: int | None = None) -> bytes:
        if element == STRING:
            body = b"".join(map(self.string, values))
        elif element == ARRAY:
            body = b"".join(values)
        else:
            body = b"".join(self.number(element, value) for value in values)
        return self.u32(element) + self.length(len(values) if count is None else count) + body

    def value(self, kind: int, value: Any) -> bytes:
        match kind:
            case 8:
                return self.string(value)
            case 9:
                return value
        return self.number(kind, value)

    def add(self, key: str | bytes, kind: int, value: Any) -> Craft:
        self.kv.append(self.string(key) + self.u32(kind) + self.value(kind, value))
        return self

    def tensor(self, name: str | bytes, dims: list[int], type_id: int, offset: int, n_dims: int | None = None) -> Craft:
        """`dims` in the order of the file, the fastest first."""
        described = self.u32(len(dims) if n_dims is None else n_dims) + b"".join(map(self.length, dims))
        self.tensors.append(self.string(name) + described + self.u32(type_id) + self.number(U64, offset))
        return self

    def header(self, magic: bytes = b"GGUF", n_tensors: int | None = None, n_kv: int | None = None) -> bytes:
        counts = self.length(len(self.tensors) if n_tensors is None else n_tensors)
        counts += self.length(len(self.kv) if n_kv is None else n_kv)
        return magic + self.u32(self.version) + counts + b"".join(self.kv) + b"".join(self.tensors)

    def file(self, data: bytes = b"", alignment: int = 32, **counts: Any) -> bytes:
        """The header, padded to where `data` starts, and `data`."""
        header = self.header(**counts)
        return header + bytes(-len(header) % alignment) + data


def small_file(version: int = 3, order: str = "<") -> bytes:
    """A good file of about a kilobyte: every type of value, four tensors, one of them quantized and one empty."""
    craft = Craft(version, order)
    for kind, letter in LETTERS.items():
        value = 1.5 if letter in "fd" else 1
        craft.add(f"value.{kind}", kind, value)
        craft.add(f"array.{kind}", ARRAY, craft.array(kind, [value, 0, value]))
    craft.add("general.architecture", STRING, "llama")
    craft.add("general.quantization_version", U32, 2)
    craft.add("tokens", ARRAY, craft.array(STRING, ["a", "", "wörld"]))
    craft.add("nested", ARRAY, craft.array(ARRAY, [craft.array(U8, [1, 2]), craft.array(STRING, ["x"])]))
    craft.tensor("f32", [3, 2], 0, 0).tensor("q8_0", [32, 2], 8, 32).tensor("i8", [5], 24, 128).tensor(
        "none", [0], 0, 160
    )
    half = struct.pack(craft.order + "e", 0.5)
    q8_0 = b"".join(half + bytes(range(start, start + 32)) for start in (0, 32))
    data = struct.pack(craft.order + "6f", 1, 2, 3, 4, 5, 6).ljust(32, b"\0") + q8_0.ljust(96, b"\0")
    return craft.file(data + bytes([1, 2, 3, 4, 5]).ljust(32, b"\0"))

"""`Cursor`: reading numbers and strings of a hostile file; each length is bounded before anything that long is made.

The buffer may be only the first part of the file (a remote header arrives in pieces): reading past the buffer raises
`Incomplete`, reading past the file raises `GGUFError`.
"""

from __future__ import annotations

import struct
from typing import Any, Literal

from gguf_jax.errors import GGUFError
from gguf_jax.gguf.text import shown
from gguf_jax.gguf.value_type import DTYPES, STRUCT_LETTERS, ValueType

MAX_STRING = 1 << 30
"""Bytes; ggml's own limit."""


class Incomplete(Exception):
    """The header goes on behind the end of the buffer."""


class Cursor:
    """A position in a buffer that is the first part, or all, of a file of `size` bytes called `file`."""

    def __init__(self, buffer: memoryview, size: int, file: str):
        self.buffer = buffer
        self.size = size
        self.file = file
        self.position = 0
        self.order: Literal["<", ">"] = "<"
        self.length_size = 8
        self.nested = 0
        self.strict = False

    def fail(self, what: str, expected: str, found: object) -> GGUFError:
        return GGUFError(f"{self.file}: {what}: expected {expected}, found {found}")

    def require(self, n: int, what: str, position: int | None = None) -> None:
        """Refuses unless `n` bytes remain in the file, and asks for more unless they are in the buffer."""
        at = self.position if position is None else position
        if n > self.size - at:
            raise self.fail(what, f"{n} bytes at offset {at}", f"{max(self.size - at, 0)} to the end of the file")
        if n > len(self.buffer) - at:
            raise Incomplete

    def take(self, n: int, what: str) -> memoryview:
        self.require(n, what)
        start, self.position = self.position, self.position + n
        return self.buffer[start : self.position]

    def number(self, kind: ValueType, what: str) -> Any:
        return struct.unpack(self.order + STRUCT_LETTERS[kind], self.take(DTYPES[kind].itemsize, what))[0]

    def u32(self, what: str) -> int:
        return self.number(ValueType.U32, what)

    def u64(self, what: str) -> int:
        return self.number(ValueType.U64, what)

    def length(self, what: str) -> int:
        """A length, count or dimension: u32 in version 1, u64 since."""
        return self.u32(what) if self.length_size == 4 else self.u64(what)

    def count(self, least: int, what: str) -> int:
        """A number of things of at least `least` bytes each, all of which the rest of the file must be able to hold."""
        found = self.length(what)
        self.check_count(found, least, what)
        return found

    def check_count(self, found: int, least: int, what: str) -> None:
        most = (self.size - self.position) // least
        if found > most:
            raise self.fail(what, f"at most {most} (what the rest of the file can hold)", found)

    def string(self, what: str, limit: int = MAX_STRING) -> str:
        n = self.length(f"length of {what}")
        if n > limit:
            raise self.fail(f"length of {what}", f"at most {limit} bytes", n)
        raw = self.take(n, what)
        try:
            return str(raw, "utf-8", "strict" if self.strict else "surrogateescape")
        except UnicodeDecodeError:
            raise self.fail(what, "UTF-8", shown(bytes(raw))) from None

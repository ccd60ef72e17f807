"""`StringArray`: an array of strings that stays as it is in the file until its strings are asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Self, overload

import numpy as np

from gguf_jax.errors import GGUFError
from gguf_jax.gguf.text import shown


def encode_string(string: str) -> bytes:
    """The file's bytes of a string, the inverse of decoding with `surrogateescape`."""
    try:
        return string.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise GGUFError(f"string {shown(string)}: expected UTF-8, found a lone surrogate") from error


class StringArray(Sequence[str]):
    """An immutable array of strings that are decoded when asked for.

    Bytes that are no UTF-8 decode to lone surrogates (`surrogateescape`), from which they are written back unchanged;
    `raw(i)` is the bytes themselves. Compares equal to any sequence of the same strings.
    """

    __slots__ = ("_blob", "_header", "_starts", "layout")

    def __init__(self, blob: bytes, starts: np.ndarray, layout: str):
        """`blob` is the strings as in the file, each behind its length; `starts` are the n + 1 int64 positions of those
        lengths and of the end; `layout` is the `struct` format of a length, such as `<Q`."""
        self._blob = blob
        self._starts = starts
        self._header = 4 if layout[1] == "I" else 8
        self.layout = layout

    @classmethod
    def of(cls, strings: Iterable[str]) -> Self:
        """Builds one from strings; those with lone surrogates become the bytes they stand for."""
        parts: list[bytes] = []
        starts = [0]
        for string in strings:
            if not isinstance(string, str):
                raise GGUFError(f"string array: expected only str, found {type(string).__name__}")
            raw = encode_string(string)
            parts += (len(raw).to_bytes(8, "little"), raw)
            starts.append(starts[-1] + 8 + len(raw))
        return cls(b"".join(parts), np.array(starts, np.int64), "<Q")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def raw(self, index: int) -> bytes:
        """The bytes of one string."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside of an array of {len(self)} strings")
        index %= len(self)
        return self._blob[self._starts[index] + self._header : self._starts[index + 1]]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return str(self.raw(index), "utf-8", "surrogateescape")

    def raws(self) -> Iterator[bytes]:
        """The bytes of every string, in order."""
        blob, header = self._blob, self._header
        # Lists of Python ints, in pieces: iterating over NumPy scalars takes five times as long.
        for first in range(0, len(self), 65536):
            edges = self._starts[first : first + 65537].tolist()
            yield from (blob[a + header : b] for a, b in itertools.pairwise(edges))

    def __iter__(self) -> Iterator[str]:
        return (str(raw, "utf-8", "surrogateescape") for raw in self.raws())

    def tolist(self) -> list[str]:
        """All strings, decoded."""
        try:
            return [raw.decode() for raw in self.raws()]
        except UnicodeDecodeError:
            return list(self)

    def encoded(self, layout: str) -> bytes:
        """The strings as they stand in a file whose lengths have the `struct` format `layout`."""
        if layout == self.layout:
            return self._blob
        order, size = ("little" if layout[0] == "<" else "big"), 4 if layout[1] == "I" else 8
        return b"".join(part for raw in self.raws() for part in (len(raw).to_bytes(size, order), raw))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, StringArray):
            return len(self) == len(other) and self.encoded("<Q") == other.encoded("<Q")
        if isinstance(other, (list, tuple)):
            return len(self) == len(other) and self.tolist() == list(other)
        return NotImplemented

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # equal to a list, which has no hash either

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"StringArray([{shown}{', ...' if len(self) > 3 else ''}], length {len(self)})"

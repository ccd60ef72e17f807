"""Results: a JSON object a line, each of them appended and synced at once, so that whatever stops a run leaves what was
measured before."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import printable, shown

DIGITS = 7
"""Significant digits of what is kept: float32 has no more."""


@dataclass(frozen=True)
class Row:
    """One result.

    Attributes:
        key: of `of`, see `key_of`.
        of: all that determines what is found: the case by name, and digests of what it is about.
        found: the figures.
        by: what measured it: versions, machine, command, time, seconds.
    """

    key: str
    of: dict[str, Any]
    found: dict[str, Any]
    by: dict[str, Any]


def key_of(of: dict[str, Any]) -> str:
    """16 hexadecimal digits that say what determines a result."""
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:16]


def read_rows(path: Path) -> tuple[list[Row], int]:
    """The rows of a file in order, none where there is no file, and how many bytes of it they take: the rest is a line
    that was only half written.

    Raises:
        GGUFJaxError: a whole line is no row.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise GGUFJaxError(f"{printable(str(path))}: cannot be read: {error.strerror or error}") from error
    whole = data.rfind(b"\n") + 1
    return [_row(path, i, line) for i, line in enumerate(data[:whole].splitlines(), 1)], whole


def _row(path: Path, number: int, line: bytes) -> Row:
    try:
        return Row(**json.loads(line))
    except (ValueError, TypeError):
        expected = "expected a JSON object with key, of, found and by"
        raise GGUFJaxError(f"{printable(str(path))}: line {number}: {expected}, found {shown(line)}") from None


class Results:
    """A file of rows, read when it is opened and appended to; `by_key` are its rows, `dropped` the bytes of a line that
    was only half written, which the next row replaces."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows, self._end = read_rows(path)
        self.by_key = {row.key: row for row in self.rows}
        self.dropped = path.stat().st_size - self._end if path.exists() else 0

    def append(self, row: Row) -> None:
        """
        Raises:
            GGUFJaxError: the file cannot be written; what it holds is then as it was.
        """
        line = json.dumps(asdict(row)).encode() + b"\n"
        with written(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "r+b" if self.path.exists() else "xb") as file:
                file.truncate(self._end)
                file.seek(self._end)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        self._end += len(line)
        self.rows.append(row)
        self.by_key[row.key] = row


def rounded(value: Any, digits: int = DIGITS) -> Any:
    """JSON's types with floats of so many significant digits, and None for what is not finite."""
    match value:
        case float():
            return float(f"{value:.{digits}g}") if math.isfinite(value) else None
        case dict():
            return {key: rounded(each, digits) for key, each in value.items()}
        case list() | tuple():
            return [rounded(each, digits) for each in value]
    return value


def file_digest(path: str | os.PathLike[str]) -> str:
    """Of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Within, a file that cannot be written is one line."""
    try:
        yield
    except OSError as error:
        raise GGUFJaxError(f"{printable(str(path))}: cannot be written: {error.strerror or error}") from error

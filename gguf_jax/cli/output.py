"""What the commands print: text that every terminal takes, and failures that are one line like all others."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from gguf_jax.errors import GGUFJaxError

CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Characters that drive a terminal, apart from tab, line feed and carriage return. Narrower than `gguf.text.printable`:
a text may hold joiners, direction marks and spaces of many kinds, which a name in a message has no use for."""


class OutputFailed(GGUFJaxError):
    """Standard output takes no more, and its reader did not choose that."""


def write(text: str, *, styled: bool = False) -> None:
    """Write to standard output at once, what its encoding lacks as backslash escapes.

    On a terminal control characters are escaped too, since most text comes from a file that may be hostile, unless it
    is `styled`: made for a terminal out of text that was escaped before. When the reader has gone (`| head`), the
    program ends quietly.

    Raises:
        OutputFailed: it cannot be written.
        SystemExit: its reader has gone.
    """
    if not styled and is_terminal(sys.stdout):
        text = CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    with _failures(sys.stdout):
        if sys.stdout is None:  # closed before the program began
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()


def write_json(value: Any, *, indent: int | None = None) -> None:
    """JSON in ASCII: `write` would escape other characters in a way that is not JSON's."""
    write(json.dumps(value, indent=indent) + "\n")


class _Guarded:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with _failures(self._stream):
            return self._stream.write(text)

    def flush(self) -> None:
        with _failures(self._stream):
            self._stream.flush()


@contextmanager
def guarded() -> Iterator[None]:
    """Within, what others print (Typer its help) fails as `write` does, at the end at the latest."""
    if (stream := sys.stdout) is None:
        yield
        return
    sys.stdout = guard = cast(TextIO, _Guarded(stream))
    try:
        yield
    finally:
        sys.stdout = stream
        guard.flush()


def say(line: str) -> None:
    """A line on stderr. Where that cannot be written nobody can be told, and it is no reason to stop."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


@contextmanager
def _failures(stream: TextIO | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _discard(stream)
        if isinstance(error, BrokenPipeError):
            raise SystemExit(0) from None
        raise OutputFailed(f"standard output: {error.strerror or error}") from error


def _discard(stream: TextIO | None) -> None:
    """Send what is still buffered nowhere: it would fail again when the interpreter flushes it at exit."""
    with suppress(OSError, ValueError):  # a stand-in for a file, as tests have, has no descriptor
        if stream is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

"""Headers of remote files, by range requests through fsspec: the metadata of a 400 GB model costs a few megabytes.

The header does not say how long it is, so a prefix is fetched that doubles until the header parses. It is parsed anew
each time, which costs no more than the last time does, and far less than the network.
"""

from __future__ import annotations

import re
from typing import Any

from gguf_jax.errors import GGUFError
from gguf_jax.gguf.cursor import Incomplete
from gguf_jax.gguf.parse import Header, parse
from gguf_jax.gguf.shards import Part
from gguf_jax.gguf.source import HeaderOnly
from gguf_jax.gguf.text import printable

FIRST_FETCH = 1 << 20
MAX_HEADER = 1 << 30
"""Bytes; a vocabulary of 256 k tokens with its merges takes about 16 MiB."""

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_remote(address: str) -> bool:
    """Whether `address` is one for fsspec, `https://...` or `hf://...`, rather than a path."""
    return ADDRESS.match(address) is not None


def open_part(address: str, strict: bool) -> Part:
    """Fetches and parses the header of one remote file; GGUFError, in one line, for whatever goes wrong."""
    # What stands before an @ and behind a ? may be a secret, and messages end up in logs.
    name = printable(re.sub(r"//[^/@]*@", "//", address.partition("?")[0]))
    try:
        header, size = fetched_header(address, name, strict)
    except GGUFError:
        raise
    except Exception as error:  # each of fsspec's backends has exceptions of its own, with no base in common
        raise GGUFError(f"{name}: cannot be fetched: {printable(reason(error).replace(address, name))}") from error
    return Part(address, header, HeaderOnly(name, size))


def reason(error: BaseException) -> str:
    """What went wrong at the bottom: fsspec says "file not found" of a host that does not answer, too."""
    while error.__cause__ is not None:
        error = error.__cause__
    status = getattr(error, "status", None)  # aiohttp's
    if status is not None:
        return f"the server answered {status} {getattr(error, 'message', '')}".strip()
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def fetched_header(address: str, name: str, strict: bool) -> tuple[Header, int]:
    """The header and the size of the whole file in bytes."""
    import fsspec  # here, since it takes a fifth of a second, and most files are local

    with fsspec.open(address, "rb", cache_type="none", block_size=FIRST_FETCH) as opened:
        file: Any = opened
        size = file.size
        if size is None:
            raise GGUFError(f"{name}: expected a server that tells the size of the file, found one that does not")
        prefix, wanted = b"", FIRST_FETCH
        while True:
            prefix += fetched(file, min(wanted, size) - len(prefix), name)
            try:
                return parse(memoryview(prefix), size, name, strict=strict), size
            except Incomplete:
                if wanted >= MAX_HEADER:
                    raise GGUFError(f"{name}: expected a header of at most {MAX_HEADER} bytes, found more") from None
                wanted *= 2


def fetched(file: Any, n: int, name: str) -> bytes:
    """The next `n` bytes of a remote file."""
    data = file.read(n)
    if len(data) != n:
        raise GGUFError(f"{name}: expected {n} bytes from the server, found {len(data)}")
    return data

"""Digests of tensor data, for each tensor and for all of them in a row, as llama.cpp's `gguf-hash` makes them.

They do not see metadata, names or padding: a file whose metadata were edited has the digests that it had, and so has a
model that is split into shards. The bytes are those of the file, in its byte order.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from gguf_jax.errors import GGUFError, Unsupported
from gguf_jax.gguf.outgoing import file_pieces
from gguf_jax.gguf.tensor_view import TensorView
from gguf_jax.gguf.text import printable, shown

NAMESPACE = uuid.UUID("ef001206-dadc-5f6d-a15f-3359e577d4e5")
"""llama.cpp's for models: uuid5(NAMESPACE_URL, "en.wikipedia.org/wiki/Llama.cpp")."""

DIGITS = {"xxh64": 16, "sha1": 40, "sha256": 64}
"""Algorithms for single tensors and their digests' length, in the order of gguf-hash's lines."""
ALGORITHMS = (*DIGITS, "uuid")
STRONGEST_FIRST = ("sha256", "sha1", "xxh64", "uuid")

MAX_MANIFEST = 1 << 26
"""Bytes; a model of ten thousand tensors takes a megabyte or two for each algorithm."""


class Hasher(Protocol):
    def update(self, data: Any, /) -> None: ...
    def hexdigest(self) -> str: ...


class Uuid:
    """UUID version 5 of the data as a "name" in llama.cpp's namespace."""

    def __init__(self) -> None:
        self._sha1 = hashlib.sha1(NAMESPACE.bytes, usedforsecurity=False)

    def update(self, data: Any, /) -> None:
        self._sha1.update(data)

    def hexdigest(self) -> str:
        return str(uuid.UUID(bytes=self._sha1.digest()[:16], version=5))


def hasher(algorithm: str) -> Hasher:
    """A new hash of that name; raises Unsupported for xxh64 where the package that has it is not installed."""
    match algorithm:
        case "sha256":
            return hashlib.sha256()
        case "sha1":
            return hashlib.sha1(usedforsecurity=False)
        case "uuid":
            return Uuid()
        case "xxh64":
            try:
                import xxhash  # pyright: ignore[reportMissingImports]  # an optional package
            except ImportError:
                raise Unsupported("xxh64: expected the package xxhash, found it not installed") from None
            return xxhash.xxh64(seed=0)
    raise GGUFError(f"hash: expected one of {', '.join(ALGORITHMS)}, found {shown(algorithm)}")


@dataclass(frozen=True)
class Digest:
    """A digest in lower-case hexadecimal, or a UUID; `tensor` is None for the data of all tensors in a row."""

    tensor: str | None
    algorithm: str
    hex: str


def digests(
    tensors: Mapping[str, TensorView], algorithms: Iterable[str], *, per_tensor: bool = True
) -> Iterator[Digest]:
    """The digests of every tensor as it is read, and at the end those of all of them. A UUID there is of all only."""
    wanted = [name for name in ALGORITHMS if name in set(algorithms)]
    whole = {name: hasher(name) for name in wanted}
    for view in tensors.values():
        own = {name: hasher(name) for name in wanted if per_tensor and name in DIGITS}
        for piece in file_pieces(view):
            for each in (*own.values(), *whole.values()):
                each.update(piece)
        for name, each in own.items():
            yield Digest(view.name, name, each.hexdigest())
    for name, each in whole.items():
        yield Digest(None, name, each.hexdigest())


def line(digest: Digest, file: str) -> str:
    """As gguf-hash prints it, `sha256    <digest>  file.gguf:tensor`, which is a line of a manifest too."""
    return f"{digest.algorithm:<8}  {digest.hex}  {subject(digest.tensor, file)}"


def subject(tensor: str | None, file: str) -> str:
    # Printable, since a name that holds a line feed would else forge a line.
    return printable(file if tensor is None else f"{file}:{tensor}")


@dataclass(frozen=True)
class Manifest:
    """What a manifest says of one file: for an algorithm and a tensor (None: all), printable, the digests it has."""

    path: str
    digests: dict[tuple[str, str | None], set[str]]

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Those that it has digests of, the strongest first."""
        found = {algorithm for algorithm, _ in self.digests}
        return tuple(name for name in STRONGEST_FIRST if name in found)

    def of(self, algorithms: Iterable[str], *, per_tensor: bool = True) -> dict[tuple[str, str | None], set[str]]:
        """Its digests by these algorithms; without `per_tensor` only those of all tensors."""
        wanted = set(algorithms)
        return {
            (algorithm, tensor): found
            for (algorithm, tensor), found in self.digests.items()
            if algorithm in wanted and (per_tensor or tensor is None)
        }


def read_manifest(path: str, file: str) -> Manifest:
    """Reads what gguf-hash or `line` wrote. Lines that begin with no algorithm's name are no entries.

    Entries of `file` are those of its name; where there are none, those of a file of that name in another folder.

    Raises GGUFError: it cannot be read, an entry is malformed, or none is of `file`."""
    name = printable(path)
    try:
        with open(path, "rb") as opened:
            content = opened.read(MAX_MANIFEST + 1)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise GGUFError(f"{name}: cannot be read: {printable(reason)}") from error
    if len(content) > MAX_MANIFEST:
        raise GGUFError(f"{name}: expected a manifest of at most {MAX_MANIFEST} bytes, found more")
    entries = list(manifest_entries(content, name))
    base = re.escape(os.path.basename(printable(file)))
    for pattern in (re.escape(printable(file)), rf"(?:.*[/\\])?{base}"):
        own = re.compile(rf"{pattern}(?::(?P<tensor>.*))?", re.DOTALL)
        found: dict[tuple[str, str | None], set[str]] = {}
        for algorithm, digest, about in entries:
            if match := own.fullmatch(about):
                found.setdefault((algorithm, match["tensor"]), set()).add(digest)
        if found:
            return Manifest(path, found)
    raise GGUFError(f"{name}: expected digests of {printable(file)}, found {len(entries)} entries and none of it")


def manifest_entries(content: bytes, name: str) -> Iterator[tuple[str, str, str]]:
    """Algorithm, digest and what it is of, printable, of each entry."""
    for number, raw in enumerate(content.splitlines(), 1):
        words = printable(raw.decode("utf-8", "surrogateescape")).split(maxsplit=2)
        if not words or words[0] not in ALGORITHMS:
            continue
        if len(words) < 3 or not is_digest(words[0], words[1].lower()):
            raise GGUFError(f"{name}: line {number}: expected '{words[0]}  DIGEST  NAME', found {shown(raw)}")
        yield words[0], words[1].lower(), words[2]


def is_digest(algorithm: str, text: str) -> bool:
    if algorithm == "uuid":
        return re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text) is not None
    return len(text) == DIGITS[algorithm] and re.fullmatch(r"[0-9a-f]+", text) is not None

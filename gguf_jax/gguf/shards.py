"""Split models: `name-00001-of-00003.gguf` and its siblings, which one file's metadata and name lead to.

`llama-gguf-split` writes `split.no` (from 0), `split.count` and `split.tensors.count` (of all shards together) into
every shard; the rest of the metadata stands in the first one, which may have no tensors at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gguf_jax.errors import GGUFError
from gguf_jax.gguf.metadata import Metadata
from gguf_jax.gguf.parse import Header
from gguf_jax.gguf.source import Source
from gguf_jax.gguf.text import shown
from gguf_jax.gguf.value_type import INTEGERS

SHARD_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"


@dataclass(frozen=True)
class Part:
    """One opened file: the address it was opened by, its parsed header, its bytes."""

    address: str
    header: Header
    source: Source


def opened_with_siblings(part: Part, open_part: Callable[[str], Part]) -> list[Part]:
    """All shards of the model that `part` belongs to, in order; `[part]` if it is a whole one.

    Closes what it opened if one is missing or does not fit."""
    metadata = part.header.metadata
    count = whole_number(part, COUNT) if COUNT in metadata else 1
    if count < 2:
        return [part]
    name = SHARD_NAME.fullmatch(part.address)
    if name is None or int(name["count"]) != count:
        expected = f"a name ending in -NNNNN-of-{count:05d}.gguf"
        raise GGUFError(f"{part.source.name}: one of {count} shards: expected {expected}, to find the others")
    parts: list[Part] = []
    try:
        for number in range(count):
            address = f"{name['stem']}-{number + 1:05d}-of-{count:05d}.gguf"
            parts.append(part if address == part.address else open_sibling(part, address, open_part))
            check_part(parts[-1], number, count)
        check_tensors(parts)
    except BaseException:
        for opened in parts:
            opened.source.close()
        raise
    return parts


def open_sibling(part: Part, address: str, open_part: Callable[[str], Part]) -> Part:
    try:
        return open_part(address)
    except GGUFError as error:
        raise GGUFError(
            f"{part.source.name}: one of several shards, of which another is missing or bad: {error}"
        ) from error


def whole_number(part: Part, key: str) -> int:
    metadata = part.header.metadata
    if key not in metadata:
        raise GGUFError(f"{part.source.name}: {key}: expected an integer, as for every shard, found none")
    value: Any = metadata[key]
    if metadata.types[key] not in INTEGERS or value < 0:
        raise GGUFError(f"{part.source.name}: {key}: expected an integer from 0, found {shown(value)}")
    return value


def check_part(part: Part, number: int, count: int) -> None:
    for key, expected in ((NUMBER, number), (COUNT, count)):
        found = whole_number(part, key)
        if found != expected:
            raise GGUFError(f"{part.source.name}: {key}: expected {expected} by the file's name, found {found}")


def check_tensors(parts: Sequence[Part]) -> None:
    owner: dict[str, Part] = {}
    for part in parts:
        for name in part.header.tensors:
            if name in owner:
                found = f"found in {owner[name].source.name} too"
                raise GGUFError(f"{part.source.name}: tensor {shown(name)}: expected in one shard, {found}")
            owner[name] = part
    for part in parts:
        found = whole_number(part, TENSORS)
        if found != len(owner):
            raise GGUFError(f"{part.source.name}: {TENSORS}: expected {len(owner)}, as all shards have, found {found}")


def joined_metadata(parts: Sequence[Part]) -> Metadata:
    """The first shard's metadata, without the keys that would make a joined file claim to be a shard."""
    metadata = parts[0].header.metadata
    return metadata.updated({}, remove=(NUMBER, COUNT, TENSORS)) if len(parts) > 1 else metadata

"""Changes to a file's metadata, given as text: which type a value gets, and which changes would break the file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gguf_jax.errors import GGUFError
from gguf_jax.gguf.metadata import Metadata
from gguf_jax.gguf.text import shown
from gguf_jax.gguf.value_type import FLOATS, INTEGERS, AnyType, ArrayOf, ValueType
from gguf_jax.gguf.values import Typed, typed_value
from gguf_jax.gguf.writer import checked_metadata

BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

SCALARS: dict[str, ValueType] = {str(kind): kind for kind in ValueType if kind is not ValueType.ARRAY}
KINDS: dict[str, AnyType] = {
    **SCALARS,
    "str": ValueType.STRING,
    **{f"[{name}]": ArrayOf(kind) for name, kind in SCALARS.items()},
    "[str]": ArrayOf(ValueType.STRING),
}
"""Types by name, as `inspect` shows them, and `str` for `string`."""

MOST_COMPARED, LONGEST_COMPARED = 10_000, 200
"""Keys that a new one is compared with, and their length: a hostile file has more and longer ones."""


@dataclass(frozen=True)
class Setting:
    """A key, the text of its new value, and the name of its type; None keeps the type that it has."""

    key: str
    text: str
    kind: str | None = None


def parse_setting(argument: str) -> Setting:
    """`KEY=VALUE` or `KEY=TYPE:VALUE`. A string that begins like a type and a colon needs its own: `KEY=str:u32:x`."""
    key, equals, text = argument.partition("=")
    if not equals or not key:
        raise GGUFError(f"--set: expected KEY=VALUE or KEY=TYPE:VALUE, found {shown(argument)}")
    kind, colon, rest = text.partition(":")
    return Setting(key, rest, kind) if colon and kind in KINDS else Setting(key, text)


def edited(
    metadata: Metadata, settings: Sequence[Setting], deleted: Sequence[str] = (), *, force: bool = False
) -> tuple[Metadata, list[str]]:
    """The metadata with some keys set, at their place or at the end, and some deleted; and remarks for the user.

    Raises GGUFError: a type is unknown or not given for a new key, a value does not fit its type, a key that is to be
    deleted is not there, a key is named twice, or, without `force`, a change would break the file."""
    keys = [*(setting.key for setting in settings), *deleted]
    changes: dict[str, Typed] = {}
    remarks: list[str] = []
    for key in keys:
        if keys.count(key) > 1:
            raise GGUFError(
                f"metadata key {shown(key)}: expected to be set or deleted once, found it {keys.count(key)} times"
            )
        if not force and (reason := danger(key, deleting=key in deleted)):
            raise GGUFError(f"metadata key {shown(key)}: {reason}; --force changes it all the same")
    for setting in settings:
        changes[setting.key] = new_value(metadata, setting)
        remarks += remarks_on(metadata, setting.key, changes[setting.key].type)
    for key in deleted:
        if key not in metadata:
            raise GGUFError(f"metadata key {shown(key)}: expected a key of the file to delete{hint(metadata, key)}")
    return checked_metadata(metadata.updated(changes, remove=deleted), None), remarks


def danger(key: str, *, deleting: bool) -> str | None:
    """Why a change of this key would break a file, if it would."""
    if key == "general.alignment":
        return "it says how the tensors lie in the file"
    if key.startswith("split."):
        return "it says which shards belong together"
    if key == "general.architecture" and deleting:
        return "without it no program can load the model"
    return None


def new_value(metadata: Metadata, setting: Setting) -> Typed:
    what = f"metadata key {shown(setting.key)}"
    if setting.kind is not None:
        if setting.kind not in KINDS:
            raise GGUFError(f"{what}: expected a type of {', '.join(KINDS)}, found {shown(setting.kind)}")
        kind = KINDS[setting.kind]
    elif setting.key in metadata:
        kind = metadata.types[setting.key]
    else:
        raise GGUFError(f"{what}: expected a type, as the file has no such key{hint(metadata, setting.key)}")
    try:
        value = value_of(setting.text, kind)
    except (ValueError, RecursionError) as error:
        raise GGUFError(f"{what}: expected {described(kind)}, found {shown(setting.text)}") from error
    return typed_value(setting.key, value, kind)


def value_of(text: str, kind: AnyType) -> Any:
    """The value that `text` means as `kind`; ValueError where it means none. Whether it is in range is not seen."""
    if isinstance(kind, ArrayOf):
        found = json.loads(text)
        if not isinstance(found, list) or kind.element is ValueType.ARRAY:
            raise ValueError
        return found
    if kind in INTEGERS:
        return int(text, 0) if text.lower().lstrip("+-").startswith(("0x", "0b", "0o")) else int(text)
    if kind in FLOATS:
        return float(text)
    if kind is ValueType.BOOL:
        if text.lower() not in BOOLS:
            raise ValueError
        return BOOLS[text.lower()]
    return text


def described(kind: AnyType) -> str:
    if isinstance(kind, ArrayOf):
        if kind.element is ValueType.ARRAY:
            return "a type, as arrays of arrays cannot be given as text"
        return f"a JSON list for {kind}"
    return "true or false" if kind is ValueType.BOOL else str(kind)


def remarks_on(metadata: Metadata, key: str, kind: AnyType) -> list[str]:
    if key not in metadata:
        near = similar(metadata, key)
        return [f"{shown(key)} is a new key, and the file has {shown(near)}"] if near else []
    old = metadata.types[key]
    return [f"{shown(key)} was of type {old} and is {kind} now"] if old != kind else []


def hint(metadata: Metadata, key: str) -> str:
    near = similar(metadata, key)
    return f"; it has {shown(near)}" if near else ""


def similar(metadata: Metadata, key: str) -> str | None:
    """A key of the file that this one looks like a misspelling of."""
    known = [other for other in list(metadata)[:MOST_COMPARED] if len(other) <= LONGEST_COMPARED]
    found = difflib.get_close_matches(key[:LONGEST_COMPARED], known, 1, 0.85)
    return found[0] if found else None

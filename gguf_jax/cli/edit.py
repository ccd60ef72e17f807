"""`gguf-jax set-metadata` and `gguf-jax convert-endian`: a file again with something about it changed."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from gguf_jax.cli import copying, options
from gguf_jax.cli.output import say, write
from gguf_jax.errors import GGUFError, GGUFJaxError

if TYPE_CHECKING:
    from gguf_jax.gguf import GGUFFile, Metadata
    from gguf_jax.gguf.edit import Setting


def set_metadata(
    file: Annotated[str, typer.Argument(metavar="FILE", help="GGUF file; of a split model the first shard.")],
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="A key to set.")] = None,
    value: Annotated[
        str | None,
        typer.Argument(metavar="VALUE", help="Its value; an array is a JSON list. A negative number: --set KEY=-1."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--type",
            "-t",
            help="Type of VALUE: u32, f32, bool, str ..., an array's in brackets. Default: the key's in the file.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=[TYPE:]VALUE", help="Set a key, to a value of a type; repeatable."),
    ] = None,
    deleted: Annotated[
        list[str] | None, typer.Option("--delete", metavar="KEY", help="Delete a key; repeatable.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("-o", "--output", metavar="OUT", help="Write this file instead of changing FILE.")
    ] = None,
    dry_run: copying.DryRun = False,
    force: Annotated[
        bool,
        typer.Option("--force", "-f", help="Overwrite OUT; change keys that the file's layout depends on."),
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Set or delete metadata. FILE is replaced when all of its new contents are on disk, and never by half of them."""
    from gguf_jax import gguf
    from gguf_jax.gguf.edit import edited

    wanted = wanted_settings(key, value, kind, settings)
    if not wanted and not deleted:
        raise GGUFJaxError("expected KEY and VALUE, --set or --delete, found nothing to change")
    with gguf.read(file, shards=False) as opened:
        name = printable(file)
        if is_later_shard(opened.metadata) and not force:
            raise GGUFError(f"{name}: expected the first shard, which holds a split model's metadata, found another")
        try:
            metadata, remarks = edited(opened.metadata, wanted, deleted or [], force=force)
        except GGUFError as error:
            raise GGUFError(f"{name}: {error}") from error
        if not dry_run:
            if target is not None:
                copying.fresh([target], force)
            with copying.shown("writing", opened.tensors, "writing to disk") as tensors:
                gguf.write(
                    file if target is None else target,
                    metadata,
                    tensors,
                    byte_order=opened.byte_order,
                    version=opened.version,
                )
        for remark in remarks:
            say(f"note: {remark}")
        write(changes(opened, metadata, [*(setting.key for setting in wanted), *(deleted or [])]))


def is_later_shard(metadata: Metadata) -> bool:
    """Whether these are the metadata of a shard which are not read: those of the first stand for all."""
    from gguf_jax.gguf.shards import NUMBER
    from gguf_jax.gguf.value_type import INTEGERS

    return metadata.types.get(NUMBER) in INTEGERS and metadata[NUMBER] > 0


def wanted_settings(key: str | None, value: str | None, kind: str | None, settings: list[str] | None) -> list[Setting]:
    """What KEY VALUE --type and --set say together."""
    from gguf_jax.gguf.edit import Setting, parse_setting

    if (key is None) != (value is None):
        raise GGUFJaxError(f"expected a value for {printable(key or '')}, found none")
    if kind is not None and key is None:
        raise GGUFJaxError("--type: expected KEY and VALUE, found none; with --set a type stands before the value")
    first = [] if key is None or value is None else [Setting(key, value, kind)]
    return first + [parse_setting(setting) for setting in settings or ()]


def changes(file: GGUFFile, metadata: Metadata, keys: list[str]) -> str:
    """A line for each key: what it was and what it is."""
    return "".join(
        f"{printable(key)}: {value_shown(file.metadata, key)} -> {value_shown(metadata, key)}\n" for key in keys
    )


def value_shown(metadata: Metadata, key: str) -> str:
    from gguf_jax.cli.inspect import short_value, type_text
    from gguf_jax.gguf.summary import FIRST, described

    if key not in metadata:
        return "none"
    item = {"type": str(metadata.types[key])} | described(metadata[key], FIRST)
    return f"{type_text(item)} {printable(short_value(item))}"


class ByteOrder(StrEnum):
    """The two that a file can have."""

    BIG = "big"
    LITTLE = "little"


def convert_endian(
    source: Annotated[str, typer.Argument(metavar="IN", help="GGUF file; of a split model one shard.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="The file to write.")],
    order: Annotated[ByteOrder | None, typer.Argument(help="Default: the one that IN does not have.")] = None,
    dry_run: copying.DryRun = False,
    force: copying.Force = False,
    debug: options.Debug = False,
) -> None:
    """Convert a file to the other byte order."""
    from gguf_jax import gguf

    with gguf.read(source, shards=False) as opened:
        other = "little" if opened.byte_order == "big" else "big"
        if order is not None and order.value != other:
            raise GGUFError(f"{printable(source)}: expected a {other}-endian file, found a {order.value}-endian one")
        if not dry_run:
            copying.fresh([target], force)
            with copying.shown("converting", opened.tensors, "writing to disk") as tensors:
                gguf.write(target, opened.metadata, tensors, byte_order=other, version=opened.version)
        write(f"{printable(target)}: {other}-endian, {len(opened.tensors)} tensors\n")


def printable(text: str) -> str:
    from gguf_jax.gguf.text import printable

    return printable(text)

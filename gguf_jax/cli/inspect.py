"""`gguf-jax inspect`: what is in a file, from its header alone, for people or as JSON.

Everything shown comes from a file that may be hostile: it reaches the terminal only with control characters escaped,
and as rich's `Text`, in which brackets mean nothing.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from gguf_jax.cli.files import opened
from gguf_jax.cli.output import is_terminal, write, write_json
from gguf_jax.gguf.summary import FIRST, summary
from gguf_jax.gguf.text import printable

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 100
"""Characters of a value that the table shows."""


def inspect(
    address: str | None = None,
    *,
    as_json: bool = False,
    full: bool = False,
    tensors: bool = False,
    metadata_only: bool = False,
    strict: bool = False,
) -> None:
    """Prints metadata and totals of a GGUF file.

    Args:
        address: a path, or `https://...`, `hf://user/repo/file.gguf`, of which only the header is fetched; default:
            the bundled model.
        as_json: as one JSON object (see `gguf_jax.gguf.summary`), tensors included unless `metadata_only`.
        full: long arrays and strings whole.
        tensors: each tensor too.
        metadata_only: nothing but the metadata.
        strict: refuse what the specification forbids.

    Raises:
        GGUFError: the file cannot be read or is malformed.
        OutputFailed, SystemExit: as `write`.
    """
    with opened(address, strict=strict) as file:
        found = summary(file, full=full)
    if as_json:
        write_json(found["metadata"] if metadata_only else found, indent=2)
        return
    text = metadata_lines(found) if full else rendered([metadata_table(found)])
    if not metadata_only:
        text += rendered([tensor_table(found)] if tensors else [])
        text += rendered([type_table(found)] if found["types"] else []) + totals(found)
    write(text, styled=True)


def rendered(tables: Iterable[Table]) -> str:
    from rich.console import Console

    # Not `Console.capture`, which flushes standard output besides. rich draws lines that the encoding has.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    draft = io.TextIOWrapper(io.BytesIO(), encoding, "backslashreplace", newline="")
    styled = is_terminal(sys.stdout)
    # In a pipe lines may be long, as there is no edge to fit; rich would assume 80 columns.
    console = Console(file=draft, force_terminal=styled, width=None if styled else 200)
    for table in tables:
        console.print(table)
    draft.seek(0)
    return draft.read()


def table(title: str, *columns: tuple[str, bool]) -> Table:
    """An empty table; of each column the heading, and whether it holds numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading, numeric in columns:
        made.add_column(heading, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    return made


def add_row(table: Table, *cells: str) -> None:
    from rich.text import Text

    table.add_row(*(Text(printable(cell)) for cell in cells))


def metadata_table(found: dict[str, Any]) -> Table:
    made = table("Metadata", ("key", False), ("type", False), ("value", False))
    for key, item in found["metadata"].items():
        add_row(made, key[:SHOWN], type_text(item), short_value(item))
    return made


def metadata_lines(found: dict[str, Any]) -> str:
    """One line per key, for `full`: laying out a table of a vocabulary would take minutes."""
    return "".join(
        f"{printable(key)}\t{type_text(item)}\t{printable(value_text(item['value'], item['type']))}\n"
        for key, item in found["metadata"].items()
    )


def type_text(item: dict[str, Any]) -> str:
    """`u32`, or with its length `[string x 151936]`."""
    return f"{item['type'][:-1]} x {item['length']}]" if "length" in item else item["type"]


def value_text(value: Any, kind: str) -> str:
    """A value of the summary; strings stand between quotes only in an array, where a comma may be part of one."""
    if isinstance(value, list):
        of = kind.removeprefix("[").removesuffix("]")
        return ", ".join(
            f"[{value_text(inner, of)}]" if isinstance(inner, list) else element_text(inner, of) for inner in value
        )
    return value if isinstance(value, str) else element_text(value, kind)


def element_text(value: Any, kind: str) -> str:
    if isinstance(value, str) and kind in ("f32", "f64"):
        return value  # NaN and the infinities, for which JSON has no number
    # The shortest decimal that is this f32, 1e-06, and not the double that it is held in, 9.999999974752427e-07.
    return str(np.float32(value)) if kind == "f32" else repr(value)


def short_value(item: dict[str, Any]) -> str:
    text = value_text(item["value"], item["type"])
    missing = item.get("length", 0) > FIRST or len(text) > SHOWN
    return f"{text[:SHOWN]} ..." if missing else text


def tensor_table(found: dict[str, Any]) -> Table:
    made = table("Tensors", ("name", False), ("type", False), ("shape", True), ("size", True), ("bits/weight", True))
    for item in found["tensors"]:
        shape = " x ".join(map(str, item["shape"]))
        add_row(made, item["name"], item["type"], shape, size_text(item["bytes"]), f"{item['bits_per_weight']:g}")
    return made


def type_table(found: dict[str, Any]) -> Table:
    made = table("Types", ("type", False), ("tensors", True), ("weights", True), ("size", True), ("share", True))
    for name, row in found["types"].items():
        share = f"{row['bytes'] / max(found['tensor_bytes'], 1):.1%}"
        add_row(made, name, str(row["tensors"]), f"{row['weights']:,}", size_text(row["bytes"]), share)
    return made


def totals(found: dict[str, Any]) -> str:
    bits = found["bits_per_weight"]
    parts = [
        f"GGUF version {found['version']}, {found['byte_order']}-endian, alignment {found['alignment']}",
        f"{len(found['tensors'])} tensors, {found['parameters']:,} weights",
        *([f"{bits:.3f} bits per weight"] if bits is not None else []),
        f"{size_text(found['size'])} in {len(found['paths'])} file{'s' * (len(found['paths']) > 1)}",
    ]
    return "; ".join(parts) + "\n"


def size_text(nbytes: int) -> str:
    """Bytes with a binary unit and three or four digits."""
    size, units = float(nbytes), iter(("B", "KiB", "MiB", "GiB", "TiB", "PiB"))
    unit = next(units)
    while size >= 1024 and (larger := next(units, None)):
        size, unit = size / 1024, larger
    return f"{nbytes} B" if unit == "B" else f"{size:.{1 if size >= 100 else 2}f} {unit}"

"""What the commands that write a file share: they overwrite nothing unasked, and show how far they are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from gguf_jax.errors import GGUFJaxError

if TYPE_CHECKING:
    from gguf_jax.gguf import TensorView

Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite a file that exists.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")]


def fresh(paths: Iterable[str], force: bool) -> None:
    """Refuse to go on where a file would be overwritten that nobody said may be."""
    from gguf_jax.gguf.text import printable

    for path in paths:
        if not force and os.path.lexists(path):
            raise GGUFJaxError(f"{printable(path)}: exists already; --force overwrites it")


@contextmanager
def shown(what: str, tensors: Mapping[str, TensorView], then: str | None = None) -> Iterator[dict[str, TensorView]]:
    """The tensors, with a bar on a terminal that grows as their data are read; `then` is what follows that."""
    from gguf_jax.cli.activity import Activity
    from gguf_jax.gguf.watched import watched

    total = sum(view.nbytes for view in tensors.values())
    with Activity(what, total, then=then, is_bytes=True) as activity:
        yield watched(tensors, activity.advance)

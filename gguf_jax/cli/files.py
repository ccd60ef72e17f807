"""Opening the file that a command is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguf_jax.gguf import GGUFFile


def opened(address: str | None, *, strict: bool = False) -> GGUFFile:
    """Open a command's file, the bundled model where none was named; what is fetched from afar shows that it is."""
    # Imported here: `--help` needs no NumPy, and a local file no rich.
    from gguf_jax import gguf
    from gguf_jax.bundled import bundled_model
    from gguf_jax.gguf.remote import is_remote

    if address is None or not is_remote(address):
        return gguf.read(bundled_model() if address is None else address, strict=strict)
    from gguf_jax.cli.activity import Activity

    with Activity("reading header"):
        return gguf.read(address, strict=strict)

"""A file that replaces another one as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from typing import BinaryIO

from gguf_jax.errors import GGUFError
from gguf_jax.gguf.text import printable


@contextlib.contextmanager
def replacing(path: str, nbytes: int) -> Iterator[BinaryIO]:
    """Opens a new file of `nbytes` bytes beside `path`; it takes that name once the block has ended and all is on disk.

    Whatever ends the block early, KeyboardInterrupt included, removes the new file and leaves `path` as it was. A link
    stays a link, what it leads to is replaced; permissions of the old file are kept. An old file that is mapped
    somewhere, even as the source of the new one, lives on unnamed until it is unmapped.

    Raises GGUFError where the file cannot be written or the disk has no room for it.
    """
    name = printable(path)
    if "\0" in path:
        raise GGUFError(f"{name}: expected a path without NUL")
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".{secrets.token_hex(8)}.gguf.tmp")  # .gitignore knows this name
    try:
        mode = existing_mode(target, name)
        check_room(folder, nbytes, name)
        with removed_on_error(temporary):
            with open(temporary, "xb") as file:
                yield file
                if mode is not None:
                    os.chmod(temporary, mode)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
    except OSError as error:
        raise GGUFError(f"{name}: cannot be written: {printable(error.strerror or str(error))}") from error
    sync_folder(folder)


def check_room(folder: str, nbytes: int, name: str, own: int = 0) -> None:
    """Raises GGUFError unless the disk takes `nbytes` bytes for `name`, `own` of which lie there already; OSError where
    it cannot be asked."""
    free = shutil.disk_usage(folder).free + own
    if free < nbytes:
        raise GGUFError(f"{name}: expected {nbytes} bytes of free disk space, found {free}")


def existing_mode(target: str, name: str) -> int | None:
    """Permissions of the file to be replaced; None if there is none."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise GGUFError(f"{name}: expected a regular file to replace, found a folder or a device")
    return stat.S_IMODE(mode)


@contextlib.contextmanager
def removed_on_error(path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def sync_folder(folder: str) -> None:
    """Makes the new name last through a power cut; some file systems cannot, and the file is whole all the same."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

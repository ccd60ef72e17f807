"""Where the bytes of a tensor come from: a file that is mapped into memory, or nowhere, for a header read from afar."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from typing import Protocol

from gguf_jax.errors import GGUFError
from gguf_jax.gguf.text import printable


class Source(Protocol):
    """The bytes of one file. `name` is for messages, `size` is in bytes."""

    name: str
    size: int

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Read-only bytes, not copied; GGUFError where they cannot be had."""
        ...

    def release(self, offset: int, nbytes: int) -> None:
        """Hint that these bytes will not be needed again soon: what was read of them need not stay in memory."""
        ...

    def close(self) -> None: ...


class FileMap:
    """A regular file, mapped read-only. Pages are read when they are touched."""

    def __init__(self, path: str):
        self.name = printable(path)
        try:
            # Asked before opening: opening a FIFO would wait for its other end.
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise GGUFError(f"{self.name}: expected a regular file, found a folder or a device")
            with open(path, "rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                if not self.size:
                    raise GGUFError(f"{self.name}: expected a GGUF file, found an empty one")
                self._map: mmap.mmap | None = mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            if isinstance(error, GGUFError):
                raise
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            raise GGUFError(f"{self.name}: cannot be read: {printable(reason)}") from error

    def view(self, offset: int, nbytes: int) -> memoryview:
        if self._map is None:
            raise GGUFError(f"{self.name}: the file has been closed")
        # Touching a mapped page behind the end of the file kills the process (SIGBUS), so a file that was cut since it
        # was opened must be noticed here. `size()` asks the system for the length that the open file has now.
        now = self._map.size()
        if offset + nbytes > now:
            raise GGUFError(f"{self.name}: expected {self.size} bytes as when it was opened, found {now}")
        return memoryview(self._map)[offset : offset + nbytes]

    def release(self, offset: int, nbytes: int) -> None:
        # Mapped pages count as this process's memory until the system needs them for something else; whole pages only,
        # since the first and the last may belong to a neighbour. They are read again from the file when touched.
        start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (offset + nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - start
        if self._map is not None and length > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, start, length)

    def close(self) -> None:
        """Unmaps the file, or, while arrays that look into it are alive, leaves that to the last of them."""
        if self._map is not None:
            with contextlib.suppress(BufferError):
                self._map.close()
            self._map = None


class HeaderOnly:
    """A remote file of which only the header was fetched."""

    def __init__(self, name: str, size: int):
        self.name = name
        self.size = size

    def view(self, offset: int, nbytes: int) -> memoryview:
        raise GGUFError(f"{self.name}: only the header was fetched; download the file to read its tensors")

    def release(self, offset: int, nbytes: int) -> None:
        pass

    def close(self) -> None:
        pass

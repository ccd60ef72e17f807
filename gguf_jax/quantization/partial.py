"""The output while it is being made: partial files and a journal beside the target, from which an interrupted run can
go on, and which take the target's name at the very end.

    OUT.partial            the file so far: room for the header, then tensors in their order (one for each shard)
    OUT.partial.journal    a line of JSON with the settings, then one for each finished tensor with its digest

A header has the same length whatever the types in it: a type is four bytes and an offset eight. So it is written last,
once all types are known, and data go where they belong from the start. That a weight is not finite need therefore not
be known in advance, which would cost a pass over the source: such a tensor is begun again as F32, and what follows it
lies further back.

A line of the journal is written when the system has taken all bytes of its tensor, so a killed process loses one
tensor. A power cut can lose more, in any order; going on, each tensor's bytes are read back and held to their digest
first. The journal is locked while it is in use (where there is `flock`), so that two runs cannot write one file.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.atomic import check_room, existing_mode, sync_folder
from gguf_jax.gguf.text import printable
from gguf_jax.gguf.writer import padded

PIECE = 1 << 24
"""Bytes that are read back at a time."""


@dataclass(frozen=True)
class Entry:
    """A finished tensor: its place in the order, the type and bytes that it was written with, and their SHA-256."""

    index: int
    type: int
    nbytes: int
    digest: str
    seconds: float


def journal_of(target: str) -> str:
    """Where the journal of an unfinished output lies."""
    return f"{os.path.realpath(target)}.partial.journal"


class Partial:
    """What becomes `targets`, the shards of one output or a single file.

    `shards[i]` is the target that tensor i belongs to, in rising order; `starts` is where each one's data begin.
    """

    def __init__(self, name: str, targets: Sequence[str], shards: Sequence[int], starts: Sequence[int], alignment: int):
        self.name = printable(name)
        self.targets = [os.path.realpath(target) for target in targets]
        self.files = [f"{target}.partial" for target in self.targets]
        self.journal = journal_of(name)
        self.entries: list[Entry] = []
        self._shards, self._ends, self._alignment = list(shards), list(starts), alignment
        self._modes = [existing_mode(target, printable(target)) for target in self.targets]
        self._log: io.FileIO | None = None
        self._file: io.FileIO | None = None
        self._begun = False
        self._shard = -1
        self._written = 0
        self._digest = hashlib.sha256()

    # Beginning

    def check_room(self, needed: int) -> None:
        """Raises as `atomic.check_room`, partial files being there already."""
        folder = os.path.dirname(self.targets[0])
        own = 0
        for path in self.files:
            with contextlib.suppress(OSError):
                found = os.stat(path)
                own += getattr(found, "st_blocks", found.st_size // 512) * 512
        check_room(folder, needed, self.name, own)

    def lock(self) -> None:
        """Opens the journal, which one process at a time may have."""
        log = open(self.journal, "a+b", buffering=0)  # noqa: SIM115 - for as long as the output is being made
        try:
            take_lock(log, self.journal, self.name)
        except BaseException:
            log.close()
            raise
        self._log = log

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Starts anew: what an earlier run left is removed."""
        self._begun = True
        for path in (*self.files, *self._left_by_another()):
            remove(path)
        self._write_journal(settings)

    def _left_by_another(self) -> list[str]:
        """Files that the journal speaks of: a run with other shards may have left them."""
        try:
            names = json.loads(self._lines()[0])["files"]
            own = [name for name in names if os.path.basename(name) == name and name.endswith(".partial")]
        except (ValueError, TypeError, KeyError, IndexError):
            return []
        return [os.path.join(os.path.dirname(self.journal), name) for name in own]

    def _lines(self) -> list[bytes]:
        """Of the journal. What a kill or a full disk cut in its middle has no line feed, and is left out."""
        assert self._log is not None
        self._log.seek(0)
        return [line for line in self._log.readall().splitlines(keepends=True) if line.endswith(b"\n")]

    def _write_journal(self, settings: Mapping[str, Any]) -> None:
        assert self._log is not None
        first = {"settings": settings, "files": list(map(os.path.basename, self.files))}
        self._log.truncate(0)
        write_all(self._log, b"".join(map(line_of, (first, *map(asdict, self.entries)))))

    def resumable(self, settings: Mapping[str, Any]) -> list[Entry]:
        """The tensors that an earlier run finished, by its journal; GGUFJaxError where that had other settings.

        Nothing is taken for granted yet: `keep` those that are intact (`is_intact`), then `go_on`."""
        lines = self._lines()
        try:
            made_with = json.loads(lines[0])["settings"] if lines else None
            entries = [Entry(**json.loads(line)) for line in lines[1:]]
            order = [entry.index for entry in entries] == list(range(len(entries)))
        except (ValueError, TypeError, KeyError) as error:
            raise GGUFJaxError(f"{printable(self.journal)}: expected a journal, found something else") from error
        if made_with is None:
            return []
        changed = [key for key in settings if made_with.get(key) != settings[key]]
        if changed or not order:
            found = f"other settings ({', '.join(changed)})" if changed else "tensors out of order"
            raise GGUFJaxError(f"{self.name}: cannot go on with {printable(self.files[0])}: found {found}; start anew")
        return entries[: len(self._shards)]

    def read_back(self, entry: Entry, start: int, nbytes: int) -> np.ndarray:
        """Bytes of the tensor that is to be kept next, uint8 `[n]`; fewer than asked for where the file is short."""
        shard = self._shards[entry.index]
        try:
            with open(self.files[shard], "rb") as file:
                file.seek(self._ends[shard] + start)
                return np.frombuffer(file.read(nbytes), np.uint8)
        except FileNotFoundError:
            return np.empty(0, np.uint8)

    def is_intact(self, entry: Entry) -> bool:
        """Whether the bytes of the tensor that is to be kept next are those that were written."""
        digest = hashlib.sha256()
        for start in range(0, entry.nbytes, PIECE):
            digest.update(self.read_back(entry, start, min(PIECE, entry.nbytes - start)).data)
        return digest.hexdigest() == entry.digest

    def keep(self, entry: Entry) -> None:
        """The next tensor is as its entry says."""
        self.entries.append(entry)
        self._ends[self._shards[entry.index]] += padded(entry.nbytes, self._alignment)

    def go_on(self, settings: Mapping[str, Any]) -> None:
        """Forgets what follows the tensors that were kept."""
        self._begun = True
        last = self._shards[len(self.entries) - 1] if self.entries else -1
        for shard, path in enumerate(self.files):
            if shard > last:
                remove(path)
        if self.entries:
            with open(self.files[last], "r+b") as file:
                file.truncate(self._ends[last])
        self._write_journal(settings)

    # Writing

    def open_tensor(self) -> None:
        """The next tensor follows; called again, it is begun anew."""
        shard = self._shards[len(self.entries)]
        if shard != self._shard:
            self._close_file()
            # Unbuffered: what `write` has returned from is the system's, and outlives the process.
            mode = "r+b" if os.path.exists(self.files[shard]) else "x+b"
            self._file = open(self.files[shard], mode, buffering=0)  # noqa: SIM115 - until the next shard
            self._shard = shard
        assert self._file is not None
        self._file.truncate(self._ends[shard])
        self._file.seek(self._ends[shard])
        self._written = 0
        self._digest = hashlib.sha256()

    def write(self, data: np.ndarray) -> None:
        assert self._file is not None
        self._digest.update(data.reshape(-1).data)
        write_all(self._file, data.reshape(-1).data)
        self._written += data.nbytes

    def close_tensor(self, type: int, seconds: float) -> Entry:
        """All bytes of the tensor are written: pads it and enters it into the journal."""
        assert self._file is not None
        assert self._log is not None
        entry = Entry(len(self.entries), int(type), self._written, self._digest.hexdigest(), seconds)
        write_all(self._file, bytes(padded(self._written, self._alignment) - self._written))
        write_all(self._log, line_of(asdict(entry)))
        self.keep(entry)
        return entry

    def offsets(self, starts: Sequence[int]) -> list[int]:
        """Where each finished tensor lies, from the start of its shard's data."""
        ends = dict(enumerate(starts))
        found = []
        for entry in self.entries:
            shard = self._shards[entry.index]
            found.append(ends[shard] - starts[shard])
            ends[shard] += padded(entry.nbytes, self._alignment)
        return found

    # Ending

    def commit(self, headers: Sequence[Sequence[bytes]]) -> None:
        """Writes the headers, waits until all is on disk, and gives the files their names.

        Each file is replaced as a whole; of several shards a power cut between two renames can leave some new."""
        self._close_file()
        for path, end, header, mode in zip(self.files, self._ends, headers, self._modes, strict=True):
            with open(path, "r+b" if os.path.exists(path) else "x+b", buffering=0) as file:
                for piece in header:
                    write_all(file, piece)
                file.truncate(end)  # of a shard without tensors: what pads its header
                if mode is not None:
                    os.chmod(path, mode)
                os.fsync(file.fileno())
        for path, target in zip(self.files, self.targets, strict=True):
            os.replace(path, target)
        sync_folder(os.path.dirname(self.targets[0]))
        remove(self.journal)
        self.close()

    def close(self) -> None:
        """Leaves what is finished for another run; where nothing is, nothing is left."""
        self._close_file()
        if self._log is None:
            return
        with contextlib.suppress(OSError):
            if self._begun and not self.entries:
                for path in (*self.files, self.journal):
                    remove(path)
            elif not os.fstat(self._log.fileno()).st_size:
                remove(self.journal)
        self._log.close()
        self._log = None

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file, self._shard = None, -1


def take_lock(log: io.FileIO, path: str, name: str) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    busy = f"{name}: another process is writing it"
    try:
        fcntl.flock(log.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.stat(path), os.fstat(log.fileno())):
            raise GGUFJaxError(busy)  # it has just finished, and taken its journal away
    except (BlockingIOError, FileNotFoundError):
        raise GGUFJaxError(busy) from None


def line_of(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def write_all(file: io.FileIO, data: Any) -> None:
    """What a raw file takes may be less than it is given."""
    view = memoryview(data)
    while len(view):
        view = view[file.write(view) :]


def remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)

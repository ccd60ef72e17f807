"""`prepared`: a file and what is asked of it -> everything about the output but the bytes of its tensors.

Every refusal that does not need the weights themselves happens here, before anything is written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import FileType, GGMLType, format_of
from gguf_jax.gguf import GGUFFile, Metadata, Typed, ValueType, read
from gguf_jax.gguf.encode import encoded_header
from gguf_jax.gguf.outgoing import Outgoing
from gguf_jax.gguf.parse import DEFAULT_ALIGNMENT
from gguf_jax.gguf.shards import COUNT, NUMBER, TENSORS
from gguf_jax.gguf.split import shard_metadata, shard_paths, shards_of
from gguf_jax.gguf.text import listed, printable, shown
from gguf_jax.gguf.writer import checked_metadata, padded
from gguf_jax.quantization import recipe
from gguf_jax.quantization.chunks import Task
from gguf_jax.quantization.imatrix import Imatrix, read_imatrix
from gguf_jax.quantization.patterns import compiled
from gguf_jax.quantization.step import DEFAULTS, Options, Step, TensorSpec

EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
"""What llama-imatrix may have measured in another size, which llama-quantize lets pass."""


@dataclass(frozen=True)
class Request:
    """What is asked for, apart from how the work is done: all that the output's bytes depend on beside the input."""

    file_type: FileType
    options: Options = DEFAULTS
    imatrix: str | Imatrix | None = None
    include_weights: tuple[str, ...] = ()
    exclude_weights: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    keep_split: bool = False
    max_shard_size: int | None = None


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        source: the open input.
        metadata: of the output, of its first shard.
        steps, tasks: for each tensor of the output, in its order: why, and what.
        shards: of each tensor the shard it goes to.
        shard_count: 1 for an output in one file.
        missing_imatrix: tensors that need importances and have none; empty unless `draft`.
    """

    source: GGUFFile
    request: Request
    metadata: Metadata
    steps: list[Step]
    tasks: list[Task]
    shards: list[int]
    shard_count: int
    missing_imatrix: list[str]

    @property
    def alignment(self) -> int:
        return self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)

    def targets(self, path: str) -> list[str]:
        """The files that are to be written: `path`, or its shards."""
        return [path] if self.shard_count == 1 else shard_paths(path.removesuffix(".gguf"), self.shard_count)

    def headers(self, types: Sequence[GGMLType], offsets: Sequence[int]) -> list[bytes]:
        """The header of each file, padded to where data begin, for tensors of these types at these offsets. Its length
        depends on neither."""
        found = []
        for shard in range(self.shard_count):
            placed = [
                (outgoing(step, type), offset)
                for step, type, offset, own in zip(self.steps, types, offsets, self.shards, strict=True)
                if own == shard
            ]
            header = b"".join(encoded_header(self.shard_metadata(shard), placed, "little", 3))
            found.append(header.ljust(padded(len(header), self.alignment), b"\0"))
        return found

    def shard_metadata(self, shard: int) -> Metadata:
        if self.shard_count == 1:
            return self.metadata
        if self.request.keep_split:  # llama-quantize has them in another order than llama-gguf-split
            own: dict[str, Any] = {
                NUMBER: Typed(shard, ValueType.U16),
                COUNT: Typed(self.shard_count, ValueType.U16),
                TENSORS: Typed(len(self.steps), ValueType.I32),
            }
            found = self.metadata.updated(own) if shard == 0 else Metadata(own)
        else:
            found = shard_metadata(self.metadata, shard, self.shard_count, len(self.steps))
        if self.alignment != found.get("general.alignment", DEFAULT_ALIGNMENT):
            return found.updated({"general.alignment": Typed(self.alignment, ValueType.U32)})
        return found

    def settings(self) -> dict[str, Any]:
        """What an unfinished output must have been made with for another run to go on with it. A source is known by its
        size, its time and its header; to read it as a whole would take as long as quantizing it."""
        metadata = encoded_header(self.metadata, [], "little", 3)
        importance = hashlib.sha256()
        for task in self.tasks:
            importance.update(b"-" if task.importance is None else np.ascontiguousarray(task.importance).data)
        described = [(step.source, step.name, step.shape, step.found, step.type) for step in self.steps]
        files = [os.stat(path) for path in self.source.paths]
        return {
            "program": version(),
            "source": [[found.st_size, found.st_mtime_ns] for found in files],
            "file type": int(self.request.file_type),
            "types of tensors": digest(json.dumps(described).encode()),
            "metadata": digest(b"".join(metadata)),
            "importance": importance.hexdigest(),
            "shards": digest(json.dumps(self.shards).encode()),
        }


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def version() -> str:
    """Of the package: another one may encode otherwise."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("gguf_jax")
    except PackageNotFoundError:
        return "0+unknown"


def outgoing(step: Step, type: GGMLType) -> Outgoing:
    """A tensor as a header needs it. As in ggml, leading dimensions of 1 are not written, though one always is."""
    shape = step.shape or (1,)
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return Outgoing(step.name, type, shape, 0, "little", lambda: iter(()))


def prepared(source: GGUFFile, request: Request, *, draft: bool, warn: Callable[[str], object]) -> Job:
    """Decides types, metadata and shards, and finds each tensor's importance.

    Args:
        draft: to be looked at only: what could not be done is no error.
        warn: called with a line for each thing that is odd.

    Raises:
        GGUFJaxError: something cannot be done; see `quantize_file`.
    """
    views = list(source.tensors.values())
    places = places_of(source) if request.keep_split else {}
    if request.keep_split:  # as they lie in the files; rules that count tensors go by that order, too
        views.sort(key=lambda view: places[view.name])
    specs = [TensorSpec(view.name, view.shape, view.type) for view in views]
    importances = chosen_entries(request, warn)
    seen_by_rules = source.metadata.updated(request.overrides)
    decide = recipe.draft if draft else recipe.plan
    options = request.options
    steps = decide(
        request.file_type,
        seen_by_rules,
        specs,
        has_imatrix=importances is not None,
        options=options,
        keep_order=request.keep_split,
    )
    for pattern, _ in options.tensor_types:
        if not any(compiled(pattern).search(step.name.encode("utf-8", "surrogateescape")) for step in steps):
            warn(f"--tensor-type {shown(pattern)}: no tensor has a name that it fits")
    if request.keep_split and request.max_shard_size is not None:
        raise GGUFJaxError("expected one of --keep-split and --max-shard-size, found both")
    shards = [0] * len(steps)
    if request.keep_split and len(source.paths) > 1:
        shards = [places[step.source][0] for step in steps]
    tasks = [task_of(source, step, importances, warn) for step in steps]
    if importances is not None:
        without = [step.source for step in steps if lacks_entry(step, importances)]
        if without:
            warn(f"imatrix {printable(importances.path)}: no entries for {listed(without)}, quantized without")
    if request.max_shard_size is not None:
        shards = shards_of([task.nbytes for task in tasks], max_bytes=request.max_shard_size)
    lacking = [s.name for s, t in zip(steps, tasks, strict=True) if s.needs_imatrix and t.importance is None]
    if lacking and not draft:
        path = importances.path if importances else ""
        raise GGUFJaxError(
            f"imatrix {printable(path)}: expected entries for {listed(lacking)}, which cannot be made without, found "
            "none; make one of this model with `gguf-jax imatrix`"
        )
    metadata = metadata_of(source, request, specs, importances)
    return Job(source, request, metadata, steps, tasks, shards, max(shards, default=0) + 1, lacking)


def chosen_entries(request: Request, warn: Callable[[str], object]) -> Imatrix | None:
    """The imatrix, without what is not to be used; None where nothing is left."""
    if request.include_weights and request.exclude_weights:
        raise GGUFJaxError("expected one of --include-weights and --exclude-weights, found both")
    if request.imatrix is None:
        return None
    found = request.imatrix if isinstance(request.imatrix, Imatrix) else read_imatrix(request.imatrix)
    entries = dict(found.entries)
    if request.exclude_weights:
        entries = {name: e for name, e in entries.items() if not any(part in name for part in request.exclude_weights)}
    if request.include_weights:
        entries = {name: e for name, e in entries.items() if any(part in name for part in request.include_weights)}
    if not entries:
        warn(f"imatrix {printable(found.path)}: no entry is left, so none is used")
        return None
    return dataclasses.replace(found, entries=entries)


def lacks_entry(step: Step, imatrix: Imatrix) -> bool:
    quantized = step.type != step.found and format_of(step.type).is_quantized
    return quantized and not step.needs_imatrix and step.source not in imatrix.entries


def task_of(source: GGUFFile, step: Step, imatrix: Imatrix | None, warn: Callable[[str], object]) -> Task:
    view = source.tensors[step.source]
    if step.type == step.found:
        return Task(view, step.type)
    task = Task(view, step.type)
    if imatrix is None:
        return task
    try:
        return dataclasses.replace(task, importance=imatrix.of(step.source, step.shape))
    except GGUFJaxError as problem:
        if step.name not in EMBEDDINGS:
            raise
        warn(f"{problem}; it is quantized without")
        return task


def places_of(source: GGUFFile) -> dict[str, tuple[int, int]]:
    """Where each tensor lies: which of the input's files it is in, and the offset there."""
    found: dict[str, tuple[int, int]] = {}
    for number, path in enumerate(source.paths):
        with read(path, shards=False) as part:
            found |= {name: (number, view.offset) for name, view in part.tensors.items()}
    return found


def metadata_of(source: GGUFFile, request: Request, specs: Sequence[TensorSpec], imatrix: Imatrix | None) -> Metadata:
    """The output's metadata: the input's, then what is set, in the order in which llama-quantize sets it: a key that is
    set moves behind all others."""
    about: dict[str, Any] = {}
    if imatrix is not None:
        about = {
            "imatrix_file": imatrix.path,
            "imatrix_dataset": imatrix.datasets[0] if imatrix.datasets else None,
            "imatrix_entries": len(imatrix.entries),
            "imatrix_chunks": imatrix.chunks,
        }
    changed = recipe.result_metadata(source.metadata, request.file_type, specs, options=request.options, **about)
    own = ("general.quantization_version", "general.file_type")
    ordered: dict[str, Any] = {key: changed[key] for key in own}
    for key, value in (*request.overrides.items(), *((k, v) for k, v in changed.items() if k not in own)):
        ordered.pop(key, None)
        ordered[key] = value
    removed = {NUMBER, COUNT, TENSORS, *ordered}
    kept = source.metadata.updated({}, remove=removed)
    return checked_metadata(kept.updated({key: value for key, value in ordered.items() if value is not None}), None)

"""`quantize_file`: a GGUF file -> one whose tensors have the types of a file type, as llama-quantize makes it.

Rows go through in chunks: the file is mapped, a worker encodes a chunk on one core and hands its bytes on, they are
written in order, and both are forgotten. So memory is that of two chunks for each worker, of which one waits for its
turn, whatever the size of the file; and since chunks of different tensors are under way at the same time, small tensors
leave no core idle. The bytes do not depend on chunks or workers (`chunks`); how the output comes to be whole or not at
all is told in `partial`.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.formats import FileType, GGMLType
from gguf_jax.gguf import GGUFFile, read
from gguf_jax.gguf.text import printable, shown
from gguf_jax.quantization import chunks, recipe
from gguf_jax.quantization.chunks import Chunk, Task, processed
from gguf_jax.quantization.imatrix import Imatrix, imatrix_of
from gguf_jax.quantization.imatrix_sums import ImatrixSums
from gguf_jax.quantization.job import Job, Request, prepared
from gguf_jax.quantization.partial import Entry, Partial
from gguf_jax.quantization.recipe import Options
from gguf_jax.quantization.report import Sums, TensorError, TensorResult, check_report_path, write_report


@dataclass(frozen=True)
class Progress:
    """How far it is.

    Attributes:
        index, count: of the tensor, from 0, and how many there are.
        tensor: what becomes of it; `seconds` and `error` are there once it is finished.
        done, total: bytes of the input that are done with, of all tensors.
        finished: it is written. kept: an earlier run had written it.
    """

    index: int
    count: int
    tensor: TensorResult
    done: int
    total: int
    finished: bool
    kept: bool = False


@dataclass(frozen=True)
class Result:
    """What was written.

    Attributes:
        paths: the files.
        file_type: what was asked for.
        tensors: in the order of the output.
        seconds: from beginning to end.
    """

    paths: tuple[str, ...]
    file_type: FileType
    tensors: tuple[TensorResult, ...]
    seconds: float

    @property
    def weights(self) -> int:
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def bytes_before(self) -> int:
        """Of tensors; metadata are not counted."""
        return sum(tensor.bytes_before for tensor in self.tensors)

    @property
    def bytes_after(self) -> int:
        return sum(tensor.bytes_after for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes_after / self.weights if self.weights else 0.0

    def totals(self) -> dict[str, Any]:
        """All but the tensors, in JSON's types."""
        return {
            "paths": list(self.paths),
            "file_type": self.file_type.name,
            "weights": self.weights,
            "bytes_before": self.bytes_before,
            "bytes": self.bytes_after,
            "bits_per_weight": self.bits_per_weight,
            "seconds": round(self.seconds, 6),
        }


def quantize_file(
    source: str | os.PathLike[str] | GGUFFile,
    target: str | os.PathLike[str],
    file_type: str | FileType,
    *,
    imatrix: str | os.PathLike[str] | ImatrixSums | Imatrix | None = None,
    options: Options | None = None,
    include_weights: Sequence[str] = (),
    exclude_weights: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    keep_split: bool = False,
    max_shard_size: int | None = None,
    report: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    allow_nonfinite: bool = False,
    resume: bool = False,
    force: bool = False,
    on_progress: Callable[[Progress], object] | None = None,
    on_warning: Callable[[str], object] | None = None,
    **more: Any,
) -> Result:
    """Quantizes a GGUF file, to the same types, metadata and bytes as llama-quantize.

    The target is written as a whole or not at all. Whatever stops the work (Ctrl-C, `kill -9`, a full disk) leaves an
    old target as it was, and what is finished in `TARGET.partial` with a journal beside it, for `resume`.

    Args:
        source: the file, or any shard of a split model; or an open one, which stays open.
        target: the file to write; of several shards `NAME-00001-of-00003.gguf` for `NAME.gguf`.
        file_type: such as "Q4_K_M"; "COPY" changes no tensor. See `recipe.file_type_names()`.
        imatrix: an importance matrix: a file of either format, or what `collect_imatrix` found.
        options: which tensors get another type, which layers go, and whether what is quantized may be quantized again.
        include_weights, exclude_weights: use entries of the imatrix only where one of these is part of the name, or
            only where none is.
        overrides: metadata to set, plain or `Typed`.
        keep_split: as many shards as the input has, with the same tensors in them; of a whole file a whole file.
        max_shard_size: bytes of tensor data in a shard. A tensor that is larger is alone in one, and one that is kept
            in F32 (below) stays in the shard that it was meant for.
        report: writes the error of every tensor to this file, `.json` or `.csv`; see `report.TensorError`.
        workers: how many cores to use; all by default.
        allow_nonfinite: keep a tensor with NaN or infinity in it in F32 (or copied, where it is to be), as well as one
            whose weights are too large for its type.
        resume: go on where an earlier run with the same settings was stopped: tensors that it had finished are compared
            with their digests and kept. With a `report` their errors are computed anew.
        force: replace a target that exists.
        on_progress: called after each chunk and each tensor, from the calling thread.
        on_warning: called with one line each.
        more: fields of `Options`, in place of `options`: `allow_requantize=True`, `output_tensor_type="Q6_K"`,
            `tensor_types={"ffn_down": "Q5_K"}`.

    Raises:
        GGUFJaxError: one line. Before anything is written: input and output are the same file; the output exists; a
            tensor is quantized already, needs importances, or has another number of them; a type that does not fit; no
            room on the disk; `resume` of something else. While it works: a weight that is not finite, with its index.
    """
    began = time.perf_counter()
    warn = on_warning or (lambda line: None)
    path = os.fsdecode(target)
    request = Request(
        *chosen_type(file_type, chosen_options(options, more)),
        imatrix=given(imatrix),
        include_weights=tuple(include_weights),
        exclude_weights=tuple(exclude_weights),
        overrides=dict(overrides or {}),
        keep_split=keep_split,
        max_shard_size=max_shard_size,
    )
    report_path = None if report is None else check_report_path(report)
    count = checked_workers(workers)
    with contextlib.nullcontext(source) if isinstance(source, GGUFFile) else read(source) as file:
        job = prepared(file, request, draft=False, warn=warn)
        check_target(job, path, force)
        work = Work(job, path, allow_nonfinite, report_path is not None, on_progress or (lambda progress: None))
        tensors = work.done(count, resume, warn)
        result = Result(tuple(job.targets(path)), request.file_type, tuple(tensors), time.perf_counter() - began)
    if report_path is not None:
        write_report(report_path, {"source": os.fsdecode(file.path), **result.totals()}, result.tensors)
    return result


def given(imatrix: str | os.PathLike[str] | ImatrixSums | Imatrix | None) -> str | Imatrix | None:
    """An importance matrix as a `Request` has it."""
    if isinstance(imatrix, ImatrixSums):
        return imatrix_of(imatrix)
    return imatrix if imatrix is None or isinstance(imatrix, Imatrix) else os.fsdecode(imatrix)


def drafted(source: GGUFFile, request: Request, warn: Callable[[str], object]) -> tuple[Job, Result]:
    """What `quantize_file` would do, without doing it. Nothing but headers is read, so a remote file will do."""
    job = prepared(source, request, draft=True, warn=warn)
    tensors = tuple(result_of(job, index) for index in range(len(job.steps)))
    return job, Result((), request.file_type, tensors, 0.0)


def chosen_options(options: Options | None, more: Mapping[str, Any]) -> Options:
    """`Options` as they are, or of their fields, in which types may be names."""
    fields = dict(more)
    if options is not None and fields:
        raise GGUFJaxError(f"options: expected either options or their fields, found both ({', '.join(fields)})")
    known = [field.name for field in dataclasses.fields(Options)]
    if unknown := [name for name in fields if name not in known]:
        raise GGUFJaxError(f"options: expected fields among {', '.join(known)}, found {', '.join(unknown)}")
    for name in ("output_tensor_type", "token_embedding_type"):
        if isinstance(fields.get(name), str):
            fields[name] = recipe.ggml_type(fields[name])
    types = fields.get("tensor_types", ())
    pairs = types.items() if isinstance(types, Mapping) else types
    fields["tensor_types"] = tuple(
        (pattern, recipe.ggml_type(type) if isinstance(type, str) else type) for pattern, type in pairs
    )
    if "prune_layers" in fields:
        fields["prune_layers"] = frozenset(fields["prune_layers"])
    return options or Options(**fields)


def chosen_type(file_type: str | FileType, options: Options) -> tuple[FileType, Options]:
    if isinstance(file_type, FileType):
        return file_type, options
    if file_type.upper() == "COPY":
        options = dataclasses.replace(options, copy=True)
    return recipe.file_type(file_type), options


def checked_workers(workers: int | None) -> int:
    if workers is None:
        from gguf_jax.ops.native.library import usable_cpus  # imports JAX, which a dry run does without

        return usable_cpus()
    if workers < 1:
        raise GGUFJaxError(f"workers: expected at least 1, found {workers}")
    return workers


def check_target(job: Job, path: str, force: bool) -> None:
    for view in (task.view for task in job.tasks):
        view.source.view(view.offset, 0)  # of a remote file there is no more than the header
    for target in job.targets(path):
        name = printable(target)
        if not os.path.isdir(os.path.dirname(os.path.realpath(target))):
            raise GGUFError(f"{name}: cannot be written: its folder does not exist")
        if not os.path.lexists(target):
            continue
        for source in job.source.paths:
            if os.path.realpath(source) == os.path.realpath(target) or (
                os.path.exists(target) and os.path.samefile(source, target)
            ):
                raise GGUFError(f"{name}: expected another file than the input, found {printable(source)} itself")
        if not force:
            raise GGUFError(f"{name}: exists already; --force overwrites it")


def result_of(
    job: Job, index: int, task: Task | None = None, seconds: float = 0.0, error: TensorError | None = None
) -> TensorResult:
    """Of a tensor that is done as `task`, if that is another one than was meant."""
    step, meant = job.steps[index], job.tasks[index]
    task = task or meant
    reason = step.reason if task.type == meant.type else f"{step.reason}; F32, as it is not finite"
    return TensorResult(
        step.name, step.shape, step.found, task.type, task.view.nbytes, task.nbytes, seconds, reason, error
    )


class Work:
    """One run of `quantize_file`, which knows where it is."""

    def __init__(
        self, job: Job, path: str, allow_nonfinite: bool, measured: bool, on_progress: Callable[[Progress], object]
    ):
        self.job = job
        self.path = path
        self.allow_nonfinite = allow_nonfinite
        self.measured = measured
        self.on_progress = on_progress
        self.bytes_done = 0
        self.total = sum(task.view.nbytes for task in job.tasks)
        self.results: list[TensorResult] = []
        self.starts = list(map(len, job.headers([task.type for task in job.tasks], [0] * len(job.tasks))))
        self.partial = Partial(path, job.targets(path), job.shards, self.starts, job.alignment)
        self.encode = functools.partial(processed, encode=encode, checked=True, measured=measured)

    def done(self, workers: int, resume: bool, warn: Callable[[str], object]) -> list[TensorResult]:
        """Does it all."""
        try:
            self.partial.lock()
            self.begin(resume, warn)
            self.write_tensors(workers)
            types = [GGMLType(entry.type) for entry in self.partial.entries]
            self.partial.commit([[header] for header in self.job.headers(types, self.partial.offsets(self.starts))])
        except OSError as error:
            left = f"; --resume goes on from {printable(self.partial.files[0])}" if self.partial.entries else ""
            reason = printable(error.strerror or str(error))
            raise GGUFError(f"{printable(self.path)}: cannot be written: {reason}{left}") from error
        finally:
            self.partial.close()
        return self.results

    def begin(self, resume: bool, warn: Callable[[str], object]) -> None:
        settings = self.job.settings()
        found = self.partial.resumable(settings) if resume else []
        alignment = self.job.alignment
        self.partial.check_room(sum(self.starts) + sum(task.nbytes + alignment for task in self.job.tasks))
        if not resume:
            self.partial.begin(settings)
            return
        for entry in found:
            if not self.kept(entry):
                name = shown(self.job.steps[entry.index].name)
                warn(f"tensor {name}: not as it was written; it is made anew, and so are all that follow")
                break
        if not found:
            warn(f"{printable(self.path)}: nothing to go on with, so it is made from the beginning")
        self.partial.go_on(settings)

    def kept(self, entry: Entry) -> bool:
        """Whether a tensor of an earlier run could be kept."""
        task = self.job.tasks[entry.index]
        if entry.type != task.type and self.allow_nonfinite and entry.type == GGMLType.F32:
            task = dataclasses.replace(task, type=GGMLType.F32)
        if (entry.type, entry.nbytes) != (task.type, task.nbytes) or not self.partial.is_intact(entry):
            return False
        sums = Sums()
        if self.measured and not task.copied:
            for first, last in task.chunks():
                row = task.row_bytes
                blocks = self.partial.read_back(entry, first * row, (last - first) * row).reshape(last - first, row)
                raw = chunks.raw_rows(task.view, first, last)
                values = chunks.values_of(raw, task.view.type, task.columns)
                sums += chunks.compared(values, blocks, task.type, task.importance_of(first))
        self.partial.keep(entry)
        self.finish(entry, task, sums, kept=True)
        return True

    def write_tensors(self, workers: int) -> None:
        first = len(self.partial.entries)
        tasks = self.job.tasks[first:]
        pool = ThreadPoolExecutor(workers, thread_name_prefix="quantize")
        try:
            # One chunk for each worker, and one each that is done, or begins when a worker is free.
            calls = ((task, span) for task in tasks for span in task.chunks())
            made = in_order(pool, (functools.partial(self.encode, task, *span) for task, span in calls), 2 * workers)
            for index, task in enumerate(tasks, first):
                self.write_tensor(index, task, made)
        finally:
            pool.shutdown(cancel_futures=True)

    def write_tensor(self, index: int, task: Task, made: Iterator[Chunk]) -> None:
        began = time.perf_counter()
        self.partial.open_tensor()
        before, sums, given_up = self.bytes_done, Sums(), False
        for _ in task.chunks():
            chunk = next(made)
            if given_up:
                continue
            if chunk.bad is not None:
                if not self.allow_nonfinite:
                    name, place = shown(self.job.steps[index].name), chunks.index_text(chunk.bad.index, task.columns)
                    on = ", and --resume goes on from here" if self.partial.entries else ""
                    raise GGUFJaxError(
                        f"tensor {name}: expected finite weights, found {chunk.bad.found} at {place}; "
                        f"--allow-nonfinite keeps such a tensor in F32{on}"
                    )
                given_up = not task.copied and task.type != GGMLType.F32
                if given_up:
                    continue
            sums = self.take(index, task, chunk, sums)
        if given_up:
            self.bytes_done, sums = before, Sums()
            task = dataclasses.replace(task, type=GGMLType.F32)
            self.partial.open_tensor()
            for span in task.chunks():
                chunk = processed(task, *span, encode=encode, checked=False, measured=self.measured)
                sums = self.take(index, task, chunk, sums)
        entry = self.partial.close_tensor(task.type, time.perf_counter() - began)
        self.bytes_done = before
        self.finish(entry, task, sums)

    def take(self, index: int, task: Task, chunk: Chunk, sums: Sums) -> Sums:
        self.partial.write(chunk.blocks)
        self.bytes_done += (chunk.last - chunk.first) * (task.view.nbytes // max(task.rows, 1))
        tensor = result_of(self.job, index, task)
        self.on_progress(Progress(index, len(self.job.tasks), tensor, self.bytes_done, self.total, False))
        return sums if chunk.sums is None else sums + chunk.sums

    def finish(self, entry: Entry, task: Task, sums: Sums, kept: bool = False) -> None:
        error = None
        if self.measured:
            error = TensorError.none() if task.copied else TensorError.of(sums)
        self.results.append(result_of(self.job, entry.index, task, entry.seconds, error))
        self.bytes_done += task.view.nbytes
        done, total = self.bytes_done, self.total
        self.on_progress(Progress(entry.index, len(self.job.tasks), self.results[-1], done, total, True, kept))


def encode(values: np.ndarray, type: GGMLType, importance: np.ndarray | None) -> np.ndarray:
    """Rows on the thread that asks: others ask for other rows at the same time."""
    from gguf_jax.quantization.encoder import encode_rows  # may import JAX

    return encode_rows(values, type, importance, threads=1)


def in_order(pool: ThreadPoolExecutor, calls: Iterator[Callable[[], Chunk]], ahead: int) -> Iterator[Chunk]:
    """What `calls` return, in their order, of which at most `ahead` are begun and not yet taken."""
    under_way: collections.deque[Future[Chunk]] = collections.deque()
    for call in calls:
        under_way.append(pool.submit(call))
        if len(under_way) >= ahead:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()

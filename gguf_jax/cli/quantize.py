"""`gguf-jax quantize`: a model in another file type, as llama-quantize makes it."""

from __future__ import annotations

import math
import os
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gguf_jax.cli import copying, options
from gguf_jax.cli.files import opened
from gguf_jax.cli.output import is_terminal, say, write, write_json
from gguf_jax.errors import GGUFJaxError

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from gguf_jax.quantization.file import Progress, Result
    from gguf_jax.quantization.job import Request
    from gguf_jax.quantization.recipe import Options
    from gguf_jax.quantization.report import TensorResult

_TYPES, _IMATRIX, _MODEL, _WORK = "Types", "Importance matrix", "Model and files", "Work"
MAX_TEXT = 127
"""Bytes of a key and of a string in --override-kv: what llama-quantize takes."""


def _option(panel: str, *names: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel)


def quantize(
    source: Annotated[str, typer.Argument(metavar="IN", help="GGUF file, or any shard of a split model.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="The file to write.")],
    file_type: Annotated[
        str | None,
        typer.Argument(
            metavar="TYPE",
            help="File type such as Q4_K_M, or COPY. IN TYPE without OUT writes ggml-model-TYPE.gguf beside IN.",
        ),
    ] = None,
    pure: Annotated[bool, _option(_TYPES, "--pure", help="All tensors of one type.")] = False,
    tensor_type: Annotated[
        list[str] | None,
        _option(
            _TYPES,
            "--tensor-type",
            metavar="PATTERN=TYPE",
            help="Type of tensors whose names fit a pattern; repeatable, the first that fits decides.",
        ),
    ] = None,
    tensor_type_file: Annotated[
        list[str] | None,
        _option(_TYPES, "--tensor-type-file", metavar="FILE", help="More of them, between spaces or lines."),
    ] = None,
    output_tensor_type: Annotated[
        str | None, _option(_TYPES, "--output-tensor-type", metavar="TYPE", help="Type of output.weight.")
    ] = None,
    token_embedding_type: Annotated[
        str | None, _option(_TYPES, "--token-embedding-type", metavar="TYPE", help="Type of the token embeddings.")
    ] = None,
    leave_output_tensor: Annotated[
        bool, _option(_TYPES, "--leave-output-tensor", help="Leave output.weight as it is.")
    ] = False,
    copy: Annotated[bool, _option(_TYPES, "--copy", help="Change no tensor.")] = False,
    allow_requantize: Annotated[
        bool, _option(_TYPES, "--allow-requantize", help="Quantize what is quantized already (worse).")
    ] = False,
    allow_nonfinite: Annotated[
        bool, _option(_TYPES, "--allow-nonfinite", help="Keep a tensor with NaN or infinity in F32.")
    ] = False,
    imatrix: Annotated[
        str | None, _option(_IMATRIX, "--imatrix", metavar="FILE", help="Importance matrix, GGUF or .dat.")
    ] = None,
    include_weights: Annotated[
        list[str] | None,
        _option(_IMATRIX, "--include-weights", metavar="PART", help="Use it only for names with this; repeatable."),
    ] = None,
    exclude_weights: Annotated[
        list[str] | None,
        _option(_IMATRIX, "--exclude-weights", metavar="PART", help="Not for names with this; repeatable."),
    ] = None,
    prune_layers: Annotated[
        str | None, _option(_MODEL, "--prune-layers", metavar="L0,L1", help="Layers to leave out.")
    ] = None,
    override_kv: Annotated[
        list[str] | None,
        _option(
            _MODEL,
            "--override-kv",
            metavar="KEY=TYPE:VALUE",
            help="Metadata to set; TYPE is int, float, bool or str; repeatable.",
        ),
    ] = None,
    keep_split: Annotated[bool, _option(_MODEL, "--keep-split", help="As many shards as IN has.")] = False,
    max_shard_size: Annotated[
        str | None, _option(_MODEL, "--max-shard-size", metavar="SIZE", help="Split it: 500M, 2G (powers of ten).")
    ] = None,
    report: Annotated[
        str | None, _option(_WORK, "--report", metavar="FILE", help="Write every tensor's error, .json or .csv.")
    ] = None,
    workers: Annotated[int | None, _option(_WORK, "--workers", help="Cores to use. Default: all.")] = None,
    dry_run: copying.DryRun = False,
    resume: Annotated[bool, _option(_WORK, "--resume", help="Go on where an earlier run was stopped.")] = False,
    force: copying.Force = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done, or would be, as JSON.")] = False,
    debug: options.Debug = False,
) -> None:
    """Quantize a model."""
    if file_type is None:
        target, file_type = (target, "COPY") if copy else (_default_target(source, target), target)
    from gguf_jax.gguf.split import size_of
    from gguf_jax.quantization.recipe import Options, ggml_type, layers

    chosen = Options(
        pure=pure,
        output_tensor_type=None if output_tensor_type is None else ggml_type(output_tensor_type),
        token_embedding_type=None if token_embedding_type is None else ggml_type(token_embedding_type),
        leave_output_tensor=leave_output_tensor,
        tensor_types=tensor_types(tensor_type or [], tensor_type_file or []),
        prune_layers=frozenset() if prune_layers is None else layers(prune_layers),
        allow_requantize=allow_requantize,
        copy=copy,
    )
    asked: dict[str, Any] = {
        "imatrix": imatrix,
        "include_weights": tuple(include_weights or ()),
        "exclude_weights": tuple(exclude_weights or ()),
        "overrides": dict(map(parse_override, override_kv or [])),
        "keep_split": keep_split,
        "max_shard_size": None if max_shard_size is None else size_of(max_shard_size),
    }
    if dry_run:
        _dry_run(source, file_type, chosen, asked, quiet, as_json)
        return
    work = {"report": report, "workers": workers, "allow_nonfinite": allow_nonfinite, "resume": resume, "force": force}
    result = _quantized(source, target, file_type, chosen, asked | work, quiet)
    if as_json:
        write_json(result.totals() | {"tensors": [tensor.as_dict() for tensor in result.tensors]}, indent=2)
    elif not quiet:
        write(summary(result, f"{result.paths[0]}{_more(len(result.paths) - 1)}: "))


def _default_target(source: str, file_type: str) -> str:
    from gguf_jax.quantization.recipe import file_type as known

    if file_type.upper() != "COPY":
        known(file_type)
    return os.path.join(os.path.dirname(source), f"ggml-model-{file_type.upper()}.gguf")


def tensor_types(given: list[str], files: list[str]) -> tuple[Any, ...]:
    from gguf_jax.gguf.text import printable
    from gguf_jax.quantization import recipe

    found = [recipe.tensor_type(text) for text in given]
    for path in files:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                found += recipe.tensor_types(file.read())
        except OSError as error:
            raise GGUFJaxError(f"--tensor-type-file {printable(path)}: cannot be read: {error.strerror}") from error
    return tuple(found)


def parse_override(text: str) -> tuple[str, Any]:
    """`KEY=TYPE:VALUE` -> the key and its value, of the type that llama-quantize writes: int is a u32 (of a negative
    number the absolute value), float an f32."""
    from gguf_jax.gguf import Typed, ValueType
    from gguf_jax.gguf.text import shown

    key, equals, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    expected = "KEY=TYPE:VALUE with a type of int, float, bool or str"
    problem = GGUFJaxError(f"--override-kv: expected {expected}, found {shown(text)}")
    if not (key and equals and colon) or len(os.fsencode(key)) > MAX_TEXT:
        raise problem
    match kind:
        case "int" if re.fullmatch(r"[+-]?[0-9]{1,10}", value) and abs(int(value)) < 2**32:
            return key, Typed(abs(int(value)), ValueType.U32)
        case "float":
            try:
                number = float(value)
            except ValueError:
                raise problem from None
            if math.isfinite(number):
                return key, Typed(number, ValueType.F32)
        case "bool" if value in ("true", "false"):
            return key, Typed(value == "true", ValueType.BOOL)
        case "str":
            if len(os.fsencode(value)) > MAX_TEXT:
                raise GGUFJaxError(f"--override-kv {shown(key)}: expected at most {MAX_TEXT} bytes of text")
            return key, Typed(value, ValueType.STRING)
    raise problem


def _dry_run(source: str, file_type: str, chosen: Options, asked: dict[str, Any], quiet: bool, as_json: bool) -> None:
    from gguf_jax.gguf.text import listed
    from gguf_jax.quantization.file import chosen_type, drafted
    from gguf_jax.quantization.job import Request

    request: Request = Request(*chosen_type(file_type, chosen), **asked)
    with opened(source) as file:
        job, result = drafted(file, request, lambda line: say(f"warning: {line}"))
    if job.missing_imatrix:
        say(f"note: an importance matrix is needed for {listed(job.missing_imatrix)}")
    if as_json:
        found = result.totals() | {"shards": job.shard_count, "needs_imatrix": job.missing_imatrix}
        write_json(found | {"tensors": [tensor.as_dict() for tensor in result.tensors]}, indent=2)
    elif not quiet:
        lines = (_line(i, len(result.tensors), tensor) + "\n" for i, tensor in enumerate(result.tensors))
        write("".join(lines) + summary(result, "would be: "))


def _quantized(
    source: str, target: str, file_type: str, chosen: Options, arguments: dict[str, Any], quiet: bool
) -> Result:
    from gguf_jax.gguf.text import printable
    from gguf_jax.quantization.file import quantize_file
    from gguf_jax.quantization.partial import journal_of

    shown = Shown(quiet)
    try:
        return quantize_file(
            source, target, file_type, options=chosen, on_progress=shown.progress, on_warning=shown.warning, **arguments
        )
    except KeyboardInterrupt:
        shown.stop()
        if os.path.exists(journal_of(target)):
            say(f"interrupted; the same command with --resume goes on from {printable(target)}.partial")
        raise
    finally:
        shown.stop()


class Shown:
    """Progress on stderr: a bar on a terminal, else a line for each tensor."""

    def __init__(self, quiet: bool):
        self._quiet = quiet
        self._bar: Bar | None = None

    def progress(self, at: Progress) -> None:
        if self._quiet:
            return
        if not is_terminal(sys.stderr):
            if at.finished:
                say(_line(at.index, at.count, at.tensor) + (", kept" if at.kept else f", {at.tensor.seconds:.2f} s"))
            return
        what = f"{_count(at.index, at.count)} {_name(at.tensor)} {at.tensor.found.name} -> {at.tensor.type.name}"
        if self._bar is None:
            self._bar = _bar()
            self._bar.add_task(what, total=at.total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=at.done, total=at.total, description=what)

    def warning(self, line: str) -> None:
        if self._bar is None:
            say(f"warning: {line}")
        else:
            self._bar.console.print(f"warning: {line}", markup=False, highlight=False)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _count(index: int, count: int) -> str:
    return f"[{index + 1:{len(str(count))}d}/{count}]"


def _more(files: int) -> str:
    return f" and {files} more" if files else ""


def _name(tensor: TensorResult) -> str:
    from gguf_jax.gguf.text import printable

    return printable(tensor.name)


def _line(index: int, count: int, tensor: TensorResult) -> str:
    from gguf_jax.cli.inspect import size_text

    shape = " x ".join(map(str, tensor.shape))
    types = f"{tensor.found.name:>7} -> {tensor.type.name:<7}"
    sizes = f"{size_text(tensor.bytes_before):>10} -> {size_text(tensor.bytes_after)}"
    return f"{_count(index, count)} {_name(tensor):<36} {shape:>16} {types} {sizes}"


def summary(result: Result, prefix: str) -> str:
    from gguf_jax.cli.inspect import size_text
    from gguf_jax.gguf.text import printable

    sizes = f"{size_text(result.bytes_before)} -> {size_text(result.bytes_after)}"
    seconds = f", {result.seconds:.2f} s" if result.paths else ""
    name = result.file_type.name.removeprefix("ALL_")
    return f"{printable(prefix)}{name}, {sizes}, {result.bits_per_weight:.3f} bits per weight{seconds}\n"

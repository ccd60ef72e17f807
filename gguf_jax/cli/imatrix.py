"""`gguf-jax imatrix`: importance matrices, as llama-imatrix collects, merges and shows them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gguf_jax.cli import options
from gguf_jax.cli.files import opened
from gguf_jax.cli.output import say, write, write_json
from gguf_jax.errors import GGUFJaxError

if TYPE_CHECKING:
    from gguf_jax.evals.imatrix import Progress
    from gguf_jax.models import Decoder
    from gguf_jax.quantization.imatrix_file import Format
    from gguf_jax.quantization.imatrix_sums import ImatrixSums

_TEXT, _FILES, _WORK = "Text", "Importance matrices", "Work"
PRECISIONS = ("exact", "fast")
FORMATS = ("gguf", "dat")


def _option(panel: str, *names: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel)


def imatrix(
    model: Annotated[
        str | None,
        typer.Argument(help="GGUF file, float or quantized. Default with --file: the bundled model."),
    ] = None,
    file: Annotated[
        list[str] | None,
        _option(_TEXT, "--file", "-f", metavar="TEXT", help="UTF-8 text; - is stdin; repeatable."),
    ] = None,
    ctx_size: Annotated[int | None, _option(_TEXT, "--ctx-size", "-c", help="Tokens of a chunk. Default: 512.")] = None,
    chunks: Annotated[int, _option(_TEXT, "--chunks", help="Chunks to use at most; -1: all.")] = -1,
    from_chunk: Annotated[int, _option(_TEXT, "--from-chunk", "--chunk", help="Chunks of text to skip.")] = 0,
    parse_special: Annotated[
        bool, _option(_TEXT, "--parse-special", help="Take <|im_end|> and the like for control tokens.")
    ] = False,
    process_output: Annotated[bool, _option(_TEXT, "--process-output", help="Collect output.weight too.")] = False,
    output: Annotated[
        str, _option(_FILES, "--output", "-o", metavar="OUT", help="The file to write; .dat is the older format.")
    ] = "imatrix.gguf",
    output_format: Annotated[
        str | None, _option(_FILES, "--output-format", help="gguf or dat, whatever OUT is called.")
    ] = None,
    in_file: Annotated[
        list[str] | None,
        _option(_FILES, "--in-file", metavar="IMATRIX", help="Add this importance matrix; repeatable."),
    ] = None,
    show_statistics: Annotated[
        bool, _option(_FILES, "--show-statistics", help="Print statistics of one --in-file, and do nothing else.")
    ] = False,
    resume: Annotated[bool, _option(_FILES, "--resume", help="Go on where OUT was left off.")] = False,
    force: Annotated[bool, _option(_FILES, "--force", help="Overwrite OUT.")] = False,
    output_frequency: Annotated[
        int, _option(_WORK, "--output-frequency", "-ofreq", help="Write OUT after so many chunks; 0: at the end.")
    ] = 10,
    save_frequency: Annotated[
        int, _option(_WORK, "--save-frequency", help="Keep a copy, OUT.at_N, after so many chunks; 0: none.")
    ] = 0,
    no_ppl: Annotated[bool, _option(_WORK, "--no-ppl", help="Do not compute the text's perplexity.")] = False,
    batch_size: Annotated[
        int | None,
        _option(_WORK, "--batch-size", "--batch", "-b", help="Chunks run at once. Default: 2048 tokens of them."),
    ] = None,
    precision: Annotated[str, _option(_WORK, "--precision", help="exact, or fast as generation is.")] = "exact",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: options.Debug = False,
) -> None:
    """Collect an importance matrix, the mean squared activations that quantize goes by; merge some, or look at one."""
    from gguf_jax.quantization.imatrix_file import read_sums

    for name, value, known in (("--precision", precision, PRECISIONS), ("--output-format", output_format, FORMATS)):
        if value is not None and value not in known:
            raise GGUFJaxError(f"{name}: expected {' or '.join(known)}, found {value!r}")
    for name, number in (("--output-frequency", output_frequency), ("--save-frequency", save_frequency)):
        if number < 0:
            raise GGUFJaxError(f"{name}: expected at least 0, found {number}")
    if chunks < 1 and chunks != -1:
        raise GGUFJaxError(f"--chunks: expected at least 1, or -1, found {chunks}")
    if show_statistics:
        _statistics(in_file or [], as_json)
        return
    if not file and (model is not None or not in_file):
        raise GGUFJaxError("imatrix: expected --file, text to run a model on, or --in-file alone, to merge; found none")
    _writable(output, force or resume)
    parts = [read_sums(each) for each in in_file or ()]
    target = _Target(output, output_format, output_frequency, save_frequency)  # type: ignore[arg-type] - checked above
    if not file:
        _merge(parts, ctx_size, target, as_json)
        return
    asked: dict[str, Any] = {
        "process_output": process_output,
        "precision": precision,
        "perplexity": not no_ppl,
        "batch_size": batch_size,
    }
    chosen = None if chunks == -1 else chunks
    _collect(model, file, parse_special, parts, target, resume, ctx_size, chosen, from_chunk, asked, as_json)


def _writable(path: str, replace: bool) -> None:
    """Refuse before the work what could not be written after it."""
    from gguf_jax.gguf.text import printable

    if not replace and os.path.lexists(path):
        raise GGUFJaxError(f"{printable(path)}: exists already; --force overwrites it, --resume goes on from it")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise GGUFJaxError(f"{printable(path)}: expected a folder to write to, found none at {printable(folder)}")


@dataclass
class _Target:
    """The file to write, and when; `last` is how many chunks it had when that was last looked at."""

    path: str
    asked: Format | None
    output_frequency: int
    save_frequency: int
    last: int = field(default=0)

    @property
    def format(self) -> Format:
        from gguf_jax.quantization.imatrix_file import format_of

        return self.asked or format_of(self.path)

    def write(self, sums: ImatrixSums) -> None:
        from gguf_jax.quantization.imatrix_file import write_imatrix

        write_imatrix(self.path, sums, self.format)

    def reached(self, sums: ImatrixSums) -> None:
        """Write what is due: a batch may step over the number of chunks at which it fell due."""
        from gguf_jax.quantization.imatrix_file import write_imatrix

        step, self.last = sums.chunks - self.last, sums.chunks
        if self.output_frequency and sums.chunks % self.output_frequency < step:
            self.write(sums)
        if self.save_frequency and sums.chunks % self.save_frequency < step:
            write_imatrix(f"{self.path}.at_{sums.chunks}", sums, self.format)


def _merge(parts: list[ImatrixSums], ctx_size: int | None, target: _Target, as_json: bool) -> None:
    """A single file keeps its order and its number of chunks: it is converted, not merged."""
    from gguf_jax.quantization.imatrix_sums import CHUNK_SIZE, merged

    unit = next((part.chunk_size for part in parts if part.chunk_size), CHUNK_SIZE) if ctx_size is None else ctx_size
    if unit < 1:
        raise GGUFJaxError(f"--ctx-size: expected at least 1, found {unit}")
    sums = parts[0].in_tokens(unit) if len(parts) == 1 else merged(parts, unit)
    target.write(sums)
    _report(target, sums, None, as_json)


def _statistics(paths: list[str], as_json: bool) -> None:
    from dataclasses import asdict

    from gguf_jax.quantization.imatrix_file import read_sums
    from gguf_jax.quantization.imatrix_statistics import of_blocks, statistics, table

    if len(paths) != 1:
        raise GGUFJaxError(f"--show-statistics: expected one --in-file, found {len(paths)}")
    found = statistics(read_sums(paths[0]))
    if as_json:
        tensors, blocks = ([asdict(each) for each in those] for those in (found, of_blocks(found)))
        write_json({"tensors": tensors, "blocks": blocks}, indent=2)
    else:
        write(table(paths[0], found))


def _text(path: str) -> str:
    """As llama.cpp reads it: without a last line feed."""
    from gguf_jax.gguf.text import printable

    where = f"--file {printable(path)}"
    try:
        if path == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                data = file.read()
    except (OSError, ValueError) as error:
        raise GGUFJaxError(f"{where}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        return data.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise GGUFJaxError(f"{where}: expected UTF-8 text, found an invalid byte at {error.start}") from error


def _collect(
    model: str | None,
    files: list[str],
    parse_special: bool,
    parts: list[ImatrixSums],
    target: _Target,
    resume: bool,
    ctx_size: int | None,
    chunks: int | None,
    from_chunk: int,
    asked: dict[str, Any],
    as_json: bool,
) -> None:
    import numpy as np

    from gguf_jax.evals import imatrix as evals
    from gguf_jax.gguf.text import printable

    ctx_size = evals.CHUNK_SIZE if ctx_size is None else ctx_size
    texts = [_text(path) for path in files]
    with opened(model) as file:
        decoder = options.load_model(file)
    if ctx_size > decoder.config.context_length:
        trained = decoder.config.context_length
        say(f"warning: the model was trained for {trained} tokens of context, and chunks have {ctx_size}")
    cut = []
    for path, text in zip(files, texts, strict=True):
        try:
            cut.append(evals.cut(decoder, text, ctx_size, parse_special=parse_special))
        except GGUFJaxError as error:
            raise GGUFJaxError(f"--file {printable(path)}: {error}") from error
    windows = evals.planned(np.concatenate(cut), chunks, from_chunk)
    start, done = _start(decoder, parts, files, target, resume, ctx_size, asked["process_output"])
    if done is not None and not 0 <= done < len(windows):
        found = f"{done} of {len(windows)}; nothing is left to do" if done > 0 else done
        raise GGUFJaxError(f"--resume: {printable(target.path)}: expected some of the text's chunks, found {found}")
    if done is not None:
        say(f"going on after {done} of {len(windows)} chunks")
    target.last = start.chunks if start else 0
    before = done or 0
    shown = _Shown(len(windows), before, asked["perplexity"] and not as_json)
    try:
        sums = evals.collect_imatrix(
            decoder,
            windows[before:],
            datasets=files if done is None else (),
            start=start,
            on_batch=lambda progress: (shown.progress(progress), target.reached(progress.sums)),
            **asked,
        )
    except KeyboardInterrupt:
        shown.stop()
        if shown.at is not None:
            target.write(shown.at.sums)
            say(_how_to_go_on(target, before + shown.at.windows, len(windows), from_chunk))
        raise
    finally:
        shown.stop()
    target.write(sums)
    shown.end()
    _report(target, sums, shown.at, as_json)


def _how_to_go_on(target: _Target, done: int, count: int, from_chunk: int) -> str:
    from gguf_jax.gguf.text import printable

    path = printable(target.path)
    how = "the same command with --resume goes on"
    if target.format == "dat":  # it does not say what it holds
        how = f"--in-file {path} --from-chunk {from_chunk + done} goes on"
    return f"interrupted after {done} of {count} chunks, which are in {path}; {how}"


def _start(
    decoder: Decoder,
    parts: list[ImatrixSums],
    files: list[str],
    target: _Target,
    resume: bool,
    ctx_size: int,
    process_output: bool,
) -> tuple[ImatrixSums | None, int | None]:
    """What to add to, and how many chunks of the text that has already; None where it is not the file to resume."""
    from gguf_jax.evals import activations
    from gguf_jax.gguf.text import printable, shown
    from gguf_jax.quantization.imatrix_file import read_sums
    from gguf_jax.quantization.imatrix_sums import merged

    weights = activations.shapes(decoder)
    base = merged([part.shaped(weights) for part in parts], ctx_size) if parts else None
    if not resume or not os.path.lexists(target.path):
        return base, None
    path = printable(target.path)
    if target.format == "dat":
        raise GGUFJaxError(f"--resume: {path}: expected a GGUF file, as the older format does not say what it holds")
    found = read_sums(target.path)
    if found.chunk_size is None:
        raise GGUFJaxError(f"--resume: {path}: expected a GGUF file, found the older format")
    if found.chunk_size != ctx_size:
        raise GGUFJaxError(f"--resume: {path}: expected chunks of {ctx_size} tokens, found {found.chunk_size}")
    expected = (*(base.datasets if base else ()), *files)
    if found.datasets != expected:
        there = shown(list(found.datasets))
        raise GGUFJaxError(f"--resume: {path}: expected datasets {shown(list(expected))}, found {there}")
    names = {name for name, _ in activations.collected(decoder, process_output)} | set(base.entries if base else ())
    if missing := sorted(names - set(found.entries)):
        raise GGUFJaxError(f"--resume: {path}: expected an entry {shown(missing[0])}, found none")
    return found.shaped(weights), found.chunks - (base.chunks if base else 0)


class _Shown:
    """Perplexities on stdout as they come, as llama-imatrix prints them; a bar on a terminal; the last progress."""

    def __init__(self, planned: int, before: int, prints: bool) -> None:
        from gguf_jax.cli.activity import Activity

        self.at: Progress | None = None
        self._planned, self._before, self._prints, self._printed = planned, before, prints, 0
        self._bar = Activity("compiling", planned, then="writing")
        self._bar.__enter__()

    def progress(self, at: Progress) -> None:
        self.at = at
        done = self._before + at.windows
        self._bar.describe(f"{done} of {self._planned} chunks")
        self._bar.update(done, self._planned)
        if self._prints and at.perplexity is not None:
            new = [log.exp().value for log in at.perplexity.after_each_window()[self._printed :]]
            line = "".join(f"[{self._before + i}]{each:.4f}," for i, each in enumerate(new, self._printed + 1))
            self._printed = at.windows
            self._bar.clear_for(lambda: write(line))

    def stop(self) -> None:
        self._bar.stop()
        if self._printed:
            write("\n")
            self._printed = 0

    def end(self) -> None:
        if self._prints and self.at is not None and (found := self.at.perplexity) is not None:
            those = f", of the {self.at.windows} chunks run now" if self._before else ""
            write(f"Final estimate: PPL = {found.perplexity:.4f} +/- {found.stderr:.5f}{those}\n")


def _report(target: _Target, sums: ImatrixSums, at: Progress | None, as_json: bool) -> None:
    from gguf_jax.gguf.text import printable

    unseen = sums.unseen()
    for name, (none, of) in unseen.items():
        say(f"warning: {printable(name)}: {none} of {of} experts saw no token; they get weight 1 when it is used")
    if not as_json:
        speed = f", {at.tokens} tokens in {at.seconds:.1f} s, {at.tokens / at.seconds:.0f} tokens/s" if at else ""
        write(f"{printable(target.path)}: {len(sums.entries)} entries, {sums.chunks} chunks{speed}\n")
        return
    found: dict[str, Any] = {"path": target.path, "entries": len(sums.entries), "chunks": sums.chunks}
    found |= {"chunk_size": sums.chunk_size, "datasets": list(sums.datasets), "unseen_experts": unseen}
    if at is not None:
        found |= {"tokens": at.tokens, "seconds": at.seconds, "tokens_per_second": at.tokens / at.seconds}
        if at.perplexity is not None:
            known = at.perplexity.as_dict()
            found |= {key: known[key] for key in ("perplexity", "stderr")}
    write_json(found)

"""`gguf-jax perplexity`: how well a model predicts a text, as llama-perplexity measures it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gguf_jax.cli import options
from gguf_jax.cli.files import opened
from gguf_jax.cli.output import say, write, write_json
from gguf_jax.errors import GGUFJaxError

if TYPE_CHECKING:
    from gguf_jax.evals.perplexity import Perplexity
    from gguf_jax.evals.statistics import Estimate
    from gguf_jax.ops import Precision

PRECISIONS = ("exact", "fast")

Text = typer.Option(
    "--file", "-f", help="Text to measure on, UTF-8; - is stdin. As for llama.cpp, without a last newline."
)
Chunks = Annotated[int, typer.Option("--chunks", help="Windows to use at most; -1: all.")]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", "-b", help="Windows run at once (default: as many as 2048 tokens have room for)."),
]
PrecisionOption = Annotated[str, typer.Option("--precision", help="exact, or fast as generation is.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def perplexity(
    file: Annotated[Path, Text],
    model: options.Model = None,
    ctx_size: Annotated[int, typer.Option("--ctx-size", "-c", help="Tokens of a window.")] = 512,
    stride: Annotated[
        int,
        typer.Option(
            "--stride",
            "--ppl-stride",
            help="Tokens between windows, the last so many of which are scored; 0: no overlap, second halves scored.",
        ),
    ] = 0,
    chunks: Chunks = -1,
    batch_size: BatchSize = None,
    precision: PrecisionOption = "exact",
    lora: options.Lora = None,
    lora_scaled: options.LoraScaled = None,
    output_type: Annotated[
        int | None,
        typer.Option("--ppl-output-type", help="Print the estimate after each window, as llama-perplexity: 0 or 1."),
    ] = None,
    as_json: AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Measure the perplexity of a text."""
    if output_type not in (None, 0, 1):
        raise GGUFJaxError(f"--ppl-output-type: expected 0 or 1, found {output_type}")
    if output_type is not None and as_json:
        raise GGUFJaxError("--ppl-output-type: expected it without --json, found both")
    asked: dict[str, Any] = dict(
        ctx_size=ctx_size,
        stride=positive_or_none("--stride", stride, 0),
        chunks=positive_or_none("--chunks", chunks, -1),
        batch_size=batch_size,
        precision=known_precision(precision),
    )
    adapters = options.adapters(lora, lora_scaled)
    write("")  # fails now, not after the first window
    text = read_text(file)
    with opened(model) as opened_file:
        decoder = options.load_model(opened_file, adapters)
    warn_of_long_windows(ctx_size, decoder.config.context_length)

    from gguf_jax.cli.activity import Activity
    from gguf_jax.evals.perplexity import perplexities

    last: Perplexity | None = None
    with Activity("perplexity: compiling", 1) as activity, closing(perplexities(decoder, text, **asked)) as estimates:
        try:
            for last, new in _with_new(estimates):
                activity.describe(f"perplexity {_number(last.log.exp())}")
                activity.update(last.windows, last.planned)
                if output_type is not None:
                    lines = _lines(last, new, output_type)
                    activity.clear_for(lambda lines=lines: write(lines))
        except KeyboardInterrupt:
            activity.stop()
            if last is not None:
                _report(last, model, precision, output_type, as_json)
            raise
    assert last is not None
    _report(last, model, precision, output_type, as_json)


def _with_new(estimates: Iterator[Perplexity]) -> Iterator[tuple[Perplexity, int]]:
    """Each estimate with the number of the first window that is new in it."""
    known = 0
    for estimate in estimates:
        yield estimate, known
        known = estimate.windows


def _lines(found: Perplexity, new: int, output_type: int) -> str:
    text = ""
    for i, log in enumerate(found.after_each_window()[new:], new):
        value = log.exp().value
        if output_type == 0:
            text += f"[{i + 1}]{value:.4f},"
        else:
            text += f"{i * (found.stride or found.ctx_size):8d}  {value:.4f}  {log.value:4f}  {log.stderr:4f}\n"
    return text


def _report(found: Perplexity, model: str | None, precision: str, output_type: int | None, as_json: bool) -> None:
    if as_json:
        write_json({"model": model or "bundled", "precision": precision} | found.as_dict())
    else:
        write(("\n" if output_type == 0 else "") + f"PPL = {_number(found.log.exp())}\n")
    say_speed(found)


def _number(value: Estimate) -> str:
    return f"{value.value:.4f} +/- {value.stderr:.5f}"


def say_speed(found: Any) -> None:
    """On stderr: what was measured on, how fast, and whether that was all."""
    t = found.timings
    windows = f"{found.windows} windows of {found.ctx_size}"
    if not found.complete:
        say(f"interrupted after {found.windows} of {found.planned} windows: the figures are of those")
    say(f"{found.tokens} tokens scored in {windows}, {t.prefill_s:.2f} s (and {t.compile_s:.2f} s compiling), "
        f"{t.prefill_per_second:.1f} tokens/s")  # fmt: skip


def warn_of_long_windows(ctx_size: int, context_length: int) -> None:
    if ctx_size > context_length:
        say(f"warning: windows of {ctx_size} tokens, more than the {context_length} that the model was trained for")


def known_precision(name: str) -> Precision:
    match name:
        case "exact" | "fast":
            return name
    raise GGUFJaxError(f"--precision: expected one of {', '.join(PRECISIONS)}, found {name!r}")


def positive_or_none(option: str, value: int, off: int) -> int | None:
    """A number of at least one, or None for the value that means all or nothing."""
    if value == off:
        return None
    if value < 1:
        raise GGUFJaxError(f"{option}: expected at least 1, or {off}, found {value}")
    return value


def read_text(file: Path, option: str = "--file") -> str:
    """A text without the last newline, which llama.cpp takes off what `-f` names; `option` is what named it here.

    Raises:
        GGUFJaxError: it cannot be read, or is not UTF-8.
    """
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise GGUFJaxError(f"{option} {file}: cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise GGUFJaxError(f"{option} {file}: expected UTF-8 text, found an invalid byte at {error.start}") from error

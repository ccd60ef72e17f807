"""`gguf-jax kld`: how far models' predictions are from a base's, by llama-perplexity's measures and without a file of
logits."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gguf_jax.cli import options
from gguf_jax.cli.files import opened
from gguf_jax.cli.output import write, write_json
from gguf_jax.cli.perplexity import (
    AsJson,
    BatchSize,
    Chunks,
    PrecisionOption,
    Text,
    known_precision,
    positive_or_none,
    read_text,
    say_speed,
    warn_of_long_windows,
)
from gguf_jax.errors import GGUFJaxError

if TYPE_CHECKING:
    from gguf_jax.cli.activity import Activity
    from gguf_jax.evals.base import Base
    from gguf_jax.evals.kl_divergence import KLDivergence
    from gguf_jax.evals.statistics import Estimate
    from gguf_jax.models import Decoder
    from gguf_jax.ops import Precision


def kld(
    base: Annotated[str, typer.Argument(metavar="BASE", help="GGUF file, or a file of its log-probabilities.")],
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="GGUF files to compare with it.")
    ] = None,
    file: Annotated[Path | None, Text] = None,
    ctx_size: Annotated[
        int | None, typer.Option("--ctx-size", "-c", help="Tokens of a window. [512, or those of BASE's file]")
    ] = None,
    chunks: Chunks = -1,
    batch_size: BatchSize = None,
    precision: PrecisionOption = "exact",
    sequential: Annotated[
        bool,
        typer.Option(
            "--sequential",
            help="Load one model after the other beside the base, for models that do not fit into memory together.",
        ),
    ] = False,
    save_logits: Annotated[
        str | None,
        typer.Option(
            "--save-logits", metavar="FILE", help="Write BASE's log-probabilities, as llama-perplexity reads them."
        ),
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a row for each model.")] = False,
    debug: options.Debug = False,
) -> None:
    """Measure the Kullback-Leibler divergence of models from a base."""
    from gguf_jax.evals.logits_file import is_logits_file

    models = models or []
    from_file = is_logits_file(base)
    if as_json and as_csv:
        raise GGUFJaxError("kld: expected one of --json and --csv, found both")
    if not models and save_logits is None:
        raise GGUFJaxError("kld: expected at least one MODEL, or --save-logits; found neither")
    if from_file and (save_logits is not None or not models):
        raise GGUFJaxError(f"--save-logits: expected BASE to be a model, found the log-probabilities of one: {base}")
    if file is None and not from_file:
        raise GGUFJaxError("kld: expected a text, -f FILE; found none")
    asked: dict[str, Any] = dict(
        ctx_size=ctx_size, chunks=positive_or_none("--chunks", chunks, -1), batch_size=batch_size,
        precision=known_precision(precision),
    )  # fmt: skip
    write("")  # fails now, not after the first window
    text = None if file is None else read_text(file)
    shown = _Shown(as_json, as_csv, base, len(models))
    with ExitStack() as stack:
        origin = _base(base, from_file, asked, sequential and len(models) > 1, stack)
        if origin.model is not None:
            warn_of_long_windows(ctx_size or 512, origin.model.config.context_length)
        groups = [[model] for model in models] if sequential and models else [models]
        for number, group in enumerate(groups):
            decoders = [_checked(origin, address) for address in group]
            saved = save_logits if number == 0 else None
            shown.group(origin, decoders, text, names=group, save_logits=saved, **asked)
    shown.end()


def _loaded(address: str) -> Decoder:
    with opened(address) as file:
        return options.load_model(file)


def _checked(base: Base, address: str) -> Decoder:
    """A model of the base's vocabulary; that it has another is said before the next one is loaded."""
    from gguf_jax.evals.kl_divergence import check_vocabulary

    decoder = _loaded(address)
    check_vocabulary(base, decoder, address)
    return decoder


def _base(address: str, from_file: bool, asked: dict[str, Any], keep: bool, stack: ExitStack) -> Base:
    from gguf_jax.evals.base import FileBase, ModelBase
    from gguf_jax.evals.logits_file import LogitsFile

    if from_file:
        return FileBase(stack.enter_context(LogitsFile(address, chunks=asked["chunks"])))
    precision: Precision = asked["precision"]
    return ModelBase(_loaded(address), keep=keep, precision=precision, name=address)


class _Shown:
    """What is found, on its way to stdout: after Ctrl-C what there is of it."""

    def __init__(self, as_json: bool, as_csv: bool, base: str, count: int) -> None:
        self._as_json, self._as_csv, self._base, self._count = as_json, as_csv, base, count
        self._found: list[KLDivergence] = []

    def group(self, base: Base, models: Sequence[Decoder], text: str | None, **asked: Any) -> None:
        """Measure some models in one pass."""
        from gguf_jax.cli.activity import Activity
        from gguf_jax.evals.kl_divergence import kl_divergences

        last: list[KLDivergence] = []
        results = kl_divergences(base, models, text, **asked)
        with Activity("compiling", 1) as activity, closing(results):
            try:
                for last in results:
                    _progress(activity, last)
            except KeyboardInterrupt:
                activity.stop()
                self._found += last
                self.end()
                raise
        self._found += last

    def end(self) -> None:
        """Print all there is."""
        found = self._found
        if self._as_json:
            write_json({"base": self._base, "models": [each.as_dict() for each in found]}, indent=2)
        elif self._as_csv:
            write(_csv(found))
        elif self._count == 1:
            write("".join(map(statistics, found)))
        elif found:
            write(table(found))
        if found:
            say_speed(found[-1])


def _progress(activity: Activity, found: Sequence[KLDivergence]) -> None:
    if found:
        activity.describe("KLD " + ", ".join(f"{each.kld.value:.5f} +/- {each.kld.stderr:.5f}" for each in found))
        activity.update(found[0].windows, found[0].planned)


def _csv(found: Sequence[KLDivergence]) -> str:
    rows = [each.as_dict() for each in found]
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _value(estimate: Estimate, digits: int = 6, factor: float = 1.0) -> str:
    return f"{factor * estimate.value:.{digits}f} ± {factor * estimate.stderr:.{digits}f}"


def statistics(found: KLDivergence) -> str:
    """Everything about one model, in the order and with the names of llama-perplexity."""
    return "\n".join([*_statistics(found), ""])


def _statistics(found: KLDivergence) -> Iterator[str]:
    yield "====== Perplexity statistics ======"
    for name, value in (
        ("Mean PPL(Q)", _value(found.perplexity)),
        ("Mean PPL(base)", _value(found.base_perplexity)),
        ("Cor(ln(PPL(Q)), ln(PPL(base)))", f"{100 * found.correlation:.2f}%"),
        ("Mean ln(PPL(Q)/PPL(base))", _value(found.log_ratio)),
        ("Mean PPL(Q)/PPL(base)", _value(found.ratio)),
        ("Mean PPL(Q)-PPL(base)", _value(found.difference)),
    ):
        yield f"{name:30}: {value}"
    yield "\n====== KL divergence statistics ======"
    yield f"Mean    KLD: {_value(found.kld)}"
    for level, value in found.kld_percentiles.items():
        yield f"{_level(level)} KLD: {value:10.6f}"
    yield "\n====== Token probability statistics ======"
    yield f"Mean    Δp: {_value(found.delta_p, 3, 100)} %"
    for level, value in found.delta_p_percentiles.items():
        yield f"{_level(level)} Δp: {100 * value:6.3f}%"
    yield f"RMS Δp    : {_value(found.delta_p_rms, 3, 100)} %"
    yield f"Same top p: {_value(found.same_top, 3, 100)} %"


def _level(level: float) -> str:
    return {100.0: "Maximum", 50.0: "Median ", 0.0: "Minimum"}.get(level) or f"{level:4.1f}%  "


def table(found: Sequence[KLDivergence]) -> str:
    """A line of Markdown for each model."""
    head = ["model", "PPL(Q)", "ln(PPL(Q)/PPL(base))", "mean KLD", "99% KLD", "max KLD", "RMS Δp %", "same top %"]
    rows = [
        [
            each.name or "",
            _value(each.perplexity, 4),
            _value(each.log_ratio, 5),
            _value(each.kld, 5),
            f"{each.kld_percentiles[99.0]:.5f}",
            f"{each.kld_percentiles[100.0]:.5f}",
            _value(each.delta_p_rms, 3, 100),
            _value(each.same_top, 3, 100),
        ]
        for each in found
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)) + " |\n"

    base = _value(found[0].base_perplexity, 4)
    rule = "| " + " | ".join("-" * width for width in widths) + " |\n"
    return f"PPL(base) = {base}\n" + line(head) + rule + "".join(map(line, rows))

"""`gguf-jax multiple-choice`: how many tasks a model answers right, as llama-perplexity scores them."""

from __future__ import annotations

import csv
import io
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from gguf_jax.cli import options
from gguf_jax.cli.files import opened
from gguf_jax.cli.output import say, write, write_json
from gguf_jax.cli.perplexity import AsJson, PrecisionOption, known_precision, positive_or_none
from gguf_jax.errors import GGUFJaxError

if TYPE_CHECKING:
    from gguf_jax.evals.multiple_choice import MultipleChoice
    from gguf_jax.evals.task_files import Kind


def multiple_choice(
    file: Annotated[
        str,
        typer.Option(
            "--file", "-f", metavar="FILE", help="Tasks: one of llama-perplexity's files, or JSON lines of a data set."
        ),
    ],
    model: options.Model = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="hellaswag (text), winogrande (CSV) or multiple-choice (binary). Default: what FILE looks like.",
        ),
    ] = None,
    tasks: Annotated[
        int, typer.Option("--tasks", "-n", help="Tasks to use at most, those that llama-perplexity takes; -1: all.")
    ] = -1,
    batch_tokens: Annotated[int, typer.Option("--batch-tokens", "-b", help="Tokens run at once.")] = 2048,
    precision: PrecisionOption = "exact",
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a row for each task.")] = False,
    lora: options.Lora = None,
    lora_scaled: options.LoraScaled = None,
    debug: options.Debug = False,
) -> None:
    """Measure how many multiple-choice tasks are answered right: HellaSwag, Winogrande, ARC, MMLU."""
    from gguf_jax.evals.task_files import read_tasks

    if as_json and as_csv:
        raise GGUFJaxError("multiple-choice: expected one of --json and --csv, found both")
    known = known_precision(precision)
    count = positive_or_none("--tasks", tasks, -1)
    adapters = options.adapters(lora, lora_scaled)
    write("")  # fails now, not after the first batch
    read = read_tasks(file, known_kind(kind))
    with opened(model) as opened_file:
        decoder = options.load_model(opened_file, adapters)

    from gguf_jax.cli.activity import Activity
    from gguf_jax.evals.multiple_choice import multiple_choices

    def report(found: MultipleChoice) -> None:
        if as_json:
            write_json({"model": model or "bundled", "file": file, "precision": precision} | found.as_dict())
        else:
            write(_csv(found) if as_csv else _summary(found))
        _say_speed(found)

    last: MultipleChoice | None = None
    results = multiple_choices(decoder, read, count=count, batch_tokens=batch_tokens, precision=known)
    with Activity("multiple choice: compiling", 1) as activity, closing(results):
        try:
            for last in results:
                activity.describe(f"{last.kind} {_percent(last)}")
                activity.update(last.tasks, last.planned)
        except KeyboardInterrupt:
            activity.stop()
            if last is not None:
                report(last)
            raise
    assert last is not None
    report(last)


def known_kind(name: str | None) -> Kind | None:
    from gguf_jax.evals.task_files import KINDS

    for kind in KINDS:
        if kind == name:
            return kind
    if name is not None:
        raise GGUFJaxError(f"--kind: expected one of {', '.join(KINDS)}, found {name!r}")
    return None


def _percent(found: MultipleChoice) -> str:
    return f"{100 * found.accuracy.value:.4f} +/- {100 * found.accuracy.stderr:.4f}"


def _summary(found: MultipleChoice) -> str:
    low, high = found.interval
    return (
        f"accuracy      : {_percent(found)} %\n"
        f"95% interval  : {100 * low:.4f} to {100 * high:.4f} %\n"
        f"random chance : {100 * found.chance:.4f} %\n"
    )


def _csv(found: MultipleChoice) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("task", "right", "chosen", "gold", "scores"))
    for each in found.answers:
        gold, scores = (" ".join(map(str, values)) for values in (each.gold, each.scores))
        writer.writerow((each.task, int(each.right), each.chosen, gold, scores))
    return text.getvalue()


def _say_speed(found: MultipleChoice) -> None:
    """On stderr: what was measured on, how fast, and whether that was all."""
    t = found.timings
    if not found.complete:
        say(f"interrupted after {found.tasks} of {found.planned} tasks: the figures are of those")
    say(f"{found.tasks} {found.kind} tasks, {t.prefill_s:.2f} s (and {t.compile_s:.2f} s compiling), "
        f"{t.prefill_per_second:.1f} tokens/s")  # fmt: skip

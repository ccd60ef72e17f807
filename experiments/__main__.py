"""`python -m experiments`: list, run, report."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from experiments.experiment import CONFIGS, read_experiment
from gguf_jax.cli.output import guarded, say, write
from gguf_jax.errors import GGUFJaxError

app = typer.Typer(
    name="python -m experiments",
    help="Measure what configs ask for: rows, tables and plots in experiments/results/NAME.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

INTERRUPTED = 130

Config = Annotated[Path, typer.Argument(metavar="CONFIG.toml")]
Into = Annotated[
    Path | None, typer.Option("--results", metavar="FOLDER", help="Where NAME/ goes. [experiments/results]")
]


@app.command("list")
def list_all(results: Into = None) -> None:
    """Show the configs, what they ask, and how much of it is measured."""
    from experiments.results import read_rows

    for path in sorted(CONFIGS.glob("*.toml")):
        try:
            found = read_experiment(path, results)
            there = len(found.chosen(read_rows(found.results)[0]))
        except GGUFJaxError as error:
            write(f"{path.stem}: {error}\n")
            continue
        write(f"{found.name}: {found.question}\n    {there} of {len(found.cases)} cases measured\n")


@app.command()
def run(
    config: Config,
    only: Annotated[
        str | None, typer.Option("--only", metavar="REGEX", help="Cases in whose text this is found.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure what is measured too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be measured.")] = False,
    most: Annotated[int | None, typer.Option("--most", min=1, help="Stop after so many cases.")] = None,
    results: Into = None,
) -> None:
    """Measure what is not measured yet, then report. Ctrl-C leaves what there is."""
    from experiments import runner

    experiment = read_experiment(config, results)
    try:
        runner.run(experiment, only=only, again=again, dry_run=dry_run, most=most)
    except KeyboardInterrupt:
        say(f"interrupted; the same command goes on behind the rows that {experiment.name} has now")
        raise


@app.command()
def report(config: Config, results: Into = None) -> None:
    """Write tables and plots anew from the results."""
    from experiments import runner

    runner.report(read_experiment(config, results))


def main() -> None:
    """Entry point; its status is 0, 1 for an error of the user's, 2 for a wrong usage, 130 for Ctrl-C."""
    status = _status()
    if status == INTERRUPTED:
        os._exit(status)  # XLA may be compiling in a thread of its own, which does not survive the end of Python
    sys.exit(status)


def _status() -> int:
    try:
        with guarded():
            app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except GGUFJaxError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    main()

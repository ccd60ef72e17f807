"""`gguf-jax bench --kernels`: a line for each case, in the format asked for."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gguf_jax.cli.output import write

WIDTHS = {"op": -14, "type": -8, "shape": -27, "rows": 5, "implementation": -14, "precision": -9}
MARKDOWN = (*WIDTHS, "median_us", "gb_per_s", "gflop_per_s", "share_of_limit")


def bench_kernels(
    *,
    ops: Sequence[str],
    types: Sequence[str],
    shapes: Sequence[str],
    rows: Sequence[int],
    implementations: Sequence[str],
    precisions: Sequence[str],
    threads: int | None,
    seconds: float,
    output: str,
) -> None:
    """Time the chosen cases; see `gguf_jax.bench.kernels.Chosen`."""
    from gguf_jax.bench import limits
    from gguf_jax.bench.kernels import Chosen, timings
    from gguf_jax.cli.activity import Activity

    chosen = Chosen(ops, types, shapes, rows, implementations, precisions, seconds)
    chosen.check()
    if threads is not None:
        limits.set_threads(threads)
    with Activity("kernels") as activity:
        first = True
        found = timings(chosen, activity.describe)
        try:
            for timing in found:
                row = timing.as_dict()
                activity.clear_for(lambda row=row, first=first: write(_text(row, output, first), styled=True))
                first = False
        finally:
            if output == "json":
                write("[]\n" if first else "\n]\n")


def _text(row: Mapping[str, Any], output: str, first: bool) -> str:
    match output:
        case "json":
            return ("[\n" if first else ",\n") + json.dumps(row)
        case "jsonl":
            return json.dumps(row) + "\n"
        case "csv":
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            if first:
                writer.writerow(row)
            writer.writerow(row.values())
            return text.getvalue()
    shown = {**{name: row[name] for name in MARKDOWN}, "share_of_limit": f"{100 * row['share_of_limit']:.1f} %"}
    line = "| " + " | ".join(_cell(name, value) for name, value in shown.items()) + " |\n"
    if not first:
        return line
    rule = ["-" * (len(_cell(name, "")) - 1) + ("-" if WIDTHS.get(name, 0) < 0 else ":") for name in MARKDOWN]
    return "| " + " | ".join(_cell(name, name) for name in MARKDOWN) + " |\n| " + " | ".join(rule) + " |\n" + line


def _cell(name: str, value: Any) -> str:
    width = WIDTHS.get(name, len(name))
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    return text.ljust(-width) if width < 0 else text.rjust(width)

"""`gguf-jax compare`: the error of every tensor of one file against another, and what each of them costs."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gguf_jax.cli import options
from gguf_jax.cli.files import opened
from gguf_jax.cli.output import say, write, write_json
from gguf_jax.cli.perplexity import (
    BatchSize,
    PrecisionOption,
    known_precision,
    positive_or_none,
    read_text,
    warn_of_long_windows,
)
from gguf_jax.errors import GGUFJaxError

if TYPE_CHECKING:
    from gguf_jax.evals.sensitivity import Replacement, Sensitivity
    from gguf_jax.evals.statistics import Estimate
    from gguf_jax.quantization.compare import Comparison
    from gguf_jax.quantization.report import TensorError

NAMES = ("tensor", "A", "B")
ERRORS = ("relative RMSE", "SQNR, dB", "max error", "weighted RMSE")
COSTS = ("KLD", "99% KLD", "same top, %", "ln PPL ratio", "MiB saved", "KLD/MiB")


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="GGUF file that counts as right.")],
    b: Annotated[str, typer.Argument(metavar="B", help="GGUF file that is compared with it, of any types.")],
    imatrix: Annotated[str | None, typer.Option("--imatrix", help="Weigh squared errors by it.")] = None,
    sensitivity: Annotated[
        Path | None,
        typer.Option(
            "--sensitivity",
            metavar="FILE",
            help="Text, UTF-8 (- is stdin): how far A's predictions move when one tensor alone is taken from B.",
        ),
    ] = None,
    ctx_size: Annotated[int, typer.Option("--ctx-size", "-c", help="Tokens of a window of the text.")] = 512,
    chunks: Annotated[
        int, typer.Option("--chunks", help="Windows to use at most; -1: all. Few do: both models see the same tokens.")
    ] = 8,
    batch_size: BatchSize = None,
    precision: PrecisionOption = "exact",
    tensors: Annotated[
        str | None,
        typer.Option("--tensors", metavar="REGEX", help="Only for tensors whose names have it: with --sensitivity."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values, a row for each tensor.")] = False,
    plot: Annotated[
        str | None, typer.Option("--plot", metavar="FILE", help="Heat map, layer by tensor: .png, .svg or .pdf.")
    ] = None,
    debug: options.Debug = False,
) -> None:
    """How far every tensor of B is from that of A, and how far each takes A's predictions from what they are."""
    from gguf_jax.quantization.heat_map import check_plot_path
    from gguf_jax.quantization.imatrix import read_imatrix

    if tensors is not None and sensitivity is None:
        raise GGUFJaxError("--tensors: expected --sensitivity with it, found none")
    if plot is not None:
        check_plot_path(plot)
    importances = read_imatrix(imatrix) if imatrix is not None else None
    shown = _Shown(a, b, as_json, as_csv, plot, chosen=tensors is not None)
    if sensitivity is None:
        shown.compare(importances)
        shown.end()
        return
    asked: dict[str, Any] = dict(
        tensors=tensors,
        ctx_size=ctx_size,
        chunks=positive_or_none("--chunks", chunks, -1),
        batch_size=batch_size,
        precision=known_precision(precision),
    )
    write("")  # fails now, not after the last window
    text = read_text(sensitivity, "--sensitivity")
    with opened(a) as file:
        decoder = options.load_model(file)
    warn_of_long_windows(ctx_size, decoder.config.context_length)

    from gguf_jax.evals.sensitivity import sensitivities

    with closing(sensitivities(decoder, b, text, **asked)) as results:  # says what is wrong before tensors are compared
        shown.compare(importances)
        shown.replace(results)
    shown.end()


class _Shown:
    """What is found, on its way to stdout and into a plot: after Ctrl-C what there is of it."""

    def __init__(self, a: str, b: str, as_json: bool, as_csv: bool, plot: str | None, *, chosen: bool) -> None:
        self._a, self._b, self._plot, self._chosen = a, b, plot, chosen
        self._as_json, self._as_csv = as_json, as_csv
        self._errors: Comparison | None = None
        self._costs: Sensitivity | None = None

    def compare(self, importances: Any) -> None:
        """Compare tensors."""
        from gguf_jax.cli.activity import Activity
        from gguf_jax.quantization.compare import compare_files

        with Activity("comparing tensors", 1.0) as activity:
            found = compare_files(self._a, self._b, importances=importances, on_weights=activity.update)
        for what, names in (
            ("only in A", found.only_a),
            ("only in B", found.only_b),
            ("other shape", found.other_shape),
        ):
            if names:
                say(f"{what}: {len(names)} tensors, such as {names[0]}")
        self._errors = found

    def replace(self, results: Iterator[Sensitivity]) -> None:
        """Replace tensors."""
        from gguf_jax.cli.activity import Activity

        with Activity("replacing tensors", 1.0) as activity:
            try:
                for found in results:
                    self._costs = found
                    activity.update(found.done, 1.0)
            except KeyboardInterrupt:
                activity.stop()
                self.end()
                raise

    def end(self) -> None:
        """Print all there is."""
        errors, costs = self._errors, self._costs
        assert errors is not None
        if self._as_json:
            write_json(_json(errors, costs), indent=2)
        elif self._as_csv:
            write(_csv(errors, costs))
        else:
            write(_table(errors, costs, self._chosen))
        if costs is not None:
            _say_what_was_run(costs)
        if self._plot is not None:
            _draw(self._plot, errors, costs, f"{os.path.basename(self._b)}\nagainst {os.path.basename(self._a)}")


def _say_what_was_run(found: Sensitivity) -> None:
    """On stderr."""
    same = len(found.tensors) - len(found.measured)
    if same:
        say(f"{same} tensors have the same bytes in both files and were not run")
    t = found.timings
    time = f"{t.prefill_s:.2f} s (and {t.compile_s:.2f} s compiling)"
    if not found.complete:
        say(f"interrupted at {100 * found.done:.0f} % after {time}, with {len(found.measured)} of {found.differing} "
            "tensors run: the figures are of what was run")  # fmt: skip
    elif found.differing:
        say(f"{found.differing} tensors replaced one by one, on {found.planned} windows of {found.ctx_size}: {time}")


def _draw(path: str, errors: Comparison, costs: Sensitivity | None, title: str) -> None:
    from gguf_jax.quantization.heat_map import Quantity, relative_errors, write_heat_map

    quantities = [relative_errors(errors.tensors)]
    klds = {each.name: each.kld.value for each in costs.measured} if costs is not None else {}
    if any(value > 0 for value in klds.values()):
        quantities.append(Quantity("KL divergence, that tensor alone, nats", klds))
    write_heat_map(path, quantities, title)


def _costs_of(found: Sensitivity | None) -> dict[str, Replacement]:
    return {each.name: each for each in found.tensors} if found is not None else {}


def _rows(errors: Comparison, found: Sensitivity | None) -> list[dict[str, Any]]:
    """A row for each tensor, all with the same keys."""
    costs = _costs_of(found)
    keys = dict.fromkeys(key for each in costs.values() for key in each.as_dict())
    return [
        tensor.as_dict() | keys | (costs[tensor.name].as_dict() if tensor.name in costs else {})
        for tensor in errors.tensors
    ]


def _json(errors: Comparison, found: Sensitivity | None) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "tensors": _rows(errors, found),
        "only_a": list(errors.only_a),
        "only_b": list(errors.only_b),
        "other_shape": list(errors.other_shape),
        "total": asdict(errors.total),
        **({"sensitivity": found.as_dict()} if found is not None else {}),
    }


def _csv(errors: Comparison, found: Sensitivity | None) -> str:
    draft = io.StringIO()
    rows = _rows(errors, found)
    writer = csv.writer(draft, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        shape = "x".join(map(str, row["shape"]))
        writer.writerow("" if value is None else value for value in (row | {"shape": shape}).values())
    return draft.getvalue()


def _table(errors: Comparison, found: Sensitivity | None, chosen: bool) -> str:
    from gguf_jax.gguf.text import printable

    costs = _costs_of(found)
    table = [dict(zip(NAMES, NAMES, strict=True)) | {name: name for name in (*ERRORS, *COSTS)}]
    for tensor in errors.tensors:
        row = dict(zip(NAMES, (printable(tensor.name), *(type.name for type in tensor.types)), strict=True))
        row |= {ERRORS[0]: "same bytes"} if tensor.same_bytes else _error_cells(tensor.error)
        if tensor.name in costs and not tensor.same_bytes:
            row |= _cost_cells(costs[tensor.name])
        table.append(row)
    together = _cost_cells(found.together) if found is not None and found.together is not None else {}
    table.append({"tensor": "all"} | _error_cells(errors.total) | ({} if chosen else together))
    if chosen and together:
        table.append({"tensor": "all that were chosen"} | together)
    if found is not None and len(found.measured) > 1:
        table.append({"tensor": "sum of single ones", "KLD": _estimate(found.sum_of_single)})
    return _aligned([name for name in table[0] if any(row.get(name) for row in table[1:])], table)


def _aligned(names: Sequence[str], table: Sequence[Mapping[str, str]]) -> str:
    """Columns that are empty are not among `names`."""
    widths = {name: max(len(row.get(name, "")) for row in table) for name in names}
    lines = []
    for row in table:
        cells = [
            row.get(name, "").ljust(widths[name]) if name in NAMES else row.get(name, "").rjust(widths[name])
            for name in names
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def _error_cells(error: TensorError) -> dict[str, str]:
    figures = error.relative_rmse, error.sqnr_db, error.max_abs_error, error.weighted_rmse
    return dict(zip(ERRORS, map(_number, figures), strict=True))


def _cost_cells(cost: Replacement) -> dict[str, str]:
    figures = (
        _estimate(cost.kld),
        f"{cost.kld_p99:.3g}",
        f"{100 * cost.same_top.value:.2f}",
        _estimate(cost.log_ratio),
        f"{cost.bytes_saved / 2**20:.2f}",
        "" if cost.kld_per_mib is None else f"{cost.kld_per_mib:.3g}",
    )
    return dict(zip(COSTS, figures, strict=True))


def _estimate(estimate: Estimate) -> str:
    return f"{estimate.value:.3g} ± {estimate.stderr:.1g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"

"""`gguf-jax compare`: the error of every tensor of one file against another."""

from __future__ import annotations

import csv
import io
import os
from typing import TYPE_CHECKING, Annotated

import typer

from gguf_jax.cli import options
from gguf_jax.cli.output import say, write, write_json

if TYPE_CHECKING:
    from gguf_jax.quantization.compare import Comparison

HEADINGS = ("tensor", "A", "B", "relative RMSE", "SQNR, dB", "max error", "weighted RMSE")


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="GGUF file that counts as right.")],
    b: Annotated[str, typer.Argument(metavar="B", help="GGUF file that is compared with it, of any types.")],
    imatrix: Annotated[str | None, typer.Option("--imatrix", help="Weigh squared errors by it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    plot: Annotated[
        str | None, typer.Option("--plot", metavar="FILE", help="Heat map, layer by tensor: .png, .svg or .pdf.")
    ] = None,
    debug: options.Debug = False,
) -> None:
    """How far every tensor of B is from that of A."""
    from gguf_jax.cli.activity import Activity
    from gguf_jax.quantization.compare import compare_files
    from gguf_jax.quantization.heat_map import check_plot_path, relative_errors, write_heat_map
    from gguf_jax.quantization.imatrix import read_imatrix

    if plot is not None:
        check_plot_path(plot)
    importances = read_imatrix(imatrix) if imatrix is not None else None
    with Activity("comparing tensors", 1.0) as activity:
        found = compare_files(a, b, importances=importances, on_weights=activity.update)
    for what, names in (("only in A", found.only_a), ("only in B", found.only_b), ("other shape", found.other_shape)):
        if names:
            say(f"{what}: {len(names)} tensors, such as {names[0]}")
    if as_json:
        write_json(_json(found), indent=2)
    elif as_csv:
        write(_csv(found))
    else:
        write(_table(found))
    if plot is not None:
        write_heat_map(plot, [relative_errors(found.tensors)], f"{os.path.basename(b)}\nagainst {os.path.basename(a)}")


def _json(found: Comparison) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "tensors": [tensor.as_dict() for tensor in found.tensors],
        "only_a": list(found.only_a),
        "only_b": list(found.only_b),
        "other_shape": list(found.other_shape),
        "total": asdict(found.total),
    }


def _csv(found: Comparison) -> str:
    draft = io.StringIO()
    rows = [tensor.as_dict() for tensor in found.tensors]
    writer = csv.writer(draft, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        shape = "x".join(map(str, row["shape"]))
        writer.writerow("" if value is None else value for value in (row | {"shape": shape}).values())
    return draft.getvalue()


def _table(found: Comparison) -> str:
    from gguf_jax.gguf.text import printable

    lines = []
    for tensor in found.tensors:
        error = tensor.error
        figures = (error.relative_rmse, error.sqnr_db, error.max_abs_error, error.weighted_rmse)
        cells = [printable(tensor.name), tensor.types[0].name, tensor.types[1].name]
        cells += ["same bytes", "", "", ""] if tensor.same_bytes else [_number(figure) for figure in figures]
        lines.append(cells)
    total = found.total
    figures = (total.relative_rmse, total.sqnr_db, total.max_abs_error, total.weighted_rmse)
    lines.append(["all", "", "", *(_number(figure) for figure in figures)])
    widths = [max(len(row[i]) for row in [list(HEADINGS), *lines]) for i in range(len(HEADINGS))]
    shown = []
    for row in [list(HEADINGS), *lines]:
        left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        shown.append("  ".join(left + right).rstrip())
    return "\n".join(shown) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"

"""A table of equal blocks, and the error of every type over its bits per weight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import plots
from experiments.encoders.settings import IMPORTANCE, Settings
from experiments.results import Row
from experiments.tables import fixed, markdown, number, write_table
from gguf_jax.errors import GGUFJaxError


def report(settings: Settings, rows: Sequence[Row], folder: Path) -> list[Path]:
    """
    Raises:
        GGUFJaxError: fewer blocks are equal than expected; table and plot are written all the same.
    """
    files = [write_table(folder, table(settings, rows)), *plot(settings, rows, folder)]
    for way in ways_of(rows):
        equal = sum(each["equal"][way] for row in rows for each in row.found["sets"].values())
        blocks = sum(each["blocks"] for row in rows for each in row.found["sets"].values())
        if equal < settings.expected * blocks:
            expected = f"expected a share of {settings.expected} of the blocks to be equal"
            raise GGUFJaxError(f"{way}: {expected}, found {equal} of {blocks}")
    return files


def ways_of(rows: Sequence[Row]) -> list[str]:
    """The implementations that all rows have, the fastest first."""
    each = [next(iter(row.found["sets"].values()))["equal"] for row in rows]
    return [way for way in each[0] if all(way in found for found in each)]


def table(settings: Settings, rows: Sequence[Row]) -> str:
    ways = ways_of(rows)
    shown = f"weighted error, {settings.plotted}"
    headings = [
        "type",
        "importance",
        "bits per weight",
        "blocks",
        *(f"equal, {way}" for way in ways),
        shown,
        "reference's",
    ]
    lines = []
    for row in rows:
        sets = row.found["sets"]
        blocks = sum(each["blocks"] for each in sets.values())
        equal = [100 * sum(each["equal"][way] for each in sets.values()) / blocks for way in ways]
        error: dict[str, Any] = sets.get(settings.plotted, {}).get("error", {})
        cells = [
            row.of["case"]["type"],
            row.of["case"]["importance"],
            number(row.found["bits_per_weight"]),
            str(blocks),
        ]
        cells += [f"{share:.4g} %" for share in equal]
        lines.append([*cells, fixed(error.get(ways[0]), 5), fixed(error.get("reference"), 5)])
    return markdown(headings, lines, left=2)


def plot(settings: Settings, rows: Sequence[Row], folder: Path) -> list[Path]:
    figure, axes = plots.new_figure(9, 5.5)
    way = ways_of(rows)[0]
    labels: dict[str, plots.Point] = {}
    places: list[plots.Place] = []
    known = [row for row in rows if settings.plotted in row.found["sets"]]
    for importance, colour, marker in zip(IMPORTANCE, ("tab:gray", "tab:blue"), "os", strict=True):
        shown = [row for row in known if row.of["case"]["importance"] == importance]
        bits = [row.found["bits_per_weight"] for row in shown]
        errors = [row.found["sets"][settings.plotted]["error"] for row in shown]
        ours, reference = [each[way] for each in errors], [each["reference"] for each in errors]
        label = f"gguf_jax, {importance} importance"
        axes.scatter(bits, ours, s=26, color=colour, marker=marker, label=label, zorder=3)
        ring: dict[str, Any] = dict(facecolors="none", edgecolors=colour, marker=marker, label=f"ggml, {importance}")
        axes.scatter(bits, reference, s=110, **ring)
        places += zip(bits, ours, strict=True)
        for row, x, y in zip(shown, bits, ours, strict=True):
            labels[row.of["case"]["type"]] = (x, y, row.of["case"]["type"], "black")
    axes.set_yscale("log")
    axes.set_xlabel("bits per weight")
    axes.set_ylabel("relative importance-weighted error")
    axes.set_title("Rows of a real model: the error of every type, ours inside the reference's ring")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize=8)
    plots.label_points(axes, list(labels.values()), others=places, radius=6)
    return plots.save(figure, folder, "error")

"""The plots of the view "types"."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import plots
from experiments.models.found import Measured, ours, rank_correlation
from gguf_jax.formats import FORMATS, GGMLType

Points = dict[tuple[str, str | None], tuple[float, float]]
"""Where a file stands, by type and importance matrix."""

BITS = (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 10, 12, 16, 32)
PERCENTS = (-0.5, -0.2, -0.1, 0, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
ERRORS = {"relative_rmse": "relative RMS error of all tensors", "weighted_rmse": "importance-weighted RMS error"}


def colour_of(type: str) -> str:
    return plots.FAMILIES[plots.family(type)]


def divergence_plot(files: Sequence[Measured], text: str, folder: Path, name: str) -> list[Path]:
    """Divergence over bits per weight."""
    points = _of(files, text, "kld_mean")
    if not points:
        return []
    figure, axes = plots.new_figure(11, 7.5)
    _scattered(axes, points)
    axes.set_yscale("log")
    _bits_axis(axes, points)
    axes.set_ylabel("mean KL divergence from the base, nats a token")
    axes.set_title(f"What a file type costs: divergence on {text}")
    axes.grid(True, which="both", alpha=0.2)
    _key(axes, points)
    plots.label_points(axes, _labels(points), others=_others(points))
    return plots.save(figure, folder, name)


def perplexity_plot(files: Sequence[Measured], text: str, folder: Path, name: str) -> list[Path]:
    """How much the perplexity is above the base's, with its error: that one is below is chance."""
    points = {key: (x, 100 * y) for key, (x, y) in _of(files, text, "log_perplexity_ratio").items()}
    if not points:
        return []
    figure, axes = plots.new_figure(11, 7.5)
    errors = {key: 100 * y for key, (_, y) in _of(files, text, "log_perplexity_ratio_stderr").items()}
    for (type, imatrix), (x, y) in points.items():
        axes.errorbar(x, y, errors.get((type, imatrix), 0.0), color=colour_of(type), lw=0.8, capsize=2, zorder=1)
    _scattered(axes, points)
    axes.axhline(0, color="black", lw=0.8)
    axes.set_yscale("symlog", linthresh=0.5, linscale=0.8)
    _bits_axis(axes, points)
    low = min(-0.1, *(1.3 * (y - errors.get(key, 0.0)) for key, (_, y) in points.items()))
    high = max(0.1, *(1.6 * y for _, y in points.values()))
    axes.set_ylim(low, high)
    ticks = [tick for tick in PERCENTS if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylabel("100 ln(PPL / PPL of the base), with its standard error")
    axes.set_title(f"What a file type costs: perplexity on {text}")
    axes.grid(True, alpha=0.2)
    _key(axes, points)
    bars = [(x, y + step * errors.get(key, 0.0)) for key, (x, y) in points.items() for step in np.linspace(-1, 1, 9)]
    low, high = axes.get_xlim()
    zero = [(float(x), 0.0) for x in np.geomspace(low, high, 80)]
    plots.label_points(axes, _labels(points), others=[*bars, *zero])
    return plots.save(figure, folder, name)


def surrogate_plot(files: Sequence[Measured], text: str, folder: Path, name: str) -> list[Path]:
    """Divergence over the error of tensors, plain and weighted by importance."""
    divergences = _of(files, text, "kld_mean")
    found: dict[str, Points] = {}
    for file in ours(files):
        key = file.type, file.imatrix
        for kind in ERRORS:
            if key in divergences and file.file[kind]:
                found.setdefault(kind, {})[key] = file.file[kind], divergences[key][1]
    if not found:
        return []
    figure, each = plots.new_figure(8 * len(found), 7, columns=len(found), squeeze=False)
    for axes, (kind, points) in zip(each.flat, found.items(), strict=True):
        _scattered(axes, points)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(ERRORS[kind])
        axes.set_ylabel("mean KL divergence from the base, nats a token")
        axes.set_title(f"rank correlation {rank_correlation(*zip(*points.values(), strict=True)):.4f}", fontsize=10)
        axes.grid(True, which="both", alpha=0.2)
        _key(axes, points, "upper left")
    figure.suptitle(f"Is the error of tensors what a model feels? Divergence on {text}")
    for axes, points in zip(each.flat, found.values(), strict=True):
        plots.label_points(axes, _labels(points), others=_others(points), size=6)
    return plots.save(figure, folder, name)


def error_plot(files: Sequence[Measured], folder: Path) -> list[Path]:
    """The relative error of every tensor by the type that it has, whatever file it is in."""
    errors: dict[tuple[str, bool], set[tuple[str, float]]] = {}
    for file in ours(files):
        for tensor, (type, error) in file.file.get("tensors", {}).items():
            errors.setdefault((type, file.imatrix is not None), set()).add((tensor, error))
    types = sorted({type for type, _ in errors}, key=lambda type: (FORMATS[GGMLType[type]].bits_per_weight, type))
    if not types:
        return []
    figure, axes = plots.new_figure(10, 5.5)
    for (type, has_imatrix), found in errors.items():
        x, colour = types.index(type) + (0.17 if has_imatrix else -0.17), colour_of(type)
        values = [error for _, error in found]
        axes.plot([x, x], [min(values), max(values)], "-", color=colour, lw=1.2, zorder=2)
        fill = colour if has_imatrix else "white"
        axes.plot(x, np.median(values), "o", ms=5, mec=colour, mfc=fill, mew=1.1, zorder=3)
    axes.set_yscale("log")
    axes.set_xlim(-0.7, len(types) - 0.3)
    shown = [f"{type}  {FORMATS[GGMLType[type]].bits_per_weight:.4g}" for type in types]
    axes.set_xticks(range(len(types)), shown, fontsize=8, rotation=90)
    axes.set_xlabel("type of the tensor, and its bits per weight")
    axes.set_ylabel("relative RMS error of a tensor")
    axes.set_title("The error of tensors by their type: the median, and from the least to the greatest")
    axes.grid(True, which="both", axis="y", alpha=0.2)
    _key(axes, {(type, None): (0.0, 0.0) for type in types})
    return plots.save(figure, folder, "error")


def heat_map(files: Sequence[Measured], type: str, folder: Path) -> list[Path]:
    """Layers by tensors, a map for each importance matrix."""
    from gguf_jax.quantization.heat_map import Quantity, write_heat_map

    quantities = []
    for file in ours(files):
        tensors = file.file.get("tensors")
        if file.type == type and tensors:
            label = "without imatrix" if file.imatrix is None else f"with {file.imatrix}"
            values = {name: error for name, (_, error) in tensors.items()}
            quantities.append(Quantity(f"relative RMS error, {label}", values))
    if not quantities:
        return []
    names = plots.named(folder, f"heat_map_{type}")
    with plots.reproducible():
        for path in names:
            write_heat_map(os.fspath(path), quantities, f"{type}: the error of every tensor")
    return names


def _of(files: Sequence[Measured], text: str, name: str) -> Points:
    """A figure of the divergences over bits per weight. Files that are equal to another one are left out, and those
    that are as good as the base: logarithms are drawn."""
    found: Points = {}
    for file in ours(files):
        kld = file.kld(text) or {}
        if kld.get("kld_mean") and kld.get(name) is not None and not file.file["same_as"]:
            found[file.type, file.imatrix] = file.bits, kld[name]
    return found


def _scattered(axes: Any, points: Points) -> None:
    """Points of files, filled where they have an importance matrix, with a line from those that have none."""
    for (type, imatrix), place in points.items():
        colour = colour_of(type)
        fill = "white" if imatrix is None else colour
        axes.plot(*place, "o", ms=5.5, mec=colour, mfc=fill, mew=1.1, zorder=3)
        without = points.get((type, None))
        if imatrix is not None and without is not None:
            axes.plot(*zip(without, place, strict=True), "-", color=colour, lw=0.7, alpha=0.6, zorder=2)


def _key(axes: Any, points: Points, where: str = "upper right") -> None:
    """Families by colour, importance by filling."""
    from matplotlib.lines import Line2D

    used = {plots.family(type) for type, _ in points}
    point: dict[str, Any] = dict(ls="", marker="o", ms=5.5, mew=1.1)
    families = {name: colour for name, colour in plots.FAMILIES.items() if name in used}
    keys = [Line2D([], [], **point, color=colour, label=name) for name, colour in families.items()]
    keys += [Line2D([], [], **point, mec="gray", mfc="gray", label="with imatrix")]
    keys += [Line2D([], [], **point, mec="gray", mfc="white", label="without")]
    axes.legend(handles=keys, fontsize=8, loc=where)


def _others(points: Points) -> list[plots.Place]:
    """Where no label should stand: all points, and the lines between them, whose axes are logarithmic."""
    found = list(points.values())
    for (type, imatrix), (x, y) in points.items():
        if imatrix is not None and (type, None) in points:
            a, b = points[type, None]
            found += [(a ** (1 - t) * x**t, b ** (1 - t) * y**t) for t in np.linspace(0, 1, 12)[1:-1].tolist()]
    return found


def _labels(points: Points) -> list[tuple[float, float, str, str]]:
    """One for each type: at the point with an importance matrix, where there is one."""
    chosen: dict[str, tuple[float, float]] = {}
    for (type, imatrix), place in points.items():
        if imatrix is not None or type not in chosen:
            chosen[type] = place
    return [(x, y, type, colour_of(type)) for type, (x, y) in chosen.items()]


def _bits_axis(axes: Any, points: Points) -> None:
    bits = [x for x, _ in points.values()]
    ticks = [tick for tick in BITS if 0.8 * min(bits) <= tick <= 1.2 * max(bits)]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(0.93 * min(bits), 1.09 * max(bits))
    axes.set_xlabel("bits per weight, of all tensors")

"""Heat maps of tensors, one for each quantity: layers from left to right, the parts of a layer from top to bottom."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import printable
from gguf_jax.quantization.compare import TensorDifference, place_of

SUFFIXES = (".png", ".svg", ".pdf")

ABREAST = 16
"""Layers up to which maps stand beside one another; with more they stand below one another."""


@dataclass(frozen=True)
class Quantity:
    """What a map shows: a label for its colours, and values by tensor name. Only positive ones have a colour, since the
    scale is logarithmic; the others stay white."""

    label: str
    values: Mapping[str, float]


def relative_errors(tensors: Iterable[TensorDifference]) -> Quantity:
    """The relative error of every tensor that has one."""
    known = {t.name: t.error.relative_rmse for t in tensors if t.error.relative_rmse is not None}
    return Quantity("relative RMS error", known)


def check_plot_path(path: str) -> None:
    """Refuses a path that no plot can be written to, before hours of work."""
    if not path.lower().endswith(SUFFIXES):
        raise GGUFJaxError(f"plot {printable(path)}: expected a name that ends in {', '.join(SUFFIXES)}")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise GGUFJaxError(f"plot {printable(path)}: expected a folder that exists")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise GGUFJaxError("plot: expected matplotlib, which the extra gguf_jax[experiments] installs") from None


def grids_of(quantities: Sequence[Quantity]) -> tuple[list[str], list[str], np.ndarray]:
    """Parts, layers (as labels, "-" for what is outside) and values `[quantities, parts, layers]`; NaN where there is
    no such tensor or its value is not positive. Parts without a positive value anywhere are left out."""
    found = {
        (i, *place_of(name)): value
        for i, quantity in enumerate(quantities)
        for name, value in quantity.values.items()
        if value > 0
    }
    parts = list(dict.fromkeys(part for _, _, part in found))
    layers = sorted({layer for _, layer, _ in found}, key=lambda layer: -1 if layer is None else layer)
    values = np.full((len(quantities), len(parts), len(layers)), np.nan)
    for (i, layer, part), value in found.items():
        values[i, parts.index(part), layers.index(layer)] = value
    return parts, ["-" if layer is None else str(layer) for layer in layers], values


def write_heat_map(path: str, quantities: Sequence[Quantity], title: str) -> None:
    """Draw a map of each quantity; all have the same rows and columns.

    Raises:
        GGUFJaxError: a quantity has no positive value, or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    parts, layers, values = grids_of(quantities)
    for quantity, grid in zip(quantities, values, strict=True):
        if np.isnan(grid).all():
            raise GGUFJaxError(f"plot {printable(path)}: expected tensors that differ, found no {quantity.label}")
    count = len(quantities)
    rows, columns = (1, count) if len(layers) <= ABREAST else (count, 1)
    width, height = max(5, 2.8 + 0.32 * len(layers)), max(2.4, 1.6 + 0.3 * len(parts))
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    FigureCanvasAgg(figure)
    each = figure.subplots(rows, columns, squeeze=False).flat
    for axes, quantity, grid in zip(each, quantities, values, strict=True):
        norm = LogNorm(np.nanmin(grid) * 0.98, np.nanmax(grid) * 1.02)
        image = axes.imshow(grid, aspect="auto", norm=norm, cmap="viridis")
        axes.set_xticks(range(len(layers)), layers, fontsize=7)
        axes.set_yticks(range(len(parts)), [part.removesuffix(".weight") for part in parts], fontsize=8)
        axes.set_xlabel("layer", fontsize=8)
        bar = figure.colorbar(image, ax=axes)
        bar.set_label(quantity.label, fontsize=8)
        bar.ax.tick_params(which="both", labelsize=7)
    figure.suptitle(title, fontsize=9)
    try:
        figure.savefig(path, dpi=140)
    except OSError as error:
        raise GGUFJaxError(f"plot {printable(path)}: cannot be written: {error.strerror or error}") from error

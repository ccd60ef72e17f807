"""A heat map of tensors' errors: layers from left to right, the parts of a layer from top to bottom."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import printable
from gguf_jax.quantization.compare import TensorDifference

SUFFIXES = (".png", ".svg", ".pdf")


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


def grid_of(tensors: Sequence[TensorDifference]) -> tuple[list[str], list[str], np.ndarray]:
    """Parts, layers (as labels, "-" for what is outside) and relative errors `[parts, layers]`; NaN where there is no
    such tensor or nothing to be relative to. Tensors without an error anywhere are left out."""
    known = [t for t in tensors if t.error.relative_rmse is not None]
    parts = [
        part for part in dict.fromkeys(t.part for t in known) if any(t.part == part and t.error.rmse for t in known)
    ]
    layers = sorted({t.layer for t in known if t.part in parts}, key=lambda layer: -1 if layer is None else layer)
    values = np.full((len(parts), len(layers)), np.nan)
    for t in known:
        if t.part in parts and t.error.relative_rmse:
            values[parts.index(t.part), layers.index(t.layer)] = t.error.relative_rmse
    return parts, ["-" if layer is None else str(layer) for layer in layers], values


def write_heat_map(path: str, tensors: Sequence[TensorDifference], title: str) -> None:
    """
    Raises:
        GGUFJaxError: there is no error to show, or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    parts, layers, values = grid_of(tensors)
    if not parts:
        raise GGUFJaxError(f"plot {printable(path)}: expected tensors that differ, found none")
    figure = Figure(figsize=(max(5, 2.8 + 0.32 * len(layers)), max(2.4, 1.6 + 0.3 * len(parts))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    low, high = np.nanmin(values), np.nanmax(values)
    norm = LogNorm(low * 0.98, high * 1.02)
    image = axes.imshow(values, aspect="auto", norm=norm, cmap="viridis")
    axes.set_xticks(range(len(layers)), layers, fontsize=7)
    axes.set_yticks(range(len(parts)), [part.removesuffix(".weight") for part in parts], fontsize=8)
    axes.set_xlabel("layer")
    axes.set_title(title, fontsize=9)
    figure.colorbar(image, ax=axes, label="relative RMS error")
    try:
        figure.savefig(path, dpi=140)
    except OSError as error:
        raise GGUFJaxError(f"plot {printable(path)}: cannot be written: {error.strerror or error}") from error

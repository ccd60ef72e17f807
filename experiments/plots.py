"""What the plots share: figures without a window, colours of families of types, PNG and SVG."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.experiment import written
from gguf_jax.errors import GGUFJaxError

# Colours that people who see few can tell apart (Okabe and Ito).
FAMILIES = {
    "floats": "#000000",
    "legacy": "#E69F00",
    "K": "#0072B2",
    "IQ": "#009E73",
    "ternary, binary": "#CC79A7",
    "FP4": "#D55E00",
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

BESIDE = ((7, 0), (-7, 0), (0, 9), (0, -9), (7, 8), (-7, 8), (7, -8), (-7, -8), (16, 12), (-16, 12), (16, -12),
          (-16, -12), (22, 0), (-22, 0), (0, 20), (0, -20), (28, 18), (-28, 18), (28, -18), (-28, -18))  # fmt: skip
"""Where a label may stand beside its point, in points, the best places first."""


def family(type: str) -> str:
    """Of a file type, by its name."""
    if type.startswith("IQ"):
        return "IQ"
    if type.startswith(("TQ", "Q1_", "Q2_0")):
        return "ternary, binary"
    if type.startswith(("MXFP4", "NVFP4")):
        return "FP4"
    return "floats" if type in ("F32", "F16", "BF16") else "K" if "_K" in type else "legacy"


def new_figure(width: float, height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure and its axes, without the state that pyplot keeps.

    Raises:
        GGUFJaxError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise GGUFJaxError("plot: expected matplotlib, which the extra gguf_jax[experiments] installs") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **options)


@contextmanager
def reproducible() -> Iterator[None]:
    """Within, the same plot is the same file: an SVG has the same ids and the same date each time."""
    import matplotlib

    before = os.environ.get("SOURCE_DATE_EPOCH")
    os.environ["SOURCE_DATE_EPOCH"] = "0"
    try:
        with matplotlib.rc_context({"svg.hashsalt": "experiments", "svg.fonttype": "none"}):
            yield
    finally:
        del os.environ["SOURCE_DATE_EPOCH"]
        if before is not None:
            os.environ["SOURCE_DATE_EPOCH"] = before


def named(folder: Path, name: str) -> list[Path]:
    """The files of a plot."""
    return [folder / f"{name}.png", folder / f"{name}.svg"]


def save(figure: Any, folder: Path, name: str) -> list[Path]:
    """Write a figure; its files."""
    files = named(folder, name)
    with reproducible():
        for path in files:
            with written(path):
                figure.savefig(path, dpi=130)
    return files


def label_points(axes: Any, points: Sequence[tuple[float, float, str, str]], size: float = 7) -> None:
    """Write `(x, y, text, colour)` beside each point, where no other label and no point is. The axes' limits and scales
    must be final."""
    figure = axes.figure
    figure.canvas.draw()  # a constrained layout gives the axes their place when it draws
    renderer = figure.canvas.get_renderer()
    places = [axes.transData.transform((x, y)) for x, y, _, _ in points]
    taken = [_around(float(x), float(y), 4 * figure.dpi / 72) for x, y in places]
    frame = axes.get_window_extent(renderer)
    for x, y, text, colour in points:
        best = None
        for dx, dy in BESIDE:
            placed = axes.annotate(
                text,
                (x, y),
                xytext=(dx, dy),
                textcoords="offset points",
                fontsize=size,
                color=colour,
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                va="bottom" if dy > 0 else "top" if dy < 0 else "center",
                arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4} if abs(dx) + abs(dy) > 17 else None,
            )
            box = placed.get_window_extent(renderer)
            box = (box.x0, box.y0, box.x1, box.y1)
            covered = sum(_common(box, other) for other in taken) + _outside(box, frame)
            if best is None or covered < best[0]:
                if best is not None:
                    best[1].remove()
                best = covered, placed, box
            else:
                placed.remove()
            if covered == 0:
                break
        assert best is not None
        taken.append(best[2])


Box = tuple[float, float, float, float]


def _around(x: float, y: float, r: float) -> Box:
    return x - r, y - r, x + r, y + r


def _common(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _outside(box: Box, frame: Any) -> float:
    area = (box[2] - box[0]) * (box[3] - box[1])
    return area - _common(box, (frame.x0, frame.y0, frame.x1, frame.y1))

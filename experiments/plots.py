"""What the plots share: figures without a window, colours of families of types, PNG and SVG."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from experiments.results import written
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

NEAR, FAR = 7, (16, 24, 34, 46)
AROUND = ((1, 0.6), (-1, -0.6), (-1, 0.6), (1, -0.6), (0, 1), (0, -1), (1, 0), (-1, 0))
BESIDE = (
    *((NEAR, 0), (-NEAR, 0), (0, NEAR), (0, -NEAR), (NEAR, 5), (-NEAR, 5), (NEAR, -5), (-NEAR, -5)),
    *((dx * r, dy * r) for r in FAR for dx, dy in AROUND),
)
"""Where a label may stand beside its point, in points, the best places first."""

Place = tuple[float, float]
Point = tuple[float, float, str, str]
Box = tuple[float, float, float, float]


def family(type: str) -> str:
    """Of a file type, by its name."""
    if type.startswith("IQ"):
        return "IQ"
    if type.startswith(("TQ", "Q1_", "Q2_0")):
        return "ternary, binary"
    if type.startswith(("MXFP4", "NVFP4")):
        return "FP4"
    return "floats" if type in ("F32", "F16", "BF16") else "K" if "_K" in type else "legacy"


def check_installed() -> None:
    """Refuses to go on without matplotlib, before hours of work."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise GGUFJaxError("plot: expected matplotlib, which the extra gguf_jax[experiments] installs") from None


def new_figure(width: float, height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure and its axes, without the state that pyplot keeps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

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


def label_points(
    axes: Any, points: Sequence[Point], *, others: Sequence[Place] = (), radius: float = 3, size: float = 7
) -> None:
    """Write `(x, y, text, colour)` beside each point, where no other label is, none of the points and none of the
    `others`, which are drawn with that radius. The axes' limits and scales must be final."""
    figure = axes.figure
    figure.canvas.draw()  # a constrained layout gives the axes their place when it draws
    figure.set_layout_engine("none")  # and would give them another one
    renderer = figure.canvas.get_renderer()
    places = [axes.transData.transform(place) for place in (*((x, y) for x, y, _, _ in points), *others)]
    unit = figure.dpi / 72  # pixels to a point
    taken = [_around(float(x), float(y), radius * unit) for x, y in places]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(_box(legend.get_window_extent(renderer)))
    frame = _box(axes.get_window_extent(renderer))
    for (x, y, text, colour), place in zip(points, places, strict=False):
        measured = axes.text(0, 0, text, fontsize=size)
        extent = measured.get_window_extent(renderer)
        measured.remove()
        best = None
        for dx, dy in BESIDE:
            corner = place[0] + dx * unit, place[1] + dy * unit
            box = _aligned(corner, extent.width + 2, extent.height + 2, np.sign(dx), np.sign(dy))
            covered = sum(_common(box, other) for other in taken) + _area(box) - _common(box, frame)
            if best is None or covered < best[0]:
                best = covered, dx, dy, box
            if covered == 0:
                break
        assert best is not None
        _, dx, dy, box = best
        taken.append(box)
        far = abs(dx) + abs(dy) > 2 * NEAR
        across = "left" if dx > 0 else "right" if dx < 0 else "center"
        up = "bottom" if dy > 0 else "top" if dy < 0 else "center"
        line = {"arrowstyle": "-", "color": colour, "lw": 0.4, "shrinkA": 0, "shrinkB": 2} if far else None
        options: dict[str, Any] = dict(fontsize=size, color=colour, ha=across, va=up, arrowprops=line)
        axes.annotate(text, (x, y), xytext=(dx, dy), textcoords="offset points", **options)


def _aligned(place: Sequence[float], width: float, height: float, across: float, up: float) -> Box:
    """A text's box: to the right of a place (1), to the left (-1) or in the middle (0), and as well above and below."""
    x, y = place[0] + (across - 1) / 2 * width, place[1] + (up - 1) / 2 * height
    return x, y, x + width, y + height


def _box(extent: Any) -> Box:
    return extent.x0, extent.y0, extent.x1, extent.y1


def _around(x: float, y: float, r: float) -> Box:
    return x - r, y - r, x + r, y + r


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _common(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0

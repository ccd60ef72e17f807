"""View "calibration": which text importance matrices are best made of, and how much of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import plots
from experiments.models.found import Measured, average, change, measured, measured_on, ours
from experiments.models.settings import Calibration, Settings
from experiments.results import Row
from experiments.tables import markdown, number, write_table


@dataclass(frozen=True)
class Group:
    """Files of one type whose importance matrices are of one text and length, drawn by several seeds."""

    text: str | None
    chunks: int | None
    files: tuple[Measured, ...]

    @property
    def name(self) -> str:
        length = "all of it" if self.chunks is None else f"{self.chunks} chunks"
        return "none" if self.text is None else f"{self.text}: {length}"

    def divergences(self, text: str) -> list[float]:
        """Of each file."""
        return [found["kld_mean"] for file in self.files if (found := file.kld(text))]


def report(settings: Settings, rows: Sequence[Row], folder: Path) -> list[Path]:
    groups = {type: groups_of(settings, measured(rows), type) for type in settings.types}
    groups = {type: found for type, found in groups.items() if found}
    tables = [measured_on(settings, rows), *(table(groups, text) for text in settings.measured)]
    tables += [against_none(groups, settings.measured), own_text(settings, groups)]
    return [write_table(folder, "\n".join(each for each in tables if each)), *plot(settings, groups, folder)]


def groups_of(settings: Settings, files: Sequence[Measured], type: str) -> list[Group]:
    """In the config's order, files without an importance matrix first."""
    found: dict[tuple[str | None, int | None], list[Measured]] = {}
    for file in ours(files):
        if file.type == type:
            found.setdefault(_made(settings, file.imatrix), []).append(file)
    return [Group(text, chunks, tuple(own)) for (text, chunks), own in found.items()]


def _made(settings: Settings, imatrix: str | None) -> tuple[str | None, int | None]:
    made = settings.imatrices.get(imatrix) if imatrix is not None else None
    return (made.text, made.chunks) if isinstance(made, Calibration) else (imatrix, None)


def table(groups: dict[str, list[Group]], text: str) -> str:
    """Mean divergences of each importance matrix and type, with the half of how far the draws are apart."""
    names = list(dict.fromkeys(group.name for found in groups.values() for group in found))
    lines = [[name, *(_cell(found, name, text) for found in groups.values())] for name in names]
    return f"Mean KLD on {text}, 1e-3 nats:\n\n{markdown(['imatrix', *groups], lines)}"


def _cell(groups: Sequence[Group], name: str, text: str) -> str:
    found = [value for group in groups if group.name == name for value in group.divergences(text)]
    if not found:
        return ""
    spread = 1e3 * (max(found) - min(found)) / 2
    return number(1e3 * float(np.mean(found))) + (f" ± {spread:.2g}" if len(found) > 1 else "")


def against_none(groups: dict[str, list[Group]], texts: Sequence[str]) -> str:
    """What an importance matrix changes, in standard errors of the windows' differences too."""
    lines = []
    for type, found in groups.items():
        none = next((group.files[0] for group in found if group.text is None), None)
        for group in found:
            cells = [_change(group, none, text) for text in texts] if none and group.text is not None else []
            if any(cells):
                lines.append([type, group.name, *cells])
    if not lines:
        return ""
    told = "Divergence beside that without an importance matrix, and by how many standard errors it differs:"
    return f"{told}\n\n{markdown(['type', 'imatrix', *texts], lines, left=2)}"


def _change(group: Group, none: Measured, text: str) -> str:
    base = none.kld(text)
    found = [each for file in group.files if (each := file.kld(text))]
    return change(found, [base]) if found and base else ""


def own_text(settings: Settings, groups: dict[str, list[Group]]) -> str:
    """For each length: the text whose importance matrices cost least, and by how much the others cost more."""
    lines = []
    for type, found in groups.items():
        for chunks in dict.fromkeys(group.chunks for group in found if group.text is not None):
            for text in settings.measured:
                known = {
                    group.text: [each for file in group.files if (each := file.kld(text))]
                    for group in found
                    if group.text is not None and group.chunks == chunks
                }
                known = {name: klds for name, klds in known.items() if klds}
                if len(known) < 2:
                    continue
                best, *others = sorted(known, key=lambda name: average(known[name])["kld_mean"])
                more = ", ".join(f"{name} {change(known[name], known[best])}" for name in others)
                lines.append([type, "all" if chunks is None else str(chunks), text, str(best), more])
    if not lines:
        return ""
    headings = ["type", "chunks", "measured on", "best", "the others, beside it (standard errors)"]
    return f"Which text is best:\n\n{markdown(headings, lines, left=5)}"


def plot(settings: Settings, groups: dict[str, list[Group]], folder: Path) -> list[Path]:
    """A panel for each type and text: divergence over the length of the calibrating text."""
    texts = list(dict.fromkeys(group.text for found in groups.values() for group in found if group.text is not None))
    lengths = sorted({group.chunks for found in groups.values() for group in found if group.chunks is not None})
    if not texts or not lengths:
        return []
    columns, rows = len(groups), len(settings.measured)
    size = 3.1 * columns + 0.8, 2.9 * rows + 0.9
    figure, each = plots.new_figure(*size, columns=columns, rows=rows, squeeze=False, sharex=True)
    for column, (type, found) in enumerate(groups.items()):
        for row, text in enumerate(settings.measured):
            axes = each[row][column]
            for name, colour in zip(texts, plots.COLOURS, strict=False):
                _line(axes, [group for group in found if group.text == name], text, colour, name)
            none = [value for group in found if group.text is None for value in group.divergences(text)]
            for value in none:
                axes.axhline(1e3 * value, color="black", ls="--", lw=1, label="no imatrix")
            axes.set_xscale("log", base=2)
            axes.set_xlim(min(lengths) / 1.6, max(lengths) * 1.6)
            axes.set_xticks(lengths, [str(length) for length in lengths])
            axes.set_xticks([], minor=True)
            axes.grid(True, alpha=0.25)
            axes.set_title(f"{type}, measured on {text}", fontsize=9)
            if row == rows - 1:
                axes.set_xlabel(f"chunks of {settings.ctx_size} tokens")
            if column == 0:
                axes.set_ylabel("mean KLD, 1e-3 nats a token")
    keys: dict[str, Any] = {}
    for axes in each.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            keys.setdefault(label, handle)
    figure.legend(keys.values(), keys.keys(), loc="outside lower center", ncols=len(keys), fontsize=9)
    figure.suptitle("The text of an importance matrix: a point for each draw, a line through their means")
    return plots.save(figure, folder, "calibration")


def _line(axes: Any, groups: Sequence[Group], text: str, colour: str, name: str) -> None:
    known = [(group.chunks, group.divergences(text)) for group in groups if group.chunks is not None]
    known = sorted((chunks, values) for chunks, values in known if values)
    if not known:
        return
    means = [1e3 * float(np.mean(values)) for _, values in known]
    axes.plot([chunks for chunks, _ in known], means, "-", color=colour, lw=1.3, label=name)
    for chunks, values in known:
        axes.plot([chunks] * len(values), [1e3 * value for value in values], "o", ms=4, color=colour)

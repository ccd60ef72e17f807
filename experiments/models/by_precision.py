"""View "precision": what rounded activations cost beside what rounded weights cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments import plots
from experiments.models.found import Measured, measured, measured_on, ours, paired
from experiments.models.settings import Settings
from experiments.results import Row
from experiments.tables import fixed, markdown, number, write_table

HEADINGS = ("type", "imatrix", "bits per weight", "exact", "fast", "fast - exact", "±", "fast from exact",
            "PPL, exact", "PPL, fast", "same top, exact, %", "fast, %")  # fmt: skip

SERIES = {
    ("exact", "base"): ("weights: exact, from the base", "o", plots.COLOURS[0]),
    ("fast", "base"): ("weights and activations: fast, from the base", "s", plots.COLOURS[1]),
    ("fast", "itself"): ("activations: fast, from the exact one of itself", "^", plots.COLOURS[2]),
}
"""Precision and what it is measured against -> how it is shown."""


def report(settings: Settings, rows: Sequence[Row], folder: Path) -> list[Path]:
    files = sorted(ours(measured(rows)), key=lambda file: -file.bits)
    tables = [f"Text: {text}.\n\n{table(files, text)}" for text in settings.measured]
    head = measured_on(settings, rows) + "Divergences are means in 1e-3 nats a token.\n"
    written = [write_table(folder, "\n".join([head, *tables]))]
    for text in settings.measured:
        written += plot(files, text, folder, "precision" if len(settings.measured) == 1 else f"precision_{text}")
    return written


def table(files: Sequence[Measured], text: str) -> str:
    lines = []
    for file in files:
        exact, fast = (file.kld(text, precision) for precision in ("exact", "fast"))
        itself = file.kld(text, "fast", "itself")
        more = paired(fast, exact) if exact and fast else (None, None)
        figures = [None if each is None else 1e3 * each["kld_mean"] for each in (exact, fast)]
        lines.append([
            file.type, file.imatrix or "none", fixed(file.bits, 3), *map(number, figures),
            *(number(None if each is None else 1e3 * each, 2) for each in more),
            number(None if itself is None else 1e3 * itself["kld_mean"]),
            *(fixed((each or {}).get("perplexity"), 3) for each in (exact, fast)),
            *(fixed(None if each is None else 100 * each["same_top"], 2) for each in (exact, fast)),
        ])  # fmt: skip
    return markdown(HEADINGS, lines, left=2)


def plot(files: Sequence[Measured], text: str, folder: Path, name: str) -> list[Path]:
    files = [file for file in files if any(kld["kld_mean"] for (on, _, _), kld in file.klds.items() if on == text)]
    if not files:
        return []
    figure, axes = plots.new_figure(9.5, 5.5)
    for (precision, against), (label, marker, colour) in SERIES.items():
        found = [(i, file.kld(text, precision, against)) for i, file in enumerate(files)]
        known = [(i, kld["kld_mean"], kld["kld_mean_stderr"]) for i, kld in found if kld and kld["kld_mean"] > 0]
        if known:
            x, y, error = zip(*known, strict=True)
            axes.errorbar(x, y, error, fmt=marker, ms=6, color=colour, mec=colour, mfc="white", capsize=2, label=label)
    axes.set_yscale("log")
    axes.set_xlim(-0.5, len(files) - 0.5)
    axes.set_xticks(range(len(files)), [f"{file.type}\n{file.bits:.3g}" for file in files], fontsize=8)
    axes.set_xlabel("file type, and its bits per weight")
    axes.set_ylabel("mean KL divergence, nats a token")
    axes.set_title(f"Activations rounded to int8 beside rounded weights: divergence on {text}")
    axes.grid(True, which="both", axis="y", alpha=0.25)
    axes.legend(fontsize=8)
    return plots.save(figure, folder, name)

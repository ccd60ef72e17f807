"""View "types": what each file type costs, with and without an importance matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.models.found import Measured, change, measured, measured_on, ours, paired
from experiments.models.settings import Settings
from experiments.models.type_plots import divergence_plot, error_plot, heat_map, perplexity_plot, surrogate_plot
from experiments.results import Row
from experiments.tables import fixed, markdown, number, write_table

CERTAIN = 3.0
"""Standard errors from which a difference is said to be one."""

HEADINGS = ("type", "imatrix", "MB", "bits per weight", "mean KLD", "±", "by the imatrix", "99 % KLD", "PPL",
            "same top, %", "relative error, %", "weighted error, 1e-3", "the same bytes as")  # fmt: skip


def report(settings: Settings, rows: Sequence[Row], folder: Path) -> list[Path]:
    files = measured(rows)
    texts = [table(settings, rows, files, text) for text in settings.measured]
    written = [write_table(folder, "\n".join(texts))]
    for text in settings.measured:
        more = "" if len(settings.measured) == 1 else f"_{text}"
        written += divergence_plot(files, text, folder, f"kld{more}")
        written += perplexity_plot(files, text, folder, f"perplexity{more}")
        written += surrogate_plot(files, text, folder, f"surrogate{more}")
    written += error_plot(files, folder)
    for type in settings.heat_maps:
        written += heat_map(files, type, folder)
    return written


def table(settings: Settings, rows: Sequence[Row], files: Sequence[Measured], text: str) -> str:
    lines = []
    for file in sorted(files, key=lambda file: file.bits):
        kld = file.kld(text) or {}
        scaled = file.file["weighted_rmse"]
        lines.append([
            file.type, file.imatrix or "none", fixed(file.file["bytes"] / 1e6, 2), fixed(file.bits, 3),
            number(kld.get("kld_mean")), number(kld.get("kld_mean_stderr"), 2),
            _by_imatrix(file, files, text), number(kld.get("kld_p99")),
            fixed(kld.get("perplexity"), 3), fixed(_percent(kld.get("same_top")), 2),
            number(_percent(file.file["relative_rmse"])), number(None if scaled is None else 1e3 * scaled),
            file.file["same_as"] or "",
        ])  # fmt: skip
    base = next((found["base_perplexity"] for file in files if (found := file.kld(text))), None)
    head = f"{measured_on(settings, rows)}Text: {text}; PPL of the base {fixed(base, 3)}. "
    head += "In brackets: standard errors, from the differences of windows.\n\n"
    return head + markdown(HEADINGS, lines, left=2) + _inversions(files, text)


def _by_imatrix(file: Measured, files: Sequence[Measured], text: str) -> str:
    """What an importance matrix changes about the divergence."""
    without = next((each for each in files if (each.type, each.imatrix) == (file.type, None)), file)
    found, base = file.kld(text), without.kld(text)
    return "" if found is None or base is None or without is file or file.file["same_as"] else change([found], [base])


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def inversions(files: Sequence[Measured], text: str) -> Iterator[tuple[Measured, Measured, float]]:
    """Pairs of files of which the first has the smaller error of tensors and yet, with certainty, the greater
    divergence; and how many times."""
    known = [file for file in ours(files) if file.kld(text) and file.file["relative_rmse"] and not file.file["same_as"]]
    for a in known:
        for b in known:
            if a.file["relative_rmse"] < b.file["relative_rmse"]:
                first, second = a.klds[text, "exact", "base"], b.klds[text, "exact", "base"]
                difference, error = paired(first, second)
                if difference > CERTAIN * error and second["kld_mean"] > 0:
                    yield a, b, first["kld_mean"] / second["kld_mean"]


def _inversions(files: Sequence[Measured], text: str, most: int = 8) -> str:
    found = sorted(inversions(files, text), key=lambda pair: -pair[2])
    if not found:
        return ""
    known = sum(1 for file in ours(files) if file.file["relative_rmse"] and not file.file["same_as"])
    lines = [
        [_named(a), _named(b), number(_percent(a.file["relative_rmse"])), number(_percent(b.file["relative_rmse"])),
         number(a.klds[text, "exact", "base"]["kld_mean"]), number(b.klds[text, "exact", "base"]["kld_mean"]),
         fixed(times, 2)]
        for a, b, times in found[:most]
    ]  # fmt: skip
    headings = ["A", "B", "error of A, %", "of B, %", "KLD of A", "of B", "A by B"]
    pairs = known * (known - 1) // 2
    told = f"In {len(found)} of {pairs} pairs A has the smaller error of tensors and yet, by more than {CERTAIN:g} "
    told += "standard errors, the greater divergence; the most unequal ones:"
    return f"\n{told}\n\n{markdown(headings, lines, left=2)}"


def _named(file: Measured) -> str:
    return f"{file.type} ({file.imatrix or 'no imatrix'})"

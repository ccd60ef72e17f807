"""Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.results import written


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table whose first `left` columns are texts and whose others are numbers, set to the right."""
    rule = ["---"] * left + ["--:"] * (len(headings) - left)
    return "".join("| " + " | ".join(row) + " |\n" for row in (headings, rule, *rows))


def number(value: float | None, digits: int = 4) -> str:
    """So many significant digits; nothing for what there is not."""
    return "" if value is None else f"{value:#.{digits}g}".rstrip(".") if value else "0"


def fixed(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def write_table(folder: Path, text: str) -> Path:
    path = folder / "table.md"
    with written(path):
        path.write_text(text, "utf-8")
    return path

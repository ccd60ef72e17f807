"""Metadata as texts, the way llama.cpp writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def metadata_texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Every value as a text, without arrays: `true`, `32`, `10000.000000`."""
    return {key: _text(value) for key, value in metadata.items() if isinstance(value, (str, bool, int, float))}


def _text(value: str | bool | int | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6f}" if isinstance(value, float) else str(value)

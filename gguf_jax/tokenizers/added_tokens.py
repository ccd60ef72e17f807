"""Tokens that are found in a text as they are written, before anything else is done with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ASCII_SPACE = " \t\n\v\f\r"


@dataclass(frozen=True)
class Added:
    """A token that is recognised by its text."""

    text: str
    id: int
    strip_after: bool = False  # white space after it is dropped


def split_added(text: str, added: Sequence[Added]) -> list[str | int]:
    """`text` as stretches without added tokens (never empty) and the ids of the added tokens between them.

    The tokens are looked for in the order given, each in what those before it left: llama.cpp's meaning. That many
    plain searches are also quicker than one regular expression of thousands of alternatives.
    """
    parts: list[str | int] = [text] if text else []
    for token in added:
        if token.text not in text:
            continue
        found: list[str | int] = []
        for part in parts:
            if isinstance(part, int):
                found.append(part)
                continue
            for i, stretch in enumerate(part.split(token.text)):
                if i:
                    found.append(token.id)
                    if token.strip_after:
                        stretch = stretch.lstrip(ASCII_SPACE)
                if stretch:
                    found.append(stretch)
        parts = found
    return parts

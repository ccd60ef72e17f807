"""Text from a file as something that may be printed: in messages, and on a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def printable(text: str) -> str:
    """`text` with every character that is not printable (controls, escapes, bidirectional marks, lone surrogates)
    written as a Python escape, so that a hostile file cannot drive the terminal or break a message into lines."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def shown(value: object, limit: int = 80) -> str:
    """`repr` of a value from a file, of printable characters and cut to `limit`, for messages."""
    text = printable(repr(value[: limit + 1]) if isinstance(value, (str, bytes)) else repr(value))
    return text if len(text) <= limit else text[: limit - 3] + "..."


def listed(names: Sequence[str], limit: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(printable, names[:limit])) + more

"""Finding stop strings in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence

from gguf_jax.errors import GGUFJaxError


class StopFinder:
    """Watches a stream of text for the first of several stop strings.

    What `put` hands out can never be part of a stop string: the end of the text that may still grow into one is held
    back, at most `len(longest stop) - 1` characters. The match that is complete first wins, as it would if the text
    came one character at a time, and of those complete together the longest; neither it nor anything after it is
    handed out. So how the text is cut into pieces changes nothing. (The match that *begins* first was the other
    choice: with the stops "abcd" and "bc" it lets "abc" run on, and hands out a stop string when the text ends there.)

    Args:
        stops: the stop strings, none empty; with none of them the text passes through.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if isinstance(stops, str):
            raise GGUFJaxError(f"stop: expected a sequence of strings, found the string {stops!r}")
        for stop in stops:
            if not isinstance(stop, str) or not stop:
                raise GGUFJaxError(f"stop: expected strings of at least one character, found {stop!r}")
        self._stops = tuple(dict.fromkeys(stops))
        self._held = ""
        self.matched: str | None = None
        """The stop string that was found, or None."""

    def put(self, text: str) -> tuple[str, bool]:
        """Takes the next piece -> (text that is safe to hand out, whether a stop string has been found)."""
        if self.matched is not None:
            return "", True
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.matched = min(found)
            self._held = ""
            return text[:at], True
        longest = min(len(text), max(map(len, self._stops), default=1) - 1)
        ends = (text[len(text) - n :] for n in range(longest, 0, -1))
        self._held = next((end for end in ends if any(stop.startswith(end) for stop in self._stops)), "")
        return text[: len(text) - len(self._held)], False

    def flush(self) -> str:
        """The text still held back, once no more will come; empty after a match."""
        held, self._held = self._held, ""
        return held

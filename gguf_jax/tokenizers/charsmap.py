"""SentencePiece's normalizer: the longest texts that a table knows are replaced, from left to right.

`tokenizer.ggml.precompiled_charsmap` is the table: a little-endian uint32 with the size of what follows it, the units
of a Darts-clone double array (a trie over bytes, uint32 each), then the replacements, each ended by a zero byte. A unit
has its label in bits 0-7 and 31, "its text is a key" in bit 8, and the offset of its children in bits 10-30, in steps
of 256 where bit 9 is set; a child of unit u for byte c is `u ^ offset(u) ^ c`, and the one for c = 0 holds the value,
where the replacement begins.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

from gguf_jax.errors import GGUFJaxError

KEY = "tokenizer.ggml.precompiled_charsmap"
LONGEST = 64
"""Bytes of the longest text that is looked for: a malicious table goes in circles. Real ones have up to 36."""


class Charsmap:
    """A table of replacements, looked up where it lies: `charsmap(text)` is the text with all of them made.

    Raises:
        GGUFJaxError: the blob is no such table; what can only be seen on the way is raised by the call.
    """

    def __init__(self, blob: bytes) -> None:
        size = int.from_bytes(blob[:4], "little")
        if len(blob) < 8 or size % 4 or not 4 <= size < len(blob) - 4:
            raise GGUFJaxError(
                f"metadata key {KEY}: expected the size of a table, the table and texts, found {len(blob)} bytes, "
                f"of which {size} are to be the table"
            )
        self._units: list[int] = np.frombuffer(blob, "<u4", size // 4, 4).tolist()
        self._texts = blob[4 + size :]
        self._single = _OfOne(self)
        self._joins = lru_cache(1 << 16)(self._join)

    def __call__(self, text: str) -> str:
        # Few texts have two characters that begin a key of several; without those there is nothing to look for.
        if not any(self._joins(a, b) for a, b in set(pairwise(text))):
            return text.translate(self._single)
        made, at = [], 0
        while at < len(text):
            if at + 1 < len(text) and self._joins(text[at], text[at + 1]):
                length, replacement = self.longest(text[at : at + LONGEST])
                made.append(text[at] if replacement is None else replacement)
                at += max(1, length)
            else:
                made.append(text[at].translate(self._single))
                at += 1
        return "".join(made)

    def longest(self, text: str) -> tuple[int, str | None]:
        """The characters of the longest beginning of `text` that is a key, and what replaces it; 0 and None: there is
        none."""
        found, value, node = 0, None, 0
        for count, char in enumerate(text, 1):
            node = self._walk(node, char.encode())
            if node is None:
                break
            if self._units[node] >> 8 & 1:
                found, value = count, node ^ self._offset(node)
        return found, None if value is None else self._text(value)

    def _join(self, first: str, second: str) -> bool:
        """Whether a key may begin with these two characters."""
        node = self._walk(0, first.encode())
        return node is not None and self._walk(node, second.encode()) is not None

    def _walk(self, node: int, octets: bytes) -> int | None:
        for octet in octets:
            node ^= self._offset(node) ^ octet
            # a zero byte leads to a value, not to a node
            if not octet or node >= len(self._units) or self._units[node] & (1 << 31 | 0xFF) != octet:
                return None
        return node

    def _offset(self, node: int) -> int:
        unit = self._units[node]
        return (unit >> 10) << ((unit & 1 << 9) >> 6)

    def _text(self, node: int) -> str:
        begin = self._units[node] & (1 << 31) - 1 if node < len(self._units) else len(self._texts)
        end = self._texts.find(b"\0", begin)
        if end < 0:
            raise GGUFJaxError(
                f"metadata key {KEY}: expected a text that ends in the {len(self._texts)} bytes, found none at {begin}"
            )
        return self._texts[begin:end].decode("utf-8", "replace")


class _OfOne(dict[int, str]):
    """Code point -> replacement, for `str.translate`; filled as they are met."""

    def __init__(self, charsmap: Charsmap) -> None:
        self._charsmap = charsmap

    def __missing__(self, code: int) -> str:
        char = chr(code)
        replacement = self._charsmap.longest(char)[1]
        self[code] = char if replacement is None else replacement
        return self[code]

"""`tokenizer.ggml.model` "rwkv": at every byte of a text the longest token that stands there.

Tokens are bytes, which a file writes as Python would in a literal: `\\n`, `\\x80`, and a backslash before a backslash
or a quote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gguf_jax.tokenizers.backend import Encoder
from gguf_jax.tokenizers.vocabulary import TokenType, Vocabulary

ESCAPES = {"t": b"\t", "n": b"\n", "r": b"\r"}
ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)


class RWKV:
    """Greedy longest match over bytes."""

    special_ids: Mapping[str, int] = {}
    add_bos = False
    add_end = False
    end_role = "eos"
    add_space_prefix = False

    def __init__(self, metadata: Mapping[str, Any], vocabulary: Vocabulary):
        self.vocabulary = vocabulary

    def build(self, control: Sequence[int], unknown: int | None) -> Encoder:
        """Looks up slices of the text, the longest first, of the lengths that tokens with its first two bytes have."""
        apart = {*control, *self.vocabulary.of_type(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.UNUSED)}
        ids: dict[bytes, int] = {}
        lengths: dict[bytes, set[int]] = {}
        for i, text in enumerate(self.vocabulary.tokens):
            if i not in apart and (piece := unescaped(text)):
                ids.setdefault(piece, i)
                lengths.setdefault(piece[:2], set()).add(len(piece))
        longest_first = {begin: sorted(found, reverse=True) for begin, found in lengths.items()}
        none = [] if unknown is None else [unknown]

        def encode(texts: Sequence[str]) -> list[list[int]]:
            return [matches(text.encode()) for text in texts]

        def matches(text: bytes) -> list[int]:
            found: list[int] = []
            at = 0
            while at < len(text):
                for length in longest_first.get(text[at : at + 2], ()):
                    i = ids.get(text[at : at + length])
                    if i is not None:
                        break
                else:
                    length, i = 1, ids.get(text[at : at + 1])
                found.extend(none if i is None else (i,))
                at += length
            return found

        return encode

    def prepare(self, text: str, after_special: bool) -> str:
        """The text that the encoder gets for a stretch without special tokens."""
        return text

    def piece(self, text: str, kind: int) -> bytes:
        """The bytes that a token stands for."""
        return unescaped(text)


def unescaped(text: str) -> bytes:
    """The bytes that a token's text stands for."""
    made, at = [], 0
    for match in ESCAPE.finditer(text):
        code, char = match.groups()
        made.append(text[at : match.start()].encode("utf-8", "surrogateescape"))
        made.append(bytes([int(code, 16)]) if code else ESCAPES.get(char, char.encode("utf-8", "surrogateescape")))
        at = match.end()
    return b"".join((*made, text[at:].encode("utf-8", "surrogateescape")))

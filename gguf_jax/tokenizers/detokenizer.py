"""`Detokenizer`: text from token ids that arrive one at a time."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class Detokenizer:
    """Turns a stream of token ids into text, `Tokenizer.stream()` makes one.

    A character whose bytes are spread over tokens comes out whole, with the token that completes it. All that `put` and
    `flush` return, joined, is what `Tokenizer.decode` gives for the ids.
    """

    def __init__(self, piece: Callable[[int], bytes], drop_space: bool):
        """`piece` gives the bytes of a token; `drop_space` removes one space at the beginning."""
        self._piece = piece
        self._drop_space = drop_space
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def put(self, id: int) -> str:
        """The text that this token completes, which may be empty."""
        piece = self._piece(id)
        if self._drop_space and piece:
            self._drop_space = False
            piece = piece.removeprefix(b" ")
        return self._decoder.decode(piece)

    def flush(self) -> str:
        """What is left at the end: U+FFFD if the last character is not complete, else nothing."""
        return self._decoder.decode(b"", final=True)

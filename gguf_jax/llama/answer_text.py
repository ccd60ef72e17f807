"""`AnswerText`: the text of an answer as its tokens come, and what of it may be handed out."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from gguf_jax.generation.stop import StopFinder


class AnswerText:
    """Takes tokens; hands out text that can be no part of a stop string, token by token.

    A character whose bytes are spread over tokens belongs to the last of them; bytes that are no UTF-8 are left out.

    Args:
        piece: the bytes of the answer's next token.
        stops: texts that end the answer.
        drop_space: whether a space at the beginning is none of the answer's, but the tokenizer's.
    """

    def __init__(self, piece: Callable[[int], bytes], stops: Sequence[str], drop_space: bool) -> None:
        self._piece, self._drop_space = piece, drop_space
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._finder = StopFinder(stops)
        self._waiting: deque[tuple[int, str]] = deque()  # the number of a token and its text
        self._count = 0
        self._safe = 0  # characters of the waiting tokens that may be handed out
        self.text = ""
        """What has been found safe so far."""

    def put(self, token: int) -> bool:
        """Takes the next token. True: a stop string has been found, and the answer ends before it."""
        found = self._piece(token)
        if self._drop_space and found:
            self._drop_space = False
            found = found.removeprefix(b" ")
        text = self._decoder.decode(found)
        self._waiting.append((self._count, text))
        self._count += 1
        safe, stopped = self._finder.put(text)
        self._release(safe)
        return stopped

    def end(self) -> None:
        """No more tokens come."""
        self._release(self._finder.flush())

    def ready(self, ended: bool = False) -> Iterator[tuple[int, str]]:
        """The numbers of tokens whose text is safe, each with its text. `ended`: also the one that a stop string begins
        in, with what stands before it."""
        while self._waiting and len(self._waiting[0][1]) <= self._safe:
            number, text = self._waiting.popleft()
            self._safe -= len(text)
            yield number, text
        if ended and self._waiting and self._safe:
            number, text = self._waiting.popleft()
            rest, self._safe = self._safe, 0
            yield number, text[:rest]

    def _release(self, text: str) -> None:
        self.text += text
        self._safe += len(text)

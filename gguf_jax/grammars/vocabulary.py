"""A tokenizer as llguidance wants it: the bytes of every token, and which of them end an answer."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

from gguf_jax.errors import Unsupported
from gguf_jax.grammars.source import library


class Vocabulary(Protocol):
    """What grammars need of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eog_ids(self) -> frozenset[int]: ...
    def token_bytes(self, id: int) -> bytes: ...
    def is_text(self, id: int) -> bool: ...
    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]: ...


class _Wrapped:
    """Has the attributes that llguidance looks for."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Vocabulary) -> None:
        ids = range(tokenizer.vocab_size)
        self.bos_token_id = tokenizer.bos_id
        self.eos_token_id = min(tokenizer.eog_ids)
        self.tokens: Sequence[bytes] = [tokenizer.token_bytes(i) for i in ids]
        # A token that is no text may have the bytes of one: as a special token it is met by its id alone.
        self.special_token_ids = [i for i in ids if not tokenizer.is_text(i)]
        self._tokenizer = weakref.ref(tokenizer)

    def __call__(self, text: str | bytes) -> list[int]:
        """Tokens whose bytes are those of the text, as the tokenizer would have them in the midst of a text: what a
        grammar leaves no choice about is written in these."""
        raw = text.encode() if isinstance(text, str) else bytes(text)
        for before in ("", "\n"):  # many tokenizers begin a text with a space, which goes with the line
            ids = self._encoded(before + raw.decode("utf-8", "replace"))
            for start in range(min(len(ids), 4)):
                if b"".join(map(self.tokens.__getitem__, ids[start:])) == raw:
                    return ids[start:]
        return self._longest_first(raw)

    def _encoded(self, text: str) -> list[int]:
        tokenizer = self._tokenizer()
        return [] if tokenizer is None else tokenizer.encode(text, add_special=False)

    def _longest_first(self, raw: bytes) -> list[int]:
        ids, at = [], 0
        while at < len(raw):
            ends = range(min(len(raw), at + self._longest), at, -1)
            end = next((end for end in ends if raw[at:end] in self._ids), None)
            if end is None:  # no token has this byte
                return ids
            ids.append(self._ids[raw[at:end]])
            at = end
        return ids

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        special = set(self.special_token_ids)
        return {raw: i for i, raw in enumerate(self.tokens) if i not in special and raw}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._ids), default=1)


_made: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def vocabulary_of(tokenizer: Vocabulary) -> Any:
    """The `LLTokenizer` of a tokenizer, made once (half a second for 150,000 tokens). Raises Unsupported where no token
    ends an answer, without which no grammar could be left."""
    with _lock:
        if tokenizer not in _made:
            if not tokenizer.eog_ids:
                raise Unsupported("grammars: expected a tokenizer with a token that ends an answer, found none")
            _made[tokenizer] = library().LLTokenizer(_Wrapped(tokenizer), eos_token=sorted(tokenizer.eog_ids))
        return _made[tokenizer]

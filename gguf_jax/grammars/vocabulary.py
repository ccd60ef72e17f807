"""A tokenizer as llguidance wants it: the bytes of every token, and which of them end an answer."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
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

    def __call__(self, text: str | bytes) -> list[int]:
        raise AssertionError("tokens are wanted of text that an answer must have: see UNFORCED")


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

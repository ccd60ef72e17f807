"""`Vocabulary`: a file's tokens, their types, and the id of each text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import shown
from gguf_jax.tokenizers import fields

TOKENS = "tokenizer.ggml.tokens"
TYPES = "tokenizer.ggml.token_type"


class TokenType(IntEnum):
    """What a token is, as `tokenizer.ggml.token_type` numbers it."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of a file; `ids` is the inverse of `tokens`, without empty texts, which nothing can spell."""

    tokens: list[str]
    types: np.ndarray  # [vocab_size], values of TokenType
    ids: dict[str, int]

    def __len__(self) -> int:
        return len(self.tokens)

    def of_type(self, *types: TokenType) -> list[int]:
        """The ids of the tokens of these types, ascending."""
        return np.flatnonzero(np.isin(self.types, types)).tolist()

    def spellable(self) -> dict[str, int]:
        """`ids` without the texts whose bytes are no UTF-8: no text contains them, and the encoder cannot hold them."""
        try:
            "".join(self.ids).encode()
        except UnicodeEncodeError:
            return {text: i for text, i in self.ids.items() if is_unicode(text)}
        return dict(self.ids)


def is_unicode(text: str) -> bool:
    """Whether `text` has no lone surrogates (which stand for bytes that are no UTF-8)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """Reads and checks tokens and types."""
    tokens = fields.string_list(TOKENS, fields.string_array(metadata, TOKENS))
    if not tokens:
        raise GGUFJaxError(f"metadata key {TOKENS}: expected at least one token, found none")
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    ids.pop("", None)
    if len(ids) != len(tokens) - tokens.count(""):
        second = next(i for i in reversed(range(len(tokens))) if tokens[i] and tokens.index(tokens[i]) != i)
        text = tokens[second]
        raise GGUFJaxError(
            f"metadata key {TOKENS}: expected each text once, found {shown(text)} at {tokens.index(text)} and {second}"
        )
    types = fields.number_array(metadata, TYPES, len(tokens), "iu")
    if types is None:
        types = np.full(len(tokens), TokenType.NORMAL, np.int8)
    known = (types >= min(TokenType)) & (types <= max(TokenType))
    if not known.all():
        i = int(np.argmin(known))
        raise GGUFJaxError(f"metadata key {TYPES}[{i}]: expected a token type from 0 to 6, found {types[i]}")
    return Vocabulary(tokens, types.astype(np.int8), ids)

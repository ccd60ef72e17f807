"""`tokenizer.ggml.model` "t5": SentencePiece's Unigram, the way to cut a text into pieces whose scores sum highest.

Before that the text is normalized by the file's table (`charsmap`), and runs of spaces become one, if the file asks
for it. A character without a piece is the unknown token, one for several in a row, or, where the vocabulary has all 256
bytes as tokens, its bytes (SentencePiece's meaning; llama.cpp has no bytes here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models

from gguf_jax.errors import GGUFJaxError
from gguf_jax.tokenizers import charsmap, fields
from gguf_jax.tokenizers.backend import Encoder, encoder
from gguf_jax.tokenizers.sentencepiece_bpe import BYTES, SPACE, check_bytes, read_scores, sentencepiece_piece
from gguf_jax.tokenizers.vocabulary import TokenType, Vocabulary


class Unigram:
    """Unigram. A text that was normalized comes back so, with one space where several were."""

    special_ids: Mapping[str, int] = {"eos": 1, "unk": 2, "pad": 0}
    add_bos = False
    add_end = True
    end_role = "eos"

    def __init__(self, metadata: Mapping[str, Any], vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.scores = read_scores(metadata, vocabulary)
        check_bytes(vocabulary)

        def flag(name: str) -> bool:
            return fields.flag(metadata, f"tokenizer.ggml.{name}") or False

        self.add_space_prefix = flag("add_space_prefix")
        self.merges_spaces = flag("remove_extra_whitespaces")
        blob = fields.octets(metadata, charsmap.KEY)
        self.charsmap = charsmap.Charsmap(blob) if blob else None

    def build(self, control: Sequence[int], unknown: int | None) -> Encoder:
        """The Hugging Face tokenizer's: about 0.4 s for 250,000 tokens."""
        if unknown is None:
            raise GGUFJaxError(
                "metadata key tokenizer.ggml.unknown_token_id: expected a token id, which Unigram needs, found none"
            )
        types = self.vocabulary.types
        pieces = np.isin(types, (TokenType.NORMAL, TokenType.USER_DEFINED))
        pieces[[*control, unknown]] = False
        spellable = self.vocabulary.spellable()
        # The score of an unknown character lies below the lowest of all: what is no piece must not lower it, and user's
        # own tokens cost nothing.
        scores = np.where(pieces & (types == TokenType.NORMAL), self.scores.astype(np.float64), 0.0)
        # A prepared text has no spaces, so that this is what no text spells.
        texts = [
            text if piece and text in spellable else f" {i}"
            for i, (text, piece) in enumerate(zip(self.vocabulary.tokens, pieces.tolist(), strict=True))
        ]
        backend = tokenizers.Tokenizer(models.Unigram(list(zip(texts, scores.tolist(), strict=True)), unknown, False))
        octets = [self.vocabulary.ids.get(text, -1) for text in BYTES]
        if any(i < 0 or types[i] != TokenType.BYTE for i in octets):
            return encoder(backend)

        def finish(encoding: tokenizers.Encoding) -> list[int]:
            ids = encoding.ids
            if unknown not in ids:
                return ids
            spelled = zip(ids, encoding.tokens, strict=True)
            return [j for i, text in spelled for j in ((i,) if i != unknown else (octets[b] for b in text.encode()))]

        return encoder(backend, finish, texts_too=True)

    def prepare(self, text: str, after_special: bool) -> str:
        """The text that the encoder gets for a stretch without special tokens."""
        text = text if self.charsmap is None else self.charsmap(text)
        if self.merges_spaces:
            text = " ".join(word for word in text.split(" ") if word)
        if text and self.add_space_prefix:
            text = " " + text
        return text.replace(" ", SPACE)

    def piece(self, text: str, kind: int) -> bytes:
        """The bytes that a token stands for."""
        return sentencepiece_piece(text, kind)

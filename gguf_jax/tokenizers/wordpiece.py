"""`tokenizer.ggml.model` "bert": WordPiece, the longest known beginning of what is left of a word, again and again.

A file keeps the vocabulary with a mark before the pieces that begin a word (`▁`) where BERT marks those that do not
(`##`). Words are what BERT's normalizer and pre-tokenizer make of a text: without control characters, in lower case
and without accents unless the file says otherwise, punctuation and Chinese characters each a word. A word that pieces
do not make, or one of more than `LONGEST_WORD` characters, is the unknown token.

These are BERT's own ids. llama.cpp strips more marks (the vowel signs of Hindi) and knows no longest word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from gguf_jax.errors import GGUFJaxError
from gguf_jax.tokenizers import fields
from gguf_jax.tokenizers.backend import Encoder, encoder
from gguf_jax.tokenizers.sentencepiece_bpe import SPACE
from gguf_jax.tokenizers.vocabulary import TokenType, Vocabulary

LONGEST_WORD = 100
INSIDE = "\0"
"""Marks a piece inside of a word for the encoder; the normalizer leaves no such character in a text."""


class WordPiece:
    """WordPiece. Decoding gives words with spaces between them, not the text that they were."""

    special_ids: Mapping[str, int] = {"bos": 101, "unk": 100, "sep": 102, "pad": 0, "mask": 103}
    add_bos = True
    add_end = True
    end_role = "sep"
    add_space_prefix = True  # each word has one, and a text does not begin with it

    def __init__(self, metadata: Mapping[str, Any], vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        lowercase = fields.flag(metadata, "tokenizer.ggml.normalizer.lowercase")
        self.lowercase = lowercase is None or lowercase
        strip_accents = fields.flag(metadata, "tokenizer.ggml.normalizer.strip_accents")
        self.strip_accents = self.lowercase if strip_accents is None else strip_accents

    def build(self, control: Sequence[int], unknown: int | None) -> Encoder:
        """The Hugging Face tokenizer's: about 0.05 s for 30,000 tokens."""
        if unknown is None:
            raise GGUFJaxError(
                "metadata key tokenizer.ggml.unknown_token_id: expected a token id, which WordPiece needs, found none"
            )
        apart = {*control, *self.vocabulary.of_type(TokenType.CONTROL, TokenType.UNKNOWN), unknown}
        vocab = {
            text[1:] if text.startswith(SPACE) else INSIDE + text: i
            for text, i in self.vocabulary.spellable().items()
            if i not in apart
        }
        vocab[INSIDE] = unknown  # what stands between two marks cannot be spelled either
        backend = tokenizers.Tokenizer(
            models.WordPiece(
                vocab, unk_token=INSIDE, max_input_chars_per_word=LONGEST_WORD, continuing_subword_prefix=INSIDE
            )
        )
        backend.normalizer = normalizers.BertNormalizer(  # pyright: ignore[reportAttributeAccessIssue]
            clean_text=True,
            handle_chinese_chars=True,
            strip_accents=self.strip_accents,
            lowercase=self.lowercase,
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore[reportAttributeAccessIssue]
        return encoder(backend)

    def prepare(self, text: str, after_special: bool) -> str:
        """The text that the encoder gets for a stretch without special tokens."""
        return text

    def piece(self, text: str, kind: int) -> bytes:
        """The bytes that a token stands for."""
        if kind not in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED):
            text = text.replace(SPACE, " ")
        return text.encode("utf-8", "surrogateescape")

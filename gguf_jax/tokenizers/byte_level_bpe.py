"""`tokenizer.ggml.model` "gpt2": BPE over bytes, each byte written as a printable character."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import shown
from gguf_jax.tokenizers import fields
from gguf_jax.tokenizers.backend import Encoder, encoder
from gguf_jax.tokenizers.pre_tokenizers import PreTokenizer, pre_tokenizer
from gguf_jax.tokenizers.vocabulary import TokenType, Vocabulary

MERGES = "tokenizer.ggml.merges"

# GPT-2's alphabet: bytes that are printable in Latin-1 stand for themselves, the others for U+0100 and what follows.
PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
OTHERS = tuple(byte for byte in range(256) if byte not in PRINTABLE)
BYTE_OF: dict[str, int] = {chr(byte): byte for byte in PRINTABLE} | {chr(256 + i): b for i, b in enumerate(OTHERS)}


class ByteLevelBPE:
    """Byte-level BPE: every text has an encoding, and decoding gives back its bytes."""

    special_ids: Mapping[str, int] = {}
    add_space_prefix = False
    add_end = False
    end_role = "eos"

    def __init__(self, metadata: Mapping[str, Any], vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.pre = pre_tokenizer(fields.string(metadata, "tokenizer.ggml.pre"))
        self.add_bos = self.pre.add_bos
        self.merges = fields.string_array(metadata, MERGES)

    def build(self, control: Sequence[int], unknown: int | None) -> Encoder:
        """Hugging Face's: about 0.4 s for the 151,936 tokens of Qwen2, half of it in `models.BPE`. The other way to
        make one, JSON and `Tokenizer.from_str`, takes two to three times as long as `models.BPE`."""
        vocab = self.vocabulary.spellable()
        for i in control:
            # So that no text spells one. What only its text makes a control token stays, as merges may need it.
            if self.vocabulary.types[i] != TokenType.NORMAL:
                vocab.pop(self.vocabulary.tokens[i], None)
        pairs = [tuple(merge.split(" ")) for merge in fields.string_list(MERGES, self.merges)]
        once: Any = list(dict.fromkeys(pairs))  # of merges that are there twice, the first counts
        try:
            model = models.BPE(vocab, once, ignore_merges=self.pre.ignore_merges)
        except Exception as error:  # the library raises no narrower class
            raise merge_error(pairs, vocab, error) from None
        backend = tokenizers.Tokenizer(model)
        backend.pre_tokenizer = words(self.pre)  # pyright: ignore[reportAttributeAccessIssue]
        return encoder(backend)

    def prepare(self, text: str, after_special: bool) -> str:
        """The text that the encoder gets for a stretch without special tokens."""
        return text

    def piece(self, text: str, kind: int) -> bytes:
        """The bytes that a token stands for."""
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED):
            return text.encode("utf-8", "surrogateescape")
        try:
            return bytes([BYTE_OF[char] for char in text])
        except KeyError:  # padding and added tokens that the file calls normal
            return text.encode("utf-8", "surrogateescape")


def words(pre: PreTokenizer) -> pre_tokenizers.PreTokenizer:
    """What cuts a text into words and writes their bytes as characters."""
    return pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in pre.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def merge_error(pairs: Sequence[tuple[str, ...]], vocab: Mapping[str, int], error: Exception) -> GGUFJaxError:
    """Says which merge is the first that cannot be used."""
    for i, pair in enumerate(pairs):
        if len(pair) != 2:
            return GGUFJaxError(
                f"metadata key {MERGES}[{i}]: expected two texts with one space between, found {shown(' '.join(pair))}"
            )
        for text in (*pair, "".join(pair)):
            if text not in vocab:
                return GGUFJaxError(
                    f"metadata key {MERGES}[{i}]: expected texts of tokens, found {shown(' '.join(pair))}, "
                    f"and {shown(text)} is none"
                )
    return GGUFJaxError(f"metadata key {MERGES}: {error}")

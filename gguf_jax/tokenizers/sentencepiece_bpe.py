"""`tokenizer.ggml.model` "llama": SentencePiece's BPE, of which a file keeps only the pieces and their scores.

SentencePiece joins, again and again, the two neighbours whose joined text is the piece of the highest score; where
several score alike, the leftmost two. BPE with a list of merges does the same if the list holds every way to make every
piece out of two others, by falling score.

Ties between *different* pieces cannot be said in such a list. In vocabularies trained by SentencePiece only runs of
spaces tie, and these come out the same. Some converters give every token one score, though. There the order is that of
the ids, in which the pieces were learned, and the ids are those of the model's own tokenizer (`test_exact.py`); the
leftmost two, which llama.cpp joins, are hardly ever right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import shown
from gguf_jax.tokenizers import fields
from gguf_jax.tokenizers.backend import Encoder, encoder
from gguf_jax.tokenizers.vocabulary import TOKENS, TokenType, Vocabulary

SCORES = "tokenizer.ggml.scores"
SPACE = "▁"
# The ways to cut a piece in two, and the text they are made of, grow with its length; real ones have up to 128.
LONGEST_PIECE = 1024
BYTES: dict[str, bytes] = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}


class SentencePieceBPE:
    """SentencePiece BPE: spaces are `▁`, texts begin with one, characters without a piece are their bytes' tokens.

    A `▁` in a text is a space from then on: decoding gives a space back."""

    special_ids: Mapping[str, int] = {"bos": 1, "eos": 2, "unk": 0}
    add_bos = True
    add_end = False
    end_role = "eos"

    def __init__(self, metadata: Mapping[str, Any], vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.scores = read_scores(metadata, vocabulary)
        check_bytes(vocabulary)
        prefix = fields.flag(metadata, "tokenizer.ggml.add_space_prefix")
        self.add_space_prefix = prefix is None or prefix
        self.stand_ins: dict[int, list[int]] = {}

    def build(self, control: Sequence[int], unknown: int | None) -> Encoder:
        """The Hugging Face tokenizer's: about 0.1 s for the 32,000 tokens of Llama 2."""
        tokens, spellable = self.vocabulary.tokens, self.vocabulary.spellable()
        # Only special-token parsing gives control tokens, and only characters without a piece give bytes.
        apart = {
            *control,
            *self.vocabulary.of_type(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE),
        }
        pieces = {text: i for text, i in spellable.items() if i not in apart}
        byte_tokens = {text: self.vocabulary.ids[text] for text in BYTES if text in self.vocabulary.ids}
        unknown_ids = [] if unknown is None else [unknown]

        # A character may occur in pieces without being one: it takes part in merges under an id beyond the vocabulary,
        # and is spelled in bytes where no merge took it.
        bare = sorted(set("".join(pieces)) - pieces.keys())
        stand_ins = {char: len(tokens) + i for i, char in enumerate(bare)}
        self.stand_ins = {i: spelled(char, byte_tokens) or unknown_ids for char, i in stand_ins.items()}

        vocab = pieces | stand_ins | byte_tokens
        if unknown is not None and tokens[unknown] in spellable:
            vocab[tokens[unknown]] = unknown
        model = models.BPE(
            vocab,
            merges(pieces, pieces | stand_ins, self.scores),
            unk_token=tokens[unknown] if unknown is not None and tokens[unknown] in vocab else None,
            fuse_unk=True,
            byte_fallback=True,
        )
        return encoder(tokenizers.Tokenizer(model), self._finish)

    def prepare(self, text: str, after_special: bool) -> str:
        """The text that the encoder gets for a stretch without special tokens."""
        return (SPACE if after_special and self.add_space_prefix else "") + text.replace(" ", SPACE)

    def _finish(self, encoding: tokenizers.Encoding) -> list[int]:
        """The token ids for what the Hugging Face tokenizer gave."""
        ids = encoding.ids
        if not self.stand_ins or max(ids, default=0) < len(self.vocabulary):
            return ids
        return [i for given in ids for i in self.stand_ins.get(given, (given,))]

    def piece(self, text: str, kind: int) -> bytes:
        """The bytes that a token stands for."""
        return sentencepiece_piece(text, kind)


def read_scores(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> np.ndarray:
    """The score of every token, `[vocab_size]`."""
    scores = fields.number_array(metadata, SCORES, len(vocabulary), "fiu")
    if scores is None:
        raise fields.wrong(SCORES, f"an array of {len(vocabulary)} numbers, one for each token", None)
    if np.isnan(scores).any():
        i = int(np.argmax(np.isnan(scores)))
        raise GGUFJaxError(f"metadata key {SCORES}[{i}]: expected a number, found NaN")
    return scores


def check_bytes(vocabulary: Vocabulary) -> None:
    """GGUFJaxError where the text of a byte token names no byte."""
    for i in vocabulary.of_type(TokenType.BYTE):
        if vocabulary.tokens[i] not in BYTES:
            raise GGUFJaxError(
                f"metadata key {TOKENS}[{i}]: expected <0x00> to <0xFF> for a byte token, "
                f"found {shown(vocabulary.tokens[i])}"
            )


def sentencepiece_piece(text: str, kind: int) -> bytes:
    """The bytes that a token of SentencePiece's stands for."""
    if kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED):
        return text.encode("utf-8", "surrogateescape")
    if kind == TokenType.BYTE:
        return BYTES[text]
    return text.replace(SPACE, " ").encode("utf-8", "surrogateescape")


def spelled(char: str, byte_tokens: Mapping[str, int]) -> list[int]:
    """The tokens of a character's bytes; none where the vocabulary lacks one of them."""
    found = [byte_tokens.get(f"<0x{byte:02X}>") for byte in char.encode()]
    return [i for i in found if i is not None] if None not in found else []


def merges(pieces: Mapping[str, int], parts: Mapping[str, int], scores: np.ndarray) -> list[tuple[str, str]]:
    """Every way to make a piece of two parts, the one to take first at the beginning."""
    longest = max(pieces, key=len, default="")
    if len(longest) > LONGEST_PIECE:
        raise GGUFJaxError(
            f"metadata key {TOKENS}[{pieces[longest]}]: expected at most {LONGEST_PIECE} characters, "
            f"found {len(longest)}"
        )
    made = [
        (text, cut)
        for text in pieces
        for cut in range(len(text) - 1, 0, -1)
        if text[:cut] in parts and text[cut:] in parts
    ]
    of_piece = dict(zip(pieces, scores[list(pieces.values())].tolist(), strict=True))
    if len({of_piece[text] for text, _ in made}) > 1:
        # Among equal scores the longer left part: in a run of one letter those are the leftmost two.
        made.sort(key=lambda way: (-of_piece[way[0]], -way[1]))
    else:
        made.sort(key=lambda way: pieces[way[0]])
    return [(text[:cut], text[cut:]) for text, cut in made]

"""`tokenizer.model`: SentencePiece's protobuf, of which a few fields are needed (sentencepiece_model.proto).

A protobuf message is a row of fields, each a number that says which it is and how long it is. Reading that takes forty
lines; the `sentencepiece` package is a C++ library that would be needed for nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from gguf_jax.errors import GGUFError
from gguf_jax.gguf.text import printable

# Numbers of fields: of ModelProto, of a SentencePiece, of NormalizerSpec, of TrainerSpec.
PIECES, TRAINER, NORMALIZER = 1, 2, 3
PIECE, SCORE, TYPE = 1, 2, 3
CHARSMAP, DUMMY_PREFIX, EXTRA_SPACES = 2, 3, 4
MODEL_TYPE = 3

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of pieces, which are GGUF's types of tokens by name."""

UNIGRAM, BPE = 1, 2


@dataclass(frozen=True)
class SentencePieceModel:
    """What is needed of a model: texts, scores and types of pieces, and how a text is prepared."""

    pieces: list[str]
    scores: list[float]
    types: list[int]
    model_type: int
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool


def parse(data: bytes, path: str) -> SentencePieceModel:
    """Reads the bytes of a `tokenizer.model`; GGUFError where they are none."""
    pieces: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    try:
        for number, value in _fields(data):
            if number in (PIECES, TRAINER, NORMALIZER) and not isinstance(value, bytes):
                raise ValueError("a message")
            if number == PIECES:
                piece = dict(_fields(_bytes(value)))
                pieces.append(_bytes(piece.get(PIECE, b"")).decode("utf-8"))
                scores.append(struct.unpack("<f", _bytes(piece.get(SCORE, bytes(4))))[0])
                types.append(_integer(piece.get(TYPE, NORMAL)))
            elif number == TRAINER:
                trainer = dict(_fields(_bytes(value)))
            elif number == NORMALIZER:
                normalizer = dict(_fields(_bytes(value)))
        return SentencePieceModel(
            pieces,
            scores,
            types,
            _integer(trainer.get(MODEL_TYPE, UNIGRAM)),
            _bytes(normalizer.get(CHARSMAP, b"")),
            bool(_integer(normalizer.get(DUMMY_PREFIX, 1))),
            bool(_integer(normalizer.get(EXTRA_SPACES, 1))),
        )
    except (ValueError, struct.error) as error:
        raise GGUFError(f"{printable(path)}: expected a SentencePiece model, found {printable(str(error))}") from None


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number in place of bytes")
    return value


def _integer(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes in place of a number")
    return value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError(f"a number that does not end at byte {at}")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                value, at = _varint(data, at)
                yield tag >> 3, value
                continue
            case 1:
                length = 8
            case 2:
                length, at = _varint(data, at)
            case 5:
                length = 4
            case other:
                raise ValueError(f"a field of wire type {other} at byte {at}")
        if at + length > len(data):
            raise ValueError(f"a field of {length} bytes at byte {at} of {len(data)}")
        yield tag >> 3, data[at : at + length]
        at += length

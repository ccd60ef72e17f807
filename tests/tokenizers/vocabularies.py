"""The tiny vocabularies as metadata, and changes to them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gguf_jax.gguf import read
from gguf_jax.tokenizers import Tokenizer, from_metadata

ROOT = Path(__file__).resolve().parents[2]
P = "tokenizer.ggml."
NAMES = ("tiny_bpe", "tiny_spm", "tiny_t5", "tiny_rwkv")  # of which a text comes back as it was
ALL_NAMES = (*NAMES, "tiny_bert")


def _stored(name: str) -> dict[str, Any]:
    values = json.loads((ROOT / "tests" / "data" / f"{name}.json").read_text("utf-8"))
    values[P + "token_type"] = np.array(values[P + "token_type"], np.int32)
    if P + "scores" in values:
        values[P + "scores"] = np.array(values[P + "scores"], np.float32)
    return values


def _t5() -> dict[str, Any]:
    """The pieces of `tiny_spm`, with scores that no order of merges explains."""
    values = _stored("tiny_spm")
    scores = np.random.default_rng(5).uniform(-12, -4, len(values[P + "tokens"]))
    lengths = np.array([len(token) for token in values[P + "tokens"]])
    changes = {"model": "t5", "scores": (scores - 2 / lengths).astype(np.float32), "add_eos_token": True}
    ids = {"bos_token_id": None, "eos_token_id": 2, "unknown_token_id": 0, "add_space_prefix": True}
    return values | {P + key: value for key, value in (changes | ids).items()}


def _bert() -> dict[str, Any]:
    """The words of `tiny_spm`, and letters and signs to begin and to go on with."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [token for token in _stored("tiny_spm")[P + "tokens"][259:] if token.strip("▁") and token[0] not in "<["]
    letters = [chr(c) for c in (*range(0x21, 0x41), *range(0x61, 0x7B))]
    tokens = [*special, *dict.fromkeys([*(mark + c for c in letters for mark in ("▁", "")), *words])]
    types = np.array([3] * len(special) + [1] * (len(tokens) - len(special)), np.int32)
    ids = {"padding": 0, "unknown": 1, "cls": 2, "seperator": 3, "mask": 4}
    named = {P + f"{role}_token_id": i for role, i in ids.items()}
    return {P + "model": "bert", P + "tokens": tokens, P + "token_type": types} | named


def _rwkv() -> dict[str, Any]:
    """The bytes, and the pieces of `tiny_spm` as bytes, written as Python writes them."""
    words = [token.replace("▁", " ").encode() for token in _stored("tiny_spm")[P + "tokens"][259:]]
    pieces = dict.fromkeys([*(bytes([i]) for i in range(256)), *words, b"'s", b"\\n\n\n"])
    tokens = ["<s>", *(repr(piece)[2:-1] for piece in pieces)]
    types = np.array([3] + [1] * (len(tokens) - 1), np.int32)
    ids = {P + "bos_token_id": 0, P + "eos_token_id": 0}
    return {P + "model": "rwkv", P + "tokens": tokens, P + "token_type": types} | ids


DERIVED = {"tiny_t5": _t5, "tiny_bert": _bert, "tiny_rwkv": _rwkv}


def metadata(name: str, **changes: Any) -> dict[str, Any]:
    """The metadata of a tiny vocabulary; keywords change `tokenizer.ggml.*`, None removes."""
    values = DERIVED[name]() if name in DERIVED else _stored(name)
    values |= {P + key: value for key, value in changes.items()}
    return {key: value for key, value in values.items() if value is not None}


@cache
def tokenizer(name: str) -> Tokenizer:
    """One of `ALL_NAMES`, or the `bundled` model's."""
    if name == "bundled":
        return from_metadata(read(ROOT / "gguf_jax" / "data" / "prose-23m-Q4_K_M.gguf").metadata)
    return from_metadata(metadata(name))


def with_tokens(name: str, *texts: str, kind: int, **changes: Any) -> Tokenizer:
    """A tiny vocabulary with tokens of one type added at its end."""
    values = metadata(name, **changes)
    values[P + "tokens"] = [*values[P + "tokens"], *texts]
    values[P + "token_type"] = np.append(values[P + "token_type"], [kind] * len(texts)).astype(np.int32)
    if P + "scores" in values:
        values[P + "scores"] = np.append(values[P + "scores"], [0] * len(texts)).astype(np.float32)
    return from_metadata(values)

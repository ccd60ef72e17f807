"""`tokenizer_metadata`: tokenizer.json, tokenizer.model and their settings -> the `tokenizer.*` keys of a GGUF file."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_jax.convert import sentencepiece, special
from gguf_jax.convert.pre_tokenizer import name_of
from gguf_jax.convert.source import HFFolder, read_bytes
from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.gguf.text import printable, shown
from gguf_jax.tokenizers.vocabulary import TokenType

TOKENIZER, MODEL, SETTINGS, ADDED = "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json"
MODELS = (MODEL, "spiece.model")
"""What SentencePiece's model is called, by T5 last. (Where it is called otherwise, its ids are not the model's.)"""

MAX_TOKENS = 1 << 24
"""Of a vocabulary: more than any model's, and what a padded vocabulary of a hostile config.json may come to."""

UNKNOWN_SCORE, ADDED_SCORE = -10000.0, -1000.0
"""Of padding, and of added tokens: less than any piece's."""

SPACE = "\u2581"


@dataclass
class Vocabulary:
    """Tokens by id, being filled."""

    tokens: list[str]
    types: list[int]
    scores: list[float]

    @classmethod
    def of(cls, size: int) -> Vocabulary:
        return cls([f"[PAD{i}]" for i in range(size)], [TokenType.UNUSED] * size, [UNKNOWN_SCORE] * size)

    def put(self, index: int, text: str, kind: int, score: float = 0.0) -> None:
        self.tokens[index], self.types[index], self.scores[index] = text, kind, score

    def keys(self, scored: bool) -> dict[str, Any]:
        found: dict[str, Any] = {"tokenizer.ggml.tokens": self.tokens}
        if scored:
            found["tokenizer.ggml.scores"] = np.array(self.scores, np.float32)
        return found | {"tokenizer.ggml.token_type": np.array(self.types, np.int32)}


def tokenizer_metadata(folder: HFFolder, size: int, architecture: str, pre: str | None = None) -> dict[str, Any]:
    """The `tokenizer.*` keys.

    Args:
        size: how many tokens the model has rows for; ids without a token are padded with `[PADn]`.
        architecture: of the model, to choose among names of one pre-tokenizer.
        pre: what to write for `tokenizer.ggml.pre`, where it is not to be told by tokenizer.json.

    Raises:
        GGUFError: a file is malformed.
        GGUFJaxError: the tokenizer is of a kind that GGUF has no place for, or its pre-tokenizer is unknown.
    """
    if size > MAX_TOKENS:
        raise GGUFError(f"{printable(folder.path)}: vocab_size: expected at most {MAX_TOKENS}, found {size}")
    tokenizer = folder.json(TOKENIZER)
    settings = folder.json(SETTINGS) or {}
    file = next((folder.file(name) for name in MODELS if os.path.lexists(folder.file(name))), folder.file(MODEL))
    pieces = read_bytes(file, required=False)
    where = printable(folder.file(TOKENIZER))
    try:
        if tokenizer is None and pieces is None:
            return {}
        model = (tokenizer or {}).get("model") or {}
        byte_level = model.get("type") == "BPE" and _is_byte_level(tokenizer or {})
        if pieces is not None and not byte_level:
            where = printable(file)
            found = _of_pieces(folder, sentencepiece.parse(pieces, file), tokenizer, settings, size)
        else:
            assert tokenizer is not None
            _check_model(model)
            found = _of_json(tokenizer, settings, size, architecture, pre, byte_level)
        return found | special.metadata(folder, tokenizer, settings, size)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, GGUFJaxError):
            raise
        # its shape is tokenizers' own, deep and in many releases: what is not as expected shows here
        raise GGUFError(f"{where}: expected a tokenizer, found one that cannot be read ({shown(str(error))})") from None
    except GGUFJaxError as error:
        raise type(error)(str(error) if str(error).startswith(folder.path) else f"{where}: {error}") from None


def _check_model(model: Mapping[str, Any]) -> None:
    kind = model.get("type")
    if kind not in ("BPE", "WordPiece", "Unigram"):
        raise GGUFJaxError(f"model: expected BPE, WordPiece or Unigram, found {shown(kind)}")
    if not isinstance(model.get("vocab"), list if kind == "Unigram" else dict) or not model["vocab"]:
        raise GGUFJaxError(f"model: vocab: expected tokens, found {shown(model.get('vocab'))}")


def _is_byte_level(tokenizer: Mapping[str, Any]) -> bool:
    steps = [tokenizer.get("pre_tokenizer") or {}, tokenizer.get("decoder") or {}]
    kinds = {inner.get("type") for step in steps for inner in (step, *step.get("pretokenizers", []))}
    return "ByteLevel" in kinds


def _added(tokenizer: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> dict[int, tuple[str, bool]]:
    """Id -> text of added tokens, and whether they are special."""
    found: dict[int, tuple[str, bool]] = {}
    for key, entry in (settings.get("added_tokens_decoder") or {}).items():
        found[int(key)] = (entry["content"], bool(entry.get("special")))
    for entry in (tokenizer or {}).get("added_tokens") or []:
        found[entry["id"]] = (entry["content"], bool(entry.get("special")))
    return found


SPECIAL_LOOKS = re.compile(r"<\|.*\|>|<\uff5c.*\uff5c>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.DOTALL)
"""Texts of added tokens that are control tokens even where tokenizer.json does not call them special, as the peer has
it: those of command-r, deepseek-coder and Gemma."""


def _put_added(vocabulary: Vocabulary, added: Mapping[int, tuple[str, bool]]) -> None:
    for index, (text, is_special) in added.items():
        if not 0 <= index < len(vocabulary.tokens):
            raise GGUFJaxError(
                f"added token {shown(text)}: expected an id below {len(vocabulary.tokens)}, found {index}"
            )
        if is_special or SPECIAL_LOOKS.fullmatch(text):
            vocabulary.put(index, text, TokenType.CONTROL, ADDED_SCORE)
        else:
            vocabulary.put(index, text.replace(SPACE, " "), TokenType.USER_DEFINED, ADDED_SCORE)


def _of_json(
    tokenizer: Mapping[str, Any],
    settings: Mapping[str, Any],
    size: int,
    architecture: str,
    pre: str | None,
    byte_level: bool,
) -> dict[str, Any]:
    model = tokenizer["model"]
    if model["type"] == "Unigram":
        return _unigram(tokenizer, settings, size)
    vocab: dict[str, int] = model["vocab"]
    high = max(vocab.values())
    if high >= size:
        raise GGUFJaxError(f"model: vocab: expected ids below {size} (the model's vocab_size), found {high}")
    vocabulary = Vocabulary.of(size)
    if model["type"] == "WordPiece":
        return _word_pieces(vocabulary, tokenizer, settings)
    merges = [_merge(merge) for merge in model.get("merges") or []]
    if byte_level:
        for text, index in vocab.items():
            vocabulary.put(index, text, TokenType.NORMAL)
        _put_added(vocabulary, _added(tokenizer, settings))
        name = pre or name_of(tokenizer, architecture)
        head = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": name}
        return {**head, **vocabulary.keys(scored=False), "tokenizer.ggml.merges": [" ".join(m) for m in merges]}
    if not model.get("byte_fallback"):
        raise GGUFJaxError("model: expected BPE over bytes (ByteLevel), or with byte_fallback, found neither")
    # SentencePiece merges by the score of what comes out, a tokenizer.json by its list: the first merge that makes a
    # token is its score. (The peer's converter gives all tokens one score, so that its files cannot merge in order.)
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    for text, index in vocab.items():
        kind = TokenType.BYTE if re.fullmatch("<0x[0-9A-Fa-f]{2}>", text) else TokenType.NORMAL
        vocabulary.put(index, text, kind, -float(ranks[text]) if text in ranks else UNKNOWN_SCORE)
    _put_added(vocabulary, _added(tokenizer, settings))
    head = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"}
    return {**head, **vocabulary.keys(scored=True), **_space_prefix(_adds_space(tokenizer), settings)}


def _merge(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    # the pair form is for texts with spaces in them, which byte-level texts write as another character
    return left.replace(" ", "\u0120"), right.replace(" ", "\u0120")


def _adds_space(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a text begins as if after a space."""
    normalizer = tokenizer.get("normalizer") or {}
    pre_tokenizer = tokenizer.get("pre_tokenizer") or {}
    steps = [normalizer, *normalizer.get("normalizers", []), pre_tokenizer, *pre_tokenizer.get("pretokenizers", [])]
    return any(
        step.get("type") == "Prepend" or (step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never")
        for step in steps
    )


def _space_prefix(adds: bool, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The key where readers would take something else, or where it is set in so many words."""
    return {"tokenizer.ggml.add_space_prefix": adds} if not adds or "add_prefix_space" in settings else {}


def _word_pieces(vocabulary: Vocabulary, tokenizer: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """WordPiece in GGUF's form: what begins a word has a space before it, what goes on with one has lost its `##`."""
    model = tokenizer["model"]
    prefix = model.get("continuing_subword_prefix", "##")
    for text, index in model["vocab"].items():
        inside = text.startswith(prefix)
        vocabulary.put(index, text.removeprefix(prefix) if inside else SPACE + text, TokenType.NORMAL)
    _put_added(vocabulary, _added(tokenizer, settings))
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.token_type_count": 2,
        **vocabulary.keys(scored=False),
    }


def _unigram(tokenizer: Mapping[str, Any], settings: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Unigram, of which SentencePiece's own file is not there."""
    model = tokenizer["model"]
    pieces = model["vocab"]
    if len(pieces) > size:
        raise GGUFJaxError(
            f"model: vocab: expected at most {size} tokens (the model's vocab_size), found {len(pieces)}"
        )
    vocabulary = Vocabulary.of(size)
    for index, (text, score) in enumerate(pieces):
        is_byte = model.get("byte_fallback") and re.fullmatch("<0x[0-9A-F]{2}>", text)
        vocabulary.put(index, text, TokenType.BYTE if is_byte else TokenType.NORMAL, float(score))
    _put_added(vocabulary, _added(tokenizer, settings))
    if (unknown := model.get("unk_id")) is not None:
        vocabulary.types[unknown] = TokenType.UNKNOWN
    normalizer = tokenizer.get("normalizer") or {}
    steps = [normalizer, *normalizer.get("normalizers", [])]
    merges = any(step.get("type") == "Replace" and step["pattern"].get("Regex") == " {2,}" for step in steps)
    found = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.pre": "default",
        **vocabulary.keys(scored=True),
        "tokenizer.ggml.add_space_prefix": _adds_space(tokenizer),
        "tokenizer.ggml.remove_extra_whitespaces": merges,
    }
    charsmap = next((step["precompiled_charsmap"] for step in steps if step.get("type") == "Precompiled"), None)
    if charsmap:
        found["tokenizer.ggml.precompiled_charsmap"] = np.frombuffer(base64.b64decode(charsmap), np.uint8)
    return found


def _of_pieces(
    folder: HFFolder,
    model: sentencepiece.SentencePieceModel,
    tokenizer: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    size: int,
) -> dict[str, Any]:
    """Of a SentencePiece model, whose scores are the ones that the tokenizer was made with."""
    if model.model_type not in (sentencepiece.BPE, sentencepiece.UNIGRAM):
        raise GGUFJaxError(f"model_type: expected unigram or BPE, found {model.model_type}")
    vocabulary = Vocabulary.of(size)
    for index, (text, score, kind) in enumerate(zip(model.pieces, model.scores, model.types, strict=True)):
        if index < size:
            if kind not in TokenType.__members__.values():
                raise GGUFJaxError(f"piece {index}: type: expected 1 to 6, found {kind}")
            vocabulary.put(index, text, kind, score)
    added = {index: (text, False) for text, index in (folder.json(ADDED) or {}).items() if type(index) is int} | _added(
        tokenizer, settings
    )
    _put_added(vocabulary, {index: entry for index, entry in added.items() if index < size})
    adds = model.add_dummy_prefix if tokenizer is None else _adds_space(tokenizer)
    if model.model_type == sentencepiece.UNIGRAM and not any(kind == TokenType.BYTE for kind in model.types):
        head: dict[str, Any] = {"tokenizer.ggml.model": "t5", "tokenizer.ggml.pre": "default"}
        extra: dict[str, Any] = {
            "tokenizer.ggml.add_space_prefix": adds,
            "tokenizer.ggml.remove_extra_whitespaces": model.remove_extra_whitespaces,
        }
        if model.charsmap:
            extra["tokenizer.ggml.precompiled_charsmap"] = np.frombuffer(model.charsmap, np.uint8)
        return {**head, **vocabulary.keys(scored=True), **extra}
    head = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"}
    return {**head, **vocabulary.keys(scored=True), **_space_prefix(adds, settings)}

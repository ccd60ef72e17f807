"""The `tokenizer.*` keys of a file -> tokenizer.json, tokenizer_config.json and, of pieces, tokenizer.model."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.convert import sentencepiece
from gguf_jax.convert.special import KEYS
from gguf_jax.convert.tokenizer import MODELS, SETTINGS, SPACE, TOKENIZER
from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import shown
from gguf_jax.tokenizers import from_metadata
from gguf_jax.tokenizers.pre_tokenizers import pre_tokenizer
from gguf_jax.tokenizers.vocabulary import TokenType, Vocabulary, read_vocabulary

PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
ADDED = (TokenType.CONTROL, TokenType.USER_DEFINED)
Json = dict[str, Any]


def tokenizer_files(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """Name of a file -> its contents; empty for a file without a tokenizer.

    Raises:
        GGUFJaxError: the tokenizer is of a kind that has no place in these files.
    """
    model = metadata.get("tokenizer.ggml.model", "none")
    if model in ("none", "no_vocab"):
        return {}
    makers = {"gpt2": _byte_level, "llama": _pieces, "bert": _word_pieces, "t5": _unigram}
    if model not in makers:
        raise GGUFJaxError(
            f"metadata key tokenizer.ggml.model: expected one of {', '.join(makers)} to export, found {shown(model)}"
        )
    vocabulary = read_vocabulary(metadata)
    head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": _added(vocabulary)}
    written = head | makers[model](metadata, vocabulary)
    found = {
        TOKENIZER: json.dumps(written, ensure_ascii=False).encode("utf-8", "surrogatepass"),
        SETTINGS: json.dumps(_settings(metadata, vocabulary), indent=1).encode(),
    }
    if model == "llama":
        found[MODELS[0]] = _model(metadata, vocabulary)
    return found


def _is_padding(vocabulary: Vocabulary, index: int) -> bool:
    return vocabulary.types[index] == TokenType.UNUSED and vocabulary.tokens[index] == f"[PAD{index}]"


def _added(vocabulary: Vocabulary) -> list[Json]:
    return [
        {"id": i, "content": text, **PLAIN, "special": bool(vocabulary.types[i] == TokenType.CONTROL)}
        for i, text in enumerate(vocabulary.tokens)
        if vocabulary.types[i] in ADDED
    ]


def _ids(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, int]:
    found = {role: metadata.get(f"tokenizer.ggml.{key}") for role, key in KEYS.items()}
    return {role: i for role, i in found.items() if type(i) is int and i < len(vocabulary)}


def _settings(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> Json:
    found: Json = {f"{role}_token": vocabulary.tokens[i] for role, i in _ids(metadata, vocabulary).items()}
    for role in ("bos", "eos", "sep"):
        if (adds := metadata.get(f"tokenizer.ggml.add_{role}_token")) is not None:
            found[f"add_{role}_token"] = bool(adds)
    templates = [
        {"name": name, "template": metadata[f"tokenizer.chat_template.{name}"]}
        for name in metadata.get("tokenizer.chat_templates", ())
        if f"tokenizer.chat_template.{name}" in metadata
    ]
    if (template := metadata.get("tokenizer.chat_template")) is not None:
        found["chat_template"] = template
        if templates:
            found["chat_template"] = [{"name": "default", "template": template}, *templates]
    context = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return found | {"model_max_length": context, "tokenizer_class": "PreTrainedTokenizerFast"}


def _around(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> Json | None:
    """The post-processor that adds BOS before a text, and EOS or what stands for it behind, where the file says so or a
    tokenizer of its kind does it unasked."""
    made = from_metadata(metadata)
    single: list[Json] = [{"Sequence": {"id": "A", "type_id": 0}}]
    used: list[int] = []
    for adds, i, at in ((made.add_bos, made.bos_id, 0), (made.add_eos, made.end_id, 2)):
        if adds and i is not None:
            single.insert(at, {"SpecialToken": {"id": vocabulary.tokens[i], "type_id": 0}})
            used.append(i)
    if not used:
        return None
    tokens = {t: {"id": t, "ids": [i], "tokens": [t]} for i in used for t in (vocabulary.tokens[i],)}
    second = [{"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": single + second, "special_tokens": tokens}


def _byte_level(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> Json:
    pre = pre_tokenizer(metadata.get("tokenizer.ggml.pre"))
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in pre.patterns
    ]
    merges = [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]]
    added = set(vocabulary.of_type(*ADDED))
    vocab = {t: i for i, t in enumerate(vocabulary.tokens) if i not in added and not _is_padding(vocabulary, i)}
    model = {"type": "BPE", "unk_token": None, "byte_fallback": False, "ignore_merges": pre.ignore_merges}
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, BYTE_LEVEL]},
        "post_processor": _around(metadata, vocabulary) or BYTE_LEVEL,
        "decoder": {**BYTE_LEVEL, "add_prefix_space": True},
        "model": {**model, "vocab": vocab, "merges": merges},
    }


def merges_of(tokens: Mapping[str, int], scores: np.ndarray) -> list[tuple[str, str]]:
    """The merges that make every token of two others, the best score of what comes out first: what a list of merges
    must be to merge as scores do."""
    found: list[tuple[float, int, str, str]] = []
    for text, index in tokens.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in tokens and right in tokens:
                found.append((-float(scores[index]), index, left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _pieces(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> Json:
    scores = metadata.get("tokenizer.ggml.scores")
    if scores is None:
        raise GGUFJaxError("metadata key tokenizer.ggml.scores: expected a number for each token, found nothing")
    normal = {vocabulary.tokens[i]: i for i in vocabulary.of_type(TokenType.NORMAL)}
    unknown = vocabulary.of_type(TokenType.UNKNOWN)
    control = set(vocabulary.of_type(*ADDED))
    vocab = {t: i for i, t in enumerate(vocabulary.tokens) if i not in control and not _is_padding(vocabulary, i)}
    steps: list[Json] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    strip: list[Json] = []
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, {"type": "Prepend", "prepend": SPACE})
        strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    spaces = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    model = {"type": "BPE", "fuse_unk": True, "byte_fallback": True, "ignore_merges": False}
    model["unk_token"] = vocabulary.tokens[unknown[0]] if unknown else None
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": _around(metadata, vocabulary),
        "decoder": {"type": "Sequence", "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {**model, "vocab": vocab, "merges": merges_of(normal, scores)},
    }


def _unigram(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> Json:
    scores = metadata.get("tokenizer.ggml.scores")
    if scores is None:
        raise GGUFJaxError("metadata key tokenizer.ggml.scores: expected a number for each token, found nothing")
    steps: list[Json] = []
    if (charsmap := metadata.get("tokenizer.ggml.precompiled_charsmap")) is not None:
        data = base64.b64encode(np.asarray(charsmap, np.uint8).tobytes()).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": data})
    if metadata.get("tokenizer.ggml.remove_extra_whitespaces", False):
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    scheme = "always" if metadata.get("tokenizer.ggml.add_space_prefix", True) else "never"
    spaces = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": True}
    unknown = vocabulary.of_type(TokenType.UNKNOWN)
    pieces = [[text, float(scores[i])] for i, text in enumerate(vocabulary.tokens) if not _is_padding(vocabulary, i)]
    model = {"type": "Unigram", "unk_id": unknown[0] if unknown else None, "vocab": pieces, "byte_fallback": False}
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "pre_tokenizer": spaces,
        "post_processor": _around(metadata, vocabulary),
        "decoder": spaces,
        "model": model,
    }


def _word_pieces(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> Json:
    added = set(vocabulary.of_type(*ADDED, TokenType.UNKNOWN))
    vocab = {}
    for i, text in enumerate(vocabulary.tokens):
        if not _is_padding(vocabulary, i):
            inside = "##" + text
            vocab[text if i in added else text.removeprefix(SPACE) if text.startswith(SPACE) else inside] = i
    ids = _ids(metadata, vocabulary)
    lowercase = bool(metadata.get("tokenizer.ggml.normalizer.lowercase", True))
    accents = metadata.get("tokenizer.ggml.normalizer.strip_accents")
    normalizer = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": accents, "lowercase": lowercase}
    unknown = vocabulary.tokens[ids["unk"]] if "unk" in ids else "[UNK]"
    model = {"type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##"}
    return {
        "normalizer": {"type": "BertNormalizer", **normalizer},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _around(metadata, vocabulary),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {**model, "max_input_chars_per_word": 100, "vocab": vocab},
    }


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _field(number: int, value: int | float | bytes) -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    return _varint(number << 3) + _varint(value)


def _model(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> bytes:
    scores = metadata["tokenizer.ggml.scores"]
    pieces = [
        _field(sentencepiece.PIECE, text.encode("utf-8", "surrogateescape"))
        + _field(sentencepiece.SCORE, float(scores[i]))
        + _field(sentencepiece.TYPE, int(vocabulary.types[i]) or int(TokenType.NORMAL))
        for i, text in enumerate(vocabulary.tokens)
        if not _is_padding(vocabulary, i)
    ]
    prefix = int(bool(metadata.get("tokenizer.ggml.add_space_prefix", True)))
    return (
        b"".join(_field(sentencepiece.PIECES, piece) for piece in pieces)
        + _field(sentencepiece.TRAINER, _field(sentencepiece.MODEL_TYPE, sentencepiece.BPE))
        + _field(sentencepiece.NORMALIZER, _field(sentencepiece.DUMMY_PREFIX, prefix))
    )

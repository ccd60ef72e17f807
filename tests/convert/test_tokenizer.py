"""Tokenizers that are converted: pre-tokenizers told by their patterns, ids as Hugging Face `tokenizers` gives them."""

from __future__ import annotations

import json

import pytest
import tokenizers

from gguf_jax.convert import sentencepiece
from gguf_jax.convert.export_tokenizer import tokenizer_files
from gguf_jax.convert.pre_tokenizer import name_of
from gguf_jax.convert.source import open_folder
from gguf_jax.convert.tokenizer import tokenizer_metadata
from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.gguf import Metadata
from gguf_jax.tokenizers import from_metadata
from gguf_jax.tokenizers.pre_tokenizers import GPT2, LLAMA3, PRE_TOKENIZERS
from tests.conftest import DATA
from tests.convert.folders import golden_folder

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def split(pattern, **changes):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False} | changes


def cut_by(*steps, ignore_merges=False, normalizer=None):
    """A tokenizer.json with these steps."""
    model = {"type": "BPE", "ignore_merges": ignore_merges}
    return {
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(steps)},
        "model": model,
    }


@pytest.mark.parametrize("name", [name for name in PRE_TOKENIZERS if name != "default"])
def test_every_pre_tokenizer_is_known_by_its_patterns(name):
    known = PRE_TOKENIZERS[name]
    found = name_of(cut_by(*map(split, known.patterns), BYTES, ignore_merges=known.ignore_merges), "llama")
    assert PRE_TOKENIZERS[found].patterns == known.patterns
    assert PRE_TOKENIZERS[found].ignore_merges == known.ignore_merges


@pytest.mark.parametrize(
    ("name", "tokenizer", "architecture"),
    [
        ("gpt-2", {"pre_tokenizer": BYTES | {"use_regex": True}, "model": {}}, "gpt2"),
        ("llama-bpe", cut_by(split(LLAMA3), BYTES, ignore_merges=True), "llama"),
        ("dbrx", cut_by(split(LLAMA3), BYTES), "olmo2"),
        ("qwen2", cut_by(split(PRE_TOKENIZERS["qwen2"].patterns[0]), BYTES, normalizer={"type": "NFC"}), "qwen2"),
        ("starcoder", cut_by({"type": "Digits", "individual_digits": True}, BYTES | {"use_regex": True}), "starcoder2"),
        ("command-r", cut_by({"type": "Digits", "individual_digits": True}, BYTES | {"use_regex": True}), "command-r"),
        (
            "falcon",
            cut_by(
                {"type": "Punctuation", "behavior": "Contiguous"},
                BYTES | {"use_regex": True},
                {"type": "Digits", "individual_digits": False},
                split("[0-9][0-9][0-9]"),
            ),
            "falcon",
        ),
        ("gpt-2", cut_by(split(GPT2, behavior="Removed", invert=True), BYTES), "llama"),
    ],
)
def test_the_forms_that_models_have(name, tokenizer, architecture):
    assert name_of(tokenizer, architecture) == name


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (cut_by(split(r"\p{L}+x"), BYTES), r"found \[.*p\{L\}\+x.*\]; --pre names the value"),
        (cut_by(split(GPT2, behavior="MergedWithNext"), BYTES), "Split: expected behavior Isolated"),
        (cut_by({"type": "UnicodeScripts"}), "expected Sequence, Split, .* found 'UnicodeScripts'"),
        (cut_by(split(GPT2), BYTES, normalizer={"type": "Lowercase"}), "normalizer: expected none or NFC"),
    ],
)
def test_an_unknown_one_is_shown(tokenizer, message):
    with pytest.raises(GGUFJaxError, match=message):
        name_of(tokenizer, "llama")


TEXTS = ("Once upon a time, there was a little girl.", "She's 12345 years old!\n\n", "  two  spaces", "naïve café ☃")


def test_ids_are_those_of_hugging_face(shared):
    """A list of merges as scores: what merges first has the best."""
    path = shared / "models" / "tinystories-656k"
    with open_folder(path) as folder:
        ours = from_metadata(Metadata(tokenizer_metadata(folder, 2048, "llama")))
    theirs = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text).ids


def folder_with(tmp_path, **files):
    model = golden_folder(tmp_path / "model", "llama")
    for name, content in files.items():
        (model / name.replace("__", ".")).write_text(json.dumps(content))
    return open_folder(model)


WORDS = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
TINY = cut_by(split(GPT2), BYTES) | {"model": WORDS}


def test_padding_added_tokens_and_roles(tmp_path):
    added = [{"id": 3, "content": "<|x|>", "special": False}, {"id": 4, "content": "<y>", "special": False}]
    added.append({"id": 5, "content": "</s>", "special": True})
    settings = {"bos_token": {"content": "<|x|>"}, "eos_token": "</s>", "add_bos_token": True}
    settings["chat_template"] = [{"name": "default", "template": "D"}, {"name": "tool-use", "template": "T"}]
    files = dict(tokenizer__json=TINY | {"added_tokens": added}, tokenizer_config__json=settings)
    with folder_with(tmp_path, **files, generation_config__json={"eos_token_id": [5, 4]}) as folder:
        found = tokenizer_metadata(folder, 8, "llama")
    assert found["tokenizer.ggml.tokens"] == ["a", "b", "ab", "<|x|>", "<y>", "</s>", "[PAD6]", "[PAD7]"]
    assert found["tokenizer.ggml.token_type"].tolist() == [1, 1, 1, 3, 4, 3, 5, 5]
    assert found["tokenizer.ggml.merges"] == ["a b"]
    assert (found["tokenizer.ggml.bos_token_id"], found["tokenizer.ggml.eos_token_id"]) == (3, 5)
    assert found["tokenizer.ggml.eot_token_id"] == 4
    assert found["tokenizer.ggml.add_bos_token"] is True
    assert (found["tokenizer.chat_template"], found["tokenizer.chat_template.tool_use"]) == ("D", "T")


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (TINY | {"model": WORDS | {"vocab": {"a": 99}}}, r"vocab: expected ids below 8 .* found 99"),
        (TINY | {"added_tokens": [{"id": 9, "content": "z"}]}, "added token 'z': expected an id below 8, found 9"),
        (TINY | {"model": {"type": "WordLevel", "vocab": {"a": 0}}}, "model: expected BPE, .*, found 'WordLevel'"),
        (TINY | {"added_tokens": [{"id": 1}]}, "expected a tokenizer, found one that cannot be read"),
        (TINY | {"model": WORDS | {"merges": ["a b c"]}}, "expected a tokenizer, found one that cannot be read"),
        ({"model": WORDS}, "expected BPE over bytes"),
    ],
)
def test_a_tokenizer_that_cannot_be(tmp_path, tokenizer, message):
    with (
        folder_with(tmp_path, tokenizer__json=tokenizer) as folder,
        pytest.raises(GGUFJaxError, match=message) as error,
    ):
        tokenizer_metadata(folder, 8, "llama")
    assert "tokenizer.json" in str(error.value)


class TestSentencePiece:
    def test_a_model_that_is_written_is_read(self):
        metadata = json.loads((DATA / "tiny_spm.json").read_text())
        data = tokenizer_files(Metadata(metadata))["tokenizer.model"]
        model = sentencepiece.parse(data, "x")
        assert model.pieces == metadata["tokenizer.ggml.tokens"]
        assert model.types == list(metadata["tokenizer.ggml.token_type"])
        assert model.scores == list(Metadata(metadata)["tokenizer.ggml.scores"])

    @pytest.mark.parametrize(
        "data", [b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 11, b"\x0b", b"\x08\x01", b"\x0a\x02\x0a\x05"]
    )
    def test_bytes_that_are_none(self, data):
        with pytest.raises(GGUFError, match="x: expected a SentencePiece model, found"):
            sentencepiece.parse(data, "x")

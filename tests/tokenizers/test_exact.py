"""Exact: the ids that llama.cpp gives, for the vocabularies of real models."""

import json
from pathlib import Path

import numpy as np
import pytest

from gguf_jax.gguf import read
from gguf_jax.tokenizers import from_metadata

VOCABULARIES = (
    "bert-bge",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "phi-3",
    "qwen2",
    "starcoder",
)
CASES = 46
LOSSY = ("bert-bge",)  # texts lose case, accents and spaces
# Its texts are those of the others; the ids are llama.cpp's, kept with the tests.
NOMIC = "nomic-bert-moe"
# No expected ids come with it.
WITHOUT_CASES = ("gpt-neox",)


def test_every_vocabulary_is_named_here(shared):
    found = {path.stem.removeprefix("ggml-vocab-") for path in (shared / "vocab").glob("*.gguf")}
    assert found == {*VOCABULARIES, NOMIC, *WITHOUT_CASES}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_cases(shared, name):
    path = shared / "vocab" / f"ggml-vocab-{name}.gguf"
    tokenizer = from_metadata(read(path).metadata)
    # In bytes: text mode would turn the \r of a case into \n.
    texts = path.with_suffix(".gguf.inp").read_bytes().decode().removesuffix("\n__ggml_vocab_test__\n")
    texts = texts.split("\n__ggml_vocab_test__\n")
    expected = [[int(i) for i in line.split()] for line in path.with_suffix(".gguf.out").read_text().splitlines()]
    assert len(texts) == len(expected) == CASES
    for text, ids in zip(texts, expected, strict=True):
        assert tokenizer.encode(text, add_special=False) == ids, text
        assert name in LOSSY or tokenizer.decode(ids) == text
    assert tokenizer.encode_batch(texts, add_special=False) == expected


def test_cases_of_unigram(shared):
    data = Path(__file__).resolve().parents[1] / "data"
    tokenizer = from_metadata(read(shared / "vocab" / f"ggml-vocab-{NOMIC}.gguf").metadata)
    texts = (shared / "vocab" / "ggml-vocab-bert-bge.gguf.inp").read_bytes().decode()
    texts = texts.removesuffix("\n__ggml_vocab_test__\n").split("\n__ggml_vocab_test__\n")
    expected = json.loads((data / "nomic_bert_moe_ids.json").read_text())
    assert len(texts) == len(expected) == CASES
    assert tokenizer.encode_batch(texts) == expected
    assert tokenizer.decode(tokenizer.encode(" Hello,   Größe ①"), skip_special=True) == "Hello, Größe 1"


@pytest.mark.parametrize("name", WITHOUT_CASES)
def test_a_text_comes_back(shared, name):
    tokenizer = from_metadata(read(shared / "vocab" / f"ggml-vocab-{name}.gguf").metadata)
    text = (shared / "text" / "emma.txt").read_text("utf-8")[:20000]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("model", "logits", "text"),
    [
        ("prose-23m/prose-23m-Q4_K_M.gguf", "prose-23m-Q4_K_M", "emma.txt"),
        ("stories260K/stories260K.gguf", "stories260K", "tinystories.txt"),
    ],
)
def test_a_long_text_with_bos(shared, model, logits, text):
    tokenizer = from_metadata(read(shared / "models" / model).metadata)
    with np.load(shared / "golden" / "logits" / f"{logits}.npz") as arrays:
        expected = arrays["tokens"].tolist()
    begin = (shared / "text" / text).read_text("utf-8")[: 8 * len(expected)]
    assert tokenizer.encode(begin)[: len(expected)] == expected


def test_one_score_for_all_pieces_means_the_order_of_ids(shared):
    # The converter kept no scores. Its own tokenizer.json is the truth; llama.cpp gives other ids for 7 in 8 texts.
    from tokenizers import Tokenizer as HuggingFaceTokenizer

    folder = shared / "models" / "tinystories-656k"
    tokenizer = from_metadata(read(folder / "tinystories-656k-F32.gguf").metadata)
    truth = HuggingFaceTokenizer.from_file(str(folder / "tokenizer.json"))
    lines = (shared / "text" / "tinystories.txt").read_text("utf-8").splitlines()[:300]
    for line in lines:
        expected = truth.encode(line, add_special_tokens=False).ids if line else []
        assert tokenizer.encode(line, add_special=False) == expected

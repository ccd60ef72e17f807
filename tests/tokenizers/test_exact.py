"""Exact: the ids that llama.cpp gives, for the vocabularies of real models."""

import numpy as np
import pytest

from gguf_jax.errors import Unsupported
from gguf_jax.gguf import read
from gguf_jax.tokenizers import from_metadata

VOCABULARIES = (
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
# Their tokenizer models come later.
UNSUPPORTED = {"bert-bge": "bert", "nomic-bert-moe": "t5"}
# No expected ids come with it.
WITHOUT_CASES = ("gpt-neox",)


def test_every_vocabulary_is_named_here(shared):
    found = {path.stem.removeprefix("ggml-vocab-") for path in (shared / "vocab").glob("*.gguf")}
    assert found == {*VOCABULARIES, *UNSUPPORTED, *WITHOUT_CASES}


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
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch(texts, add_special=False) == expected


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_models_say_so(shared, name):
    metadata = read(shared / "vocab" / f"ggml-vocab-{name}.gguf").metadata
    with pytest.raises(Unsupported, match=f"tokenizer model '{UNSUPPORTED[name]}' is not supported yet; .*gpt2, llama"):
        from_metadata(metadata)


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

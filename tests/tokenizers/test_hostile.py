"""Metadata that is not as it must be: every error is one line that names the key, what was expected, what was found."""

import numpy as np
import pytest

from gguf_jax.errors import GGUFJaxError, Unsupported
from gguf_jax.gguf import StringArray
from gguf_jax.tokenizers import from_metadata
from tests.tokenizers.vocabularies import NAMES, P, metadata, with_tokens

BPE = metadata("tiny_bpe")
COUNT = len(BPE[P + "tokens"])
TOKENS = BPE[P + "tokens"]
MERGES = BPE[P + "merges"]
SPM_COUNT = len(metadata("tiny_spm")[P + "tokens"])

# What is changed in a vocabulary, and what the message says.
CASES = [
    ("tiny_bpe", {"model": None}, r"tokenizer\.ggml\.model: expected a string, found nothing"),
    ("tiny_bpe", {"model": 3}, r"tokenizer\.ggml\.model: expected a string, found int 3"),
    ("tiny_bpe", {"model": "x\n" * 999}, r"tokenizer\.ggml\.model: tokenizer model 'x\\n.*\.\.\. is not supported"),
    ("tiny_bpe", {"model": "llama"}, rf"scores: expected an array of {COUNT} numbers, .* found nothing"),
    ("tiny_spm", {"model": "gpt2"}, r"tokenizer\.ggml\.merges: expected an array of strings, found nothing"),
    ("tiny_bpe", {"pre": ["gpt-2"]}, r"tokenizer\.ggml\.pre: expected a string, found a sequence of 1 str"),
    ("tiny_bpe", {"tokens": None}, r"tokenizer\.ggml\.tokens: expected an array of strings, found nothing"),
    ("tiny_bpe", {"tokens": []}, r"tokenizer\.ggml\.tokens: expected at least one token, found none"),
    ("tiny_bpe", {"tokens": "abc"}, r"tokenizer\.ggml\.tokens: expected an array of strings, found the string 'abc'"),
    ("tiny_bpe", {"tokens": np.arange(4)}, r"tokens: expected an array of strings, found an array of 4 int64"),
    ("tiny_bpe", {"tokens": ["a", 5]}, r"tokenizer\.ggml\.tokens\[1\]: expected a string, found int 5"),
    ("tiny_bpe", {"tokens": 7}, r"tokenizer\.ggml\.tokens: expected an array of strings, found int 7"),
    ("tiny_bpe", {"tokens": [*TOKENS[:-1], "!"]}, rf"tokens: expected each text once, found '!' at 3 and {COUNT - 1}"),
    (
        "tiny_bpe",
        {"tokens": TOKENS[:9]},
        r"token_type: expected an array of 9 integers, .* found an array of 518 int32",
    ),
    ("tiny_bpe", {"token_type": np.ones(3, np.int32)}, r"token_type: expected an array of 518 .* found an array of 3"),
    ("tiny_bpe", {"token_type": np.ones(COUNT)}, r"token_type: .* integers, .* found an array of 518 float64"),
    ("tiny_bpe", {"token_type": np.ones((COUNT, 2), int)}, r"token_type: .* found an array of 518 int64"),
    ("tiny_bpe", {"token_type": "1" * COUNT}, r"token_type: .* found the string '111"),
    ("tiny_bpe", {"token_type": ["1"] * COUNT}, r"token_type: .* found a sequence of 518 str"),
    ("tiny_bpe", {"token_type": [[1]] * (COUNT - 1) + [[]]}, r"token_type: .* found a sequence of 518 list"),
    ("tiny_bpe", {"token_type": np.full(COUNT, 9)}, r"token_type\[0\]: expected a token type from 0 to 6, found 9"),
    ("tiny_bpe", {"token_type": np.full(COUNT, 2**40)}, r"token_type\[0\]: .* found 1099511627776"),
    ("tiny_bpe", {"merges": None}, r"tokenizer\.ggml\.merges: expected an array of strings, found nothing"),
    ("tiny_bpe", {"merges": {"a": "b"}}, r"tokenizer\.ggml\.merges: expected an array of strings, found dict"),
    ("tiny_bpe", {"merges": [*MERGES, 1]}, rf"merges\[{len(MERGES)}\]: expected a string, found int 1"),
    ("tiny_bpe", {"merges": ["ab"]}, r"merges\[0\]: expected two texts with one space between, found 'ab'"),
    ("tiny_bpe", {"merges": [MERGES[0], ""]}, r"merges\[1\]: expected two texts with one space between, found ''"),
    (
        "tiny_bpe",
        {"merges": [MERGES[0], "a b c"]},
        r"merges\[1\]: expected two texts with one space between, found 'a b c'",
    ),
    (
        "tiny_bpe",
        {"merges": [MERGES[0], "t zz"]},
        r"merges\[1\]: expected texts of tokens, .* 't zz', and 'zz' is none",
    ),
    ("tiny_bpe", {"merges": ["q q"]}, r"merges\[0\]: expected texts of tokens, found 'q q', and 'qq' is none"),
    ("tiny_bpe", {"merges": ["\udcff t"]}, r"merges\[0\]: expected texts of tokens, found '\\udcff t', and"),
    ("tiny_bpe", {"bos_token_id": "0"}, r"bos_token_id: expected an integer, found the string '0'"),
    ("tiny_bpe", {"eos_token_id": 1.0}, r"eos_token_id: expected an integer, found float 1\.0"),
    ("tiny_bpe", {"eot_token_id": True}, r"eot_token_id: expected an integer, found bool True"),
    ("tiny_bpe", {"fim_pre_token_id": [1]}, r"fim_pre_token_id: expected an integer, found a sequence of 1 int"),
    ("tiny_bpe", {"add_bos_token": 1}, r"add_bos_token: expected a bool, found int 1"),
    ("tiny_bpe", {"add_eos_token": "true"}, r"add_eos_token: expected a bool, found the string 'true'"),
    ("tiny_spm", {"add_space_prefix": 0}, r"add_space_prefix: expected a bool, found int 0"),
    ("tiny_spm", {"scores": None}, rf"scores: expected an array of {SPM_COUNT} numbers, .* found nothing"),
    ("tiny_spm", {"scores": np.ones(5, np.float32)}, rf"scores: .* {SPM_COUNT} numbers, .* an array of 5 float32"),
    ("tiny_spm", {"scores": ["x"] * SPM_COUNT}, rf"scores: .* found a sequence of {SPM_COUNT} str"),
    ("tiny_spm", {"scores": np.full(SPM_COUNT, np.nan)}, r"scores\[0\]: expected a number, found NaN"),
]


@pytest.mark.parametrize(("name", "changes", "message"), CASES)
def test_the_message_says_what_is_wrong(name, changes, message):
    with pytest.raises(GGUFJaxError, match=message) as info:
        from_metadata(metadata(name, **changes)).encode("lamp")
    text = str(info.value)
    assert text.startswith("metadata key tokenizer.ggml.")
    assert text.isprintable()
    assert "pre:" in text or len(text) < 300
    assert isinstance(info.value, Unsupported) == ("supported" in text)


def test_other_keys_are_checked_too():
    for key in ("tokenizer.chat_template", "tokenizer.chat_template.rag", "general.name"):
        with pytest.raises(GGUFJaxError, match=f"{key}: expected a string, found int 5"):
            from_metadata(metadata("tiny_bpe") | {key: 5})


def test_a_byte_token_that_is_no_byte():
    tokens = metadata("tiny_spm")[P + "tokens"]
    with pytest.raises(GGUFJaxError, match=r"tokens\[3\]: expected <0x00> to <0xFF> for a byte token, found 'zero'"):
        from_metadata(metadata("tiny_spm", tokens=[*tokens[:3], "zero", *tokens[4:]]))


def test_a_piece_that_is_too_long():
    with pytest.raises(GGUFJaxError, match=r"tokens\[642\]: expected at most 1024 characters, found 1000000"):
        with_tokens("tiny_spm", "a" * 1_000_000, kind=1).encode("a")


@pytest.mark.parametrize("name", NAMES)
def test_bytes_that_are_no_text_do_no_harm(name):
    model = with_tokens(name, "\udcff\udcfe", "x\udc80", kind=1)
    control = with_tokens(name, "\udcff\udcfe", "x\udc80", kind=3)
    for each in (model, control):
        ids = each.encode("lamp x", add_special=False, parse_special=True)
        assert each.decode(ids) == "lamp x"
        assert each.decode_bytes([each.vocab_size - 2, each.vocab_size - 1]) == b"\xff\xfex\x80"
        assert each.decode([each.vocab_size - 2]) == "\ufffd\ufffd"


@pytest.mark.parametrize("name", NAMES)
def test_the_arrays_of_the_reader_are_taken_as_they_are(name):
    values = metadata(name)
    lazy = {
        key: StringArray.of(value) if isinstance(value, list) and isinstance(value[0], str) else value
        for key, value in values.items()
    }
    assert isinstance(lazy[P + "tokens"], StringArray)
    text = "The lamp on the landing, 今日は"
    assert from_metadata(lazy).encode(text) == from_metadata(values).encode(text)


@pytest.mark.parametrize("name", NAMES)
def test_every_single_missing_key(name):
    for key in metadata(name):
        values = metadata(name)
        del values[key]
        try:
            from_metadata(values).encode("lamp")
        except GGUFJaxError as error:
            assert key in str(error)  # noqa: PT017  # which keys may be missing is not the question here

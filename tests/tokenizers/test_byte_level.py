"""Byte-level BPE and its pre-tokenizers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_jax.errors import GGUFJaxError
from gguf_jax.tokenizers import byte_level_bpe, from_metadata
from gguf_jax.tokenizers.byte_level_bpe import BYTE_OF
from gguf_jax.tokenizers.pre_tokenizers import PRE_TOKENIZERS
from tests.tokenizers.vocabularies import P, metadata, tokenizer, with_tokens

TEXT = (
    "It's 3 o'clock, HERE'S the CamelCase: x+=1234567;\t\t// done...\r\n\r\n  def f(a_b):\n    return  \"ok\"   \n"
    "Größe, naïve, Ångström; Ελλάδα; Привет, мир! नमस्ते ภาษาไทย 안녕하세요 今日は２０２４年… "
    "我想在apple工作 🦙🚀 ½ Ⅷ \u00a0 \u3000 end "
)
# Each pre-tokenizer's words of one text. The first four are facts about GPT-2, Llama 3, Qwen 2 and GPT-4o.
WORDS = {
    "gpt-2": ["It", "'s", " 12345", " CamelCase", " HERE", "'", "S", "!?", "  ", " x", "\n\n"],
    "llama-bpe": ["It", "'s", " ", "123", "45", " CamelCase", " HERE", "'S", "!?", "  ", " x", "\n\n"],
    "qwen2": ["It", "'s", " ", "1", "2", "3", "4", "5", " CamelCase", " HERE", "'S", "!?", "  ", " x", "\n\n"],
    "gpt-4o": ["It's", " ", "123", "45", " Camel", "Case", " HERE'S", "!?", "  ", " x", "\n\n"],
    "tekken": ["It", "'s", " ", "1", "2", "3", "4", "5", " Camel", "Case", " HERE", "'S", "!?", "  ", " x", "\n\n"],
    "starcoder": ["It", "'s", " ", "1", "2", "3", "4", "5", " CamelCase", " HERE", "'", "S", "!?", "  ", " x", "\n\n"],
    "falcon": ["It", "'", "s", " ", "123", "45", " CamelCase", " HERE", "'", "S", "!?", "  ", " x", "\n\n"],
    "afmoe": ["It", "'s", " ", "12", "345", " CamelCase", " HERE", "'S", "!?", "  ", " x", "\n\n"],
    "deepseek-v3": ["It", "'s", " ", "123", "45", " CamelCase", " HERE", "'S", "!?", "  ", " x", "\n\n"],
}


def words(pre: str, text: str) -> list[str]:
    return [text[a:b] for _, (a, b) in byte_level_bpe.words(PRE_TOKENIZERS[pre]).pre_tokenize_str(text)]


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_every_pre_tokenizer_keeps_the_text(pre):
    assert "".join(words(pre, TEXT)) == TEXT
    model = from_metadata(metadata("tiny_bpe", pre=pre))
    assert model.decode(model.encode(TEXT, add_special=False)) == TEXT


@pytest.mark.parametrize("pre", WORDS)
def test_words(pre):
    assert words(pre, "It's 12345 CamelCase HERE'S!?   x\n\n") == WORDS[pre]


def test_files_without_a_pre_tokenizer_get_the_default():
    values = metadata("tiny_bpe", pre=None)
    assert from_metadata(values).encode(TEXT) == from_metadata(values | {P + "pre": "default"}).encode(TEXT)


def test_an_unknown_pre_tokenizer_is_an_error_that_lists_the_known():
    with pytest.raises(
        GGUFJaxError, match=r"tokenizer\.ggml\.pre: .* found 'gpt-9'; known: .*llama-bpe.*qwen2"
    ) as info:
        from_metadata(metadata("tiny_bpe", pre="gpt-9"))
    assert "\n" not in str(info.value)


def test_every_byte_has_a_character():
    assert sorted(BYTE_OF.values()) == list(range(256))
    assert (BYTE_OF["Ġ"], BYTE_OF["Ċ"], BYTE_OF["A"], BYTE_OF["\u0143"]) == (0x20, 0x0A, 0x41, 0xAD)


@pytest.mark.parametrize("name", ["tiny_bpe", "bundled"])
@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_decoding_gives_the_text_back(name, data):
    model = tokenizer(name)
    text = data.draw(st.text(max_size=60))
    ids = model.encode(text, add_special=False)
    assert model.decode(ids) == text
    assert model.decode_bytes(ids) == text.encode()
    assert model.encode_batch([text, "", text], add_special=False) == [ids, [], ids]


def test_lone_surrogates_become_replacement_characters():
    model = tokenizer("tiny_bpe")
    assert model.decode(model.encode("a\ud800b\udcff")) == "a\ufffdb\ufffd"
    assert model.decode(model.encode("\ud83e\udd99")) == "🦙"  # a pair of them is a character


def test_whole_words_come_before_merges_where_the_model_has_it_so():
    # No merge makes "zebra"; llama-bpe finds it as a word, gpt-2 does not.
    for pre, found in (("llama-bpe", True), ("gpt-2", False)):
        model = with_tokens("tiny_bpe", "zebra", kind=1, pre=pre)
        assert (model.encode("zebra", add_special=False) == [model.vocab_size - 1]) is found


def test_whole_words_are_not_control_tokens():
    model = with_tokens("tiny_bpe", "zebra", kind=3, pre="llama-bpe")
    assert model.vocab_size - 1 not in model.encode("zebra")
    assert model.encode("zebra", add_special=False, parse_special=True) == [model.vocab_size - 1]


def test_bytes_of_tokens():
    model = tokenizer("tiny_bpe")
    texts = metadata("tiny_bpe")[P + "tokens"]
    assert model.token_bytes(texts.index("Ġ")) == b" "
    assert model.token_bytes(texts.index("ÿ")) == b"\xff"
    assert model.token_bytes(texts.index("<|im_end|>")) == b"<|im_end|>"
    assert model.token_bytes(texts.index("  indent  ")) == b"  indent  "
    # Added tokens are as they are, even if the file calls them normal.
    assert with_tokens("tiny_bpe", "你好 ", kind=1).token_bytes(len(texts)) == "你好 ".encode()
    assert model.token_text(texts.index("Ġ")) == "Ġ"


def test_of_merges_that_are_there_twice_the_first_counts():
    merges = metadata("tiny_bpe")[P + "merges"]
    twice = from_metadata(metadata("tiny_bpe", merges=[*merges, *reversed(merges)]))
    assert twice.encode(TEXT) == tokenizer("tiny_bpe").encode(TEXT)


def test_a_text_that_the_patterns_cannot_cut_is_an_error():
    # Oniguruma gives up after ten million steps back.
    model = from_metadata(metadata("tiny_bpe", pre="llama-bpe", merges=[]))
    with pytest.raises(GGUFJaxError, match=r"^text of 10000001 characters: the tokenizer gave up: .*retry-limit"):
        model.encode(" " * 10_000_001)
    assert model.decode(model.encode("a lamp")) == "<|endoftext|>a lamp"

"""WordPiece: the same ids as its definition, and what becomes of a text before."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_jax.errors import GGUFJaxError
from gguf_jax.tokenizers import from_metadata
from tests.tokenizers.vocabularies import P, metadata, tokenizer, with_tokens

TOKENS = metadata("tiny_bert")[P + "tokens"]
IDS = {token: i for i, token in enumerate(TOKENS)}
UNK, CLS, SEP = 1, 2, 3


def words_of(text: str) -> list[str]:
    """Words in lower case and without accents, signs and Chinese characters alone."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn").lower()
    signs = {c for c in map(chr, range(0x21, 0x7F)) if not c.isalnum()}
    return "".join(
        f" {c} " if c in signs or "一" <= c <= "鿿" or unicodedata.category(c)[0] == "P" else c for c in plain
    ).split()


def by_definition(word: str) -> list[int]:
    found, rest, mark = [], word, "▁"
    while rest:
        end = next((n for n in range(len(rest), 0, -1) if mark + rest[:n] in IDS), 0)
        if not end or len(word) > 100:
            return [UNK]
        found.append(IDS[mark + rest[:end]])
        rest, mark = rest[end:], ""
    return found


words = [token.strip("▁") for token in TOKENS[-200:] if token.isascii() or token[0] == "▁"]
texts = st.lists(
    st.sampled_from(words) | st.text("aeiou éÀß'.,-_$~ \t\n", max_size=8) | st.integers(90, 120).map("a".__mul__),
    max_size=9,
).map("".join)


@settings(deadline=None, max_examples=300)
@given(texts)
def test_ids_are_those_of_the_definition(text):
    expected = [i for word in words_of(text) for i in by_definition(word)]
    assert tokenizer("tiny_bert").encode(text) == [CLS, *expected, SEP]


def test_control_characters_go_and_chinese_ones_stand_alone():
    model = with_tokens("tiny_bert", "▁日", "▁本", "日", kind=1)
    ids = [model.token_text(i) for i in model.encode("a\0\u200b\ufffda日本", add_special=False)]
    assert ids[-2:] == ["▁日", "▁本"]
    assert ids[:-2] == [model.token_text(i) for i in model.encode("aa", add_special=False)]


def test_a_file_may_keep_case_and_accents():
    changes = {"normalizer.lowercase": False}
    kept = with_tokens("tiny_bert", "▁É", "▁E", kind=1, **changes)
    assert [kept.token_text(i) for i in kept.encode("É E", add_special=False)] == ["▁É", "▁E"]
    stripped = with_tokens("tiny_bert", "▁É", "▁E", kind=1, **changes, **{"normalizer.strip_accents": True})
    assert [stripped.token_text(i) for i in stripped.encode("É E", add_special=False)] == ["▁E", "▁E"]
    lower = with_tokens("tiny_bert", "▁é", kind=1, **{"normalizer.strip_accents": False})
    assert [lower.token_text(i) for i in lower.encode("É", add_special=False)] == ["▁é"]


def test_what_is_added():
    model = tokenizer("tiny_bert")
    assert (model.bos_id, model.end_id, model.sep_id, model.eos_id) == (CLS, SEP, SEP, None)
    assert model.encode("") == [CLS, SEP]
    for changes in ({"add_sep_token": False}, {"add_bos_token": False, "add_eos_token": False, "eos_token_id": 4}):
        assert from_metadata(metadata("tiny_bert", **changes)).encode("") == [CLS, SEP]
    assert from_metadata(metadata("tiny_bert", seperator_token_id=2**32 - 1)).encode("") == [CLS]
    assert model.encode("[CLS]", parse_special=True) == [CLS, CLS, SEP]
    assert model.encode("[CLS]", add_special=False) == model.encode("[ cls ]", add_special=False)


def test_words_come_back():
    model = tokenizer("tiny_bert")
    assert model.decode(model.encode("The  LAMP, é"), skip_special=True) == "the lamp , e"


def test_an_unknown_token_is_needed():
    with pytest.raises(GGUFJaxError, match=r"unknown_token_id: expected a token id, which WordPiece needs, found none"):
        from_metadata(metadata("tiny_bert", unknown_token_id=2**32 - 1)).encode("a")
    with pytest.raises(GGUFJaxError, match=r"normalizer\.lowercase: expected a bool, found int 1"):
        from_metadata(metadata("tiny_bert", **{"normalizer.lowercase": 1}))

"""SentencePiece BPE: the same ids as its definition, and what surrounds it (spaces, bytes, special tokens)."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_jax.gguf import read
from gguf_jax.tokenizers import from_metadata
from tests.tokenizers.vocabularies import P, metadata, tokenizer, with_tokens


def by_definition(text: str, pieces: dict[str, int], scores: list[float], octets: dict[str, int]) -> list[int]:
    """Joins the leftmost two neighbours of the highest score until none are left: quadratic, and plain."""
    parts = list(text)
    while True:
        joined = [(scores[pieces[a + b]], -i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in pieces]
        if not joined:
            break
        i = -max(joined)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [
        i
        for part in parts
        for i in ([pieces[part]] if part in pieces else [octets[f"<0x{b:02X}>"] for b in part.encode()])
    ]


def definition(values):
    tokens, types = list(values[P + "tokens"]), values[P + "token_type"]
    pieces = {token: i for i, token in enumerate(tokens) if types[i] in (1, 4)}
    octets = {token: i for i, token in enumerate(tokens) if types[i] == 6}
    scores = values[P + "scores"].tolist()
    return lambda text: by_definition("▁" + text.replace(" ", "▁"), pieces, scores, octets) if text else []


# Texts that the vocabulary has pieces for, mixed with anything.
WORDS = [token.replace("▁", " ") for token in metadata("tiny_spm")[P + "tokens"][259:-2]]
texts = st.lists(st.sampled_from(WORDS) | st.text(max_size=3) | st.integers(1, 40).map(" ".__mul__), max_size=12).map(
    "".join
)
is_defined = definition(metadata("tiny_spm"))


@settings(deadline=None, max_examples=300)
@given(texts)
def test_ids_are_those_of_the_definition(text):
    if not any(special in text for special in ("<tool>", "[INST]")):
        assert tokenizer("tiny_spm").encode(text, add_special=False) == is_defined(text)


@pytest.mark.parametrize("name", ["llama-spm", "phi-3"])
def test_ids_of_a_real_vocabulary_are_those_of_the_definition(shared, name):
    values = read(shared / "vocab" / f"ggml-vocab-{name}.gguf").metadata
    encode, defined = from_metadata(values).encode, definition(values)
    text = (shared / "text" / "wiki.test.raw").read_text("utf-8")
    random = np.random.default_rng(0)
    pieces = [token.replace("▁", " ") for token in list(values[P + "tokens"])[259:31990]]
    for start in random.integers(0, len(text) - 100, 200).tolist():
        spaces = " " * int(random.integers(1, 40))
        for case in (text[start : start + 100], "".join(random.choice(pieces, 12)), spaces + "a" + spaces):
            assert encode(case, add_special=False) == defined(case)


def test_a_run_of_one_letter_is_cut_from_the_left():
    # They all score alike: the leftmost two come first, so what is left over is at the right.
    model = with_tokens("tiny_spm", "aa", "aaa", "aaaa", kind=1)
    assert [model.token_text(i) for i in model.encode("aaaaaaa", add_special=False)][-2:] == ["aaaa", "aaa"]


def test_characters_that_occur_in_pieces_only():
    model = tokenizer("tiny_spm")
    # 日 is no piece, 日は is one.
    texts = [model.token_text(i) for i in model.encode("日は", add_special=False)]
    assert texts == ["▁", "日は"]
    texts = [model.token_text(i) for i in model.encode("日", add_special=False)]
    assert texts == ["▁", "<0xE6>", "<0x97>", "<0xA5>"]
    assert model.decode(model.encode("日日は今")) == "<s> 日日は今"


def test_characters_without_bytes_are_unknown():
    tokens = [
        token if not token.startswith("<0x") else f"<no {token[3:]}" for token in metadata("tiny_spm")[P + "tokens"]
    ]
    types = np.where(metadata("tiny_spm")[P + "token_type"] == 6, 1, metadata("tiny_spm")[P + "token_type"])
    model = from_metadata(metadata("tiny_spm", tokens=tokens, token_type=types))
    assert [model.token_text(i) for i in model.encode("日😀a", add_special=False)] == ["▁", "<unk>", "<unk>", "a"]
    without = from_metadata(metadata("tiny_spm", tokens=tokens, token_type=types, unknown_token_id=2**32 - 1))
    assert [without.token_text(i) for i in without.encode("日😀a", add_special=False)] == ["▁", "a"]


def test_spaces():
    model = tokenizer("tiny_spm")
    for text in ("a", " a", "  a", "a ", "a  b", "\n a", " ", "        "):
        ids = model.encode(text, add_special=False)
        assert model.token_text(ids[0]).startswith("▁")
        assert model.decode(ids) == text
        assert model.decode(ids, at_start=False) == " " + text
        assert model.decode(model.encode(text), skip_special=True) == text  # BOS is no text
    assert model.encode("", add_special=False) == []
    assert model.encode("") == [1]


def test_the_mark_of_a_space_is_a_space():
    model = tokenizer("tiny_spm")
    assert model.encode("a▁b") == model.encode("a b")
    assert model.decode(model.encode("a▁b", add_special=False)) == "a b"


def test_every_stretch_after_a_special_token_begins_with_a_space():
    model = tokenizer("tiny_spm")
    ids = model.encode("a<tool>b</s>c", add_special=False, parse_special=True)
    assert [model.token_text(i) for i in ids] == ["▁a", "<tool>", "▁b", "</s>", "▁c"]
    assert model.decode(ids) == "a<tool> b</s> c"


def test_without_the_prefix():
    model = from_metadata(metadata("tiny_spm", add_space_prefix=False))
    for text in ("a", " a", "the lamp"):
        ids = model.encode(text, add_special=False)
        assert model.decode(ids) == text
    assert [model.token_text(i) for i in model.encode("a<tool>b", add_special=False)] == ["a", "<tool>", "b"]


def test_no_text_spells_a_control_token_or_a_byte():
    # "</" + "s>" would be "</s>", if control tokens took part in merges.
    model = with_tokens("tiny_spm", "</", "s>", "<0", "<0x", "0A", "0A>", kind=1)
    texts = [model.token_text(i) for i in model.encode("</s><0x0A>", add_special=False)]
    assert {"</", "s>", "<0x", "0A>"} <= set(texts)
    assert not {"</s>", "<0x0A>"} & set(texts)


def test_phi_3_drops_white_space_after_special_tokens():
    values = metadata("tiny_spm") | {"general.name": "Phi-3 mini"}
    model = from_metadata(values)
    ids = model.encode("a</s> \n b<s>  c", add_special=False, parse_special=True)
    assert [model.token_text(i) for i in ids] == ["▁a", "</s>", "▁b", "<s>", "▁▁", "▁c"]


def test_bytes_of_tokens():
    model = tokenizer("tiny_spm")
    texts = metadata("tiny_spm")[P + "tokens"]
    assert model.token_bytes(texts.index("<0xE6>")) == b"\xe6"
    assert model.token_bytes(texts.index("▁the")) == b" the"
    assert model.token_bytes(texts.index("[INST]")) == b"[INST]"
    assert with_tokens("tiny_spm", "x▁y", kind=4).token_bytes(len(texts)) == "x▁y".encode()
    assert with_tokens("tiny_spm", "\udcff▁", kind=1).token_bytes(len(texts)) == b"\xff "

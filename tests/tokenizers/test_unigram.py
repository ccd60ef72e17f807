"""Unigram: the same ids as its definition; the table of replacements, and what a broken one gives."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf import read
from gguf_jax.tokenizers import from_metadata
from gguf_jax.tokenizers.charsmap import KEY, Charsmap
from tests.tokenizers.vocabularies import P, metadata, tokenizer, with_tokens

VALUES = metadata("tiny_t5")
TOKENS, TYPES, SCORES = (VALUES[P + key] for key in ("tokens", "token_type", "scores"))
PIECES = {token: i for i, token in enumerate(TOKENS) if TYPES[i] in (1, 4)}
WORDS = [token.replace("▁", " ") for token in TOKENS[259:-2]]
texts = st.lists(st.sampled_from(WORDS) | st.text(max_size=3) | st.integers(1, 9).map(" ".__mul__), max_size=12).map(
    "".join
)


def by_definition(text: str) -> list[int]:
    """The best cut of a prepared text, from the best cuts of all its beginnings."""
    scores = [0.0 if TYPES[i] == 4 else float(SCORES[i]) for i in range(len(TOKENS))]
    lowest = min(scores[i] for i in PIECES.values() if TYPES[i] == 1)
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(text) + 1):
        ways = [(best[i][0] + scores[PIECES[text[i:end]]], i) for i in range(end) if text[i:end] in PIECES]
        if text[end - 1] not in PIECES:
            ways.append((best[end - 1][0] + lowest - 10, end - 1))
        best.append(max(ways, default=(-math.inf, 0), key=lambda way: way[0]))
    cuts = [len(text)]
    while cuts[0]:
        cuts.insert(0, best[cuts[0]][1])
    parts = [text[i:j] for i, j in itertools.pairwise(cuts)]
    octets = [TOKENS.index(f"<0x{i:02X}>") for i in range(256)]
    return [j for part in parts for j in ([PIECES[part]] if part in PIECES else [octets[b] for b in part.encode()])]


@settings(deadline=None, max_examples=300)
@given(texts)
def test_ids_are_those_of_the_definition(text):
    if not any(special in text for special in ("<tool>", "[INST]")):
        prepared = (" " * bool(text) + text).replace(" ", "▁")
        assert tokenizer("tiny_t5").encode(text, add_special=False) == by_definition(prepared)


def test_characters_without_pieces_are_one_unknown_token_where_bytes_are_none():
    types = np.where(TYPES == 6, 5, TYPES)
    model = from_metadata(metadata("tiny_t5", token_type=types))
    assert [model.token_text(i) for i in model.encode("日😀a<0x41>", add_special=False)][:3] == ["▁", "<unk>", "a"]
    assert not set(model.encode("<0x41>", add_special=False)) & set(range(3, 259))


def test_spaces():
    model = tokenizer("tiny_t5")
    merged = from_metadata(metadata("tiny_t5", remove_extra_whitespaces=True))
    bare = from_metadata(metadata("tiny_t5", add_space_prefix=False))
    for text in ("a", " a", "  a  b ", "lamp  "):
        assert model.decode(model.encode(text, add_special=False)) == text
        assert bare.decode(bare.encode(text, add_special=False)) == text
        ids = merged.encode(text, add_special=False)
        assert merged.decode(ids) == " ".join(text.split())
        assert ids == model.encode(" ".join(text.split()), add_special=False)
    assert merged.encode("  ", add_special=False) == model.encode("", add_special=False) == []
    assert merged.encode("") == [2]


def test_pieces_that_are_no_pieces():
    # control tokens, unused ones and bytes are never spelled, and a user's own costs nothing
    for kind in (3, 5):
        model = with_tokens("tiny_t5", "lampl", kind=kind)
        assert model.encode("lampl") == tokenizer("tiny_t5").encode("lampl")
    model = with_tokens("tiny_t5", "lampl", kind=4)
    assert model.vocab_size - 1 in model.encode("lampl")


def test_an_unknown_token_is_needed():
    with pytest.raises(GGUFJaxError, match=r"unknown_token_id: expected a token id, which Unigram needs, found none"):
        from_metadata(metadata("tiny_t5", unknown_token_id=2**32 - 1)).encode("a")


def blob_of(shared) -> bytes:
    return read(shared / "vocab" / "ggml-vocab-nomic-bert-moe.gguf").metadata[KEY].tobytes()


def test_replacements_are_those_of_another_reader(shared):
    blob = blob_of(shared)
    mine, theirs = Charsmap(blob), normalizers.Precompiled(blob)
    for code in (*range(1, 0x3100), *range(0xF900, 0x10000)):
        assert mine(chr(code)) == theirs.normalize_str(chr(code))
    marks = ("\u0300", "\u0301", "\u0308", "\u0323", "\u0327")
    for letter in "aeiouAEIOUcCnNsSyYzZ":
        for first in marks:
            for second in ("", *marks):
                text = f"x{letter}{first}{second}y"
                # two marks on a letter are a key of their own or not: the longest key counts
                assert mine(text)[:1] + mine(text)[-1:] == "xy"
                assert second or mine(text) == theirs.normalize_str(text)
    assert mine("①Ⅳﬁ\u00a0e\u0301") == "1IVfi é"


def unit(label=0, offset=0, leaf=False):
    return (offset << 10 | leaf << 8 | label).to_bytes(4, "little")


def table(*units: bytes, texts: bytes = b"b\0") -> bytes:
    return (4 * len(units)).to_bytes(4, "little") + b"".join(units) + texts


def one_letter(value: int, texts: bytes = b"b\0", offset: int = 2) -> bytes:
    """A table with the key `a`: the root's children stand at 0 ^ letter, a's own from `offset` on."""
    units = [unit()] * 128
    units[ord("a")] = unit(ord("a"), ord("a") ^ offset, leaf=True)
    units[2] = (1 << 31 | value).to_bytes(4, "little")
    return table(*units, texts=texts)


def test_a_table_made_by_hand():
    assert Charsmap(one_letter(0))("banana a\0é") == "bbnbnb b\0é"


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "expected the size of a table, the table and texts, found 0 bytes"),
        (b"\4\0\0\0\0\0\0\0", "found 8 bytes, of which 4 are to be the table"),
        (b"\xff\xff\xff\xff" + bytes(40), "of which 4294967295 are to be the table"),
        (b"\6\0\0\0" + bytes(40), "of which 6 are to be the table"),
        (one_letter(7), "expected a text that ends in the 2 bytes, found none at 7"),
        (one_letter(0, b"bcd"), "expected a text that ends in the 3 bytes, found none at 0"),
        (one_letter(0, offset=500), "expected a text that ends in the 2 bytes, found none at 2"),
    ],
)
def test_a_broken_table(blob, message):
    with pytest.raises(GGUFJaxError, match=f"^metadata key {re.escape(KEY)}: .*{re.escape(message)}"):
        Charsmap(blob)("banana")


def test_a_table_that_goes_in_circles_comes_to_an_end():
    units = [unit()] * 128
    units[ord("a")] = unit(ord("a"), 0)
    units[0] = unit(0, 0)
    # a's child for "a" is a itself
    units[ord("a")] = unit(ord("a"), ord("a"))
    assert Charsmap(table(*units))("a" * 100_000) == "a" * 100_000


def test_random_tables_do_no_harm():
    random = np.random.default_rng(1)
    for size in (1, 2, 7, 300):
        for _ in range(50):
            blob = table(*(random.bytes(4) for _ in range(size)), texts=random.bytes(9))
            try:
                Charsmap(blob)("The lamp on the landing, 今日は\0 é" * 3)
            except GGUFJaxError as error:
                assert KEY in str(error)  # noqa: PT017  # whether there is an error is not the question here


def test_the_table_must_be_bytes():
    for value in (np.zeros(9, np.int32), "abc", 5):
        with pytest.raises(GGUFJaxError, match=r"precompiled_charsmap: expected an array of bytes, found"):
            from_metadata(metadata("tiny_t5", precompiled_charsmap=value))
    with pytest.raises(GGUFJaxError, match=r"precompiled_charsmap: expected the size"):
        from_metadata(metadata("tiny_t5", precompiled_charsmap=np.zeros(3, np.uint8)))

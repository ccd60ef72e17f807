"""Properties of decoding: a stream is a decode, cut anywhere, and never shows part of a character."""

import copy
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_jax.errors import GGUFJaxError
from tests.tokenizers.vocabularies import ALL_NAMES, NAMES, metadata, tokenizer

ALL = (*ALL_NAMES, "bundled")


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=200)
@given(data=st.data(), skip=st.booleans(), at_start=st.booleans())
def test_a_stream_is_a_decode(name, data, skip, at_start):
    model = tokenizer(name)
    ids = data.draw(st.lists(st.integers(0, model.vocab_size - 1), max_size=30))
    stream = model.stream(skip_special=skip, at_start=at_start)
    shown = "".join([*(stream.put(i) for i in ids), stream.flush()])
    assert shown == model.decode(ids, skip_special=skip, at_start=at_start)
    joined = model.decode_bytes(ids, skip_special=skip, at_start=at_start)
    assert joined.decode("utf-8", "replace") == shown


@pytest.mark.parametrize("name", [*NAMES, "bundled"])
@settings(deadline=None, max_examples=100)
@given(text=st.text(alphabet="aé日🦙👨‍👩‍👧é ", max_size=12))
def test_a_stream_never_shows_part_of_a_character(name, text):
    model = tokenizer(name)
    stream = model.stream()
    shown = ""
    for i in model.encode(text, add_special=False):
        shown += stream.put(i)
        assert text.startswith(shown)
    assert stream.flush() == ""
    assert shown == text


def test_an_incomplete_character_is_replaced_at_the_end():
    model = tokenizer("tiny_bpe")
    ids = model.encode("🦙", add_special=False)
    assert len(ids) > 1
    stream = model.stream()
    assert [stream.put(i) for i in ids[:-1]] == [""] * (len(ids) - 1)
    assert stream.flush() == "\ufffd"
    assert model.decode(ids[:-1]) == "\ufffd"
    assert model.decode_bytes(ids[:-1]) == "🦙".encode()[:-1]


@pytest.mark.parametrize("name", NAMES)
def test_decoding_piece_by_piece(name):
    model = tokenizer(name)
    ids = model.encode("Größe 今日 lamp", add_special=False)
    for cut in range(len(ids) + 1):
        parts = model.decode_bytes(ids[:cut]) + model.decode_bytes(ids[cut:], at_start=cut == 0)
        assert parts.decode() == "Größe 今日 lamp"


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_can_be_left_out(name):
    model = tokenizer(name)
    eos = model.eos_id
    assert eos is not None
    assert model.is_control(eos)
    ids = [eos, *model.encode("lamp", add_special=False), eos]
    assert model.decode(ids, skip_special=True) == "lamp"
    ending = model.token_text(eos)
    assert model.decode(ids).startswith(ending)
    assert model.decode(ids).endswith("lamp" + ending)


def test_unknown_tokens_are_left_out_as_well():
    model = tokenizer("tiny_spm")
    assert not model.is_control(0)
    assert (model.decode([0]), model.decode([0], skip_special=True)) == ("<unk>", "")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("bad", [-1, None, 2**31, 2**64])
def test_an_id_outside_of_the_vocabulary_is_an_error(name, bad):
    model = tokenizer(name)
    bad = model.vocab_size if bad is None else bad
    calls = (
        model.token_bytes,
        model.token_text,
        model.is_control,
        model.stream().put,
        model.stream(skip_special=True).put,
    )
    for call in (*calls, lambda i: model.decode([0, i]), lambda i: model.decode([i], skip_special=True)):
        with pytest.raises(GGUFJaxError, match=f"^token id: expected 0 to {model.vocab_size - 1}, found {bad}$"):
            call(bad)


def test_ids_may_be_an_array():
    model = tokenizer("tiny_bpe")
    ids = model.encode("the lamp")
    for array in (np.array(ids, np.int32), tuple(ids), iter(ids), np.array(ids, np.uint16)):
        assert model.decode(array) == "the lamp"


def test_a_tokenizer_is_itself():
    model = tokenizer("tiny_bpe")
    assert copy.deepcopy(model) is model
    assert copy.copy(model) is model
    assert len({model, tokenizer("tiny_bpe"), tokenizer("tiny_spm")}) == 2
    assert repr(model) == f"Tokenizer(ByteLevelBPE, {model.vocab_size} tokens)"
    assert model.vocab_size == len(metadata("tiny_bpe")["tokenizer.ggml.tokens"])


@pytest.mark.parametrize("name", NAMES)
def test_decoding_builds_no_encoder(name):
    from gguf_jax.tokenizers import from_metadata

    model = from_metadata(metadata(name))
    model.decode(range(model.vocab_size))
    assert model.eog_ids
    assert "_backend" not in vars(model)
    assert "_all_added" not in vars(model)
    model.encode("a")
    assert "_backend" in vars(model)


def test_all_ids_decode():
    for name in ALL:
        model = tokenizer(name)
        whole = model.decode_bytes(range(model.vocab_size), at_start=False)
        assert whole == b"".join(itertools.chain(model.token_bytes(i) for i in range(model.vocab_size)))

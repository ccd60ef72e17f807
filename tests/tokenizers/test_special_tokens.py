"""BOS and EOS, tokens written in a text, and the tokens that end a generation."""

import pytest

from gguf_jax.errors import GGUFJaxError
from gguf_jax.tokenizers import from_metadata
from tests.tokenizers.vocabularies import NAMES, P, metadata, tokenizer, with_tokens

NONE = 4294967295


@pytest.mark.parametrize(
    ("name", "changes", "bos", "eos"),
    [
        ("tiny_spm", {}, True, False),
        ("tiny_spm", {"add_bos_token": False, "add_eos_token": True}, False, True),
        ("tiny_bpe", {}, False, False),
        ("tiny_bpe", {"pre": "llama-bpe"}, True, False),
        ("tiny_bpe", {"pre": "tekken"}, True, False),
        ("tiny_bpe", {"pre": "llama-bpe", "add_bos_token": False}, False, False),
        ("tiny_bpe", {"pre": "llama-bpe", "bos_token_id": NONE}, False, False),
        ("tiny_bpe", {"pre": "qwen2"}, False, False),
        ("tiny_bpe", {"add_bos_token": True, "add_eos_token": True}, True, True),
    ],
)
def test_what_is_added(name, changes, bos, eos):
    model = from_metadata(metadata(name, **changes))
    assert (model.add_bos, model.add_eos) == (bos, eos)
    plain = model.encode("lamp", add_special=False)
    assert model.encode("lamp") == [model.bos_id] * bos + plain + [model.eos_id] * eos
    assert model.encode("") == [model.bos_id] * bos + [model.eos_id] * eos
    assert model.encode_batch(["lamp", "lamp"]) == [model.encode("lamp")] * 2


@pytest.mark.parametrize("role", ["bos", "eos"])
def test_adding_a_token_that_is_not_there_is_an_error(role):
    with pytest.raises(GGUFJaxError, match=rf"add_{role}_token: expected false, as there is no {role.upper()} token"):
        from_metadata(metadata("tiny_bpe", **{f"add_{role}_token": True, f"{role}_token_id": NONE}))


def test_roles():
    model = from_metadata(
        metadata(
            "tiny_bpe", unknown_token_id=3, seperator_token_id=4, padding_token_id=5, mask_token_id=6, eom_token_id=7
        )
    )
    ids = (model.bos_id, model.eos_id, model.unk_id, model.sep_id, model.pad_id, model.mask_id, model.eom_id)
    assert ids == (0, 0, 3, 4, 5, 6, 7)
    assert model.token_text(model.eot_id or 0) == "<|im_end|>"
    assert model.fim_ids["pad"] == model.vocab_size - 2
    assert from_metadata(metadata("tiny_bpe", suffix_token_id=9)).fim_ids["suf"] == 9
    assert from_metadata(metadata("tiny_bpe", suffix_token_id=9, fim_suf_token_id=8)).fim_ids["suf"] == 8


@pytest.mark.parametrize("none", [NONE, -1, 518, 2**63])
def test_an_id_out_of_range_is_none(none):
    model = from_metadata(metadata("tiny_bpe", bos_token_id=none, eos_token_id=none, padding_token_id=none))
    assert (model.bos_id, model.eos_id, model.pad_id) == (None, None, None)


def test_files_that_name_no_roles():
    model = from_metadata(metadata("tiny_spm", bos_token_id=None, eos_token_id=None, unknown_token_id=None))
    assert (model.bos_id, model.eos_id, model.unk_id) == (1, 2, 0)
    model = from_metadata(metadata("tiny_bpe", bos_token_id=None, eos_token_id=None))
    assert (model.bos_id, model.eos_id, model.unk_id) == (None, None, None)


def test_control_tokens_in_a_text_are_text_unless_asked_for():
    model = tokenizer("tiny_bpe")
    text = "<|im_start|>user\nlamp<|im_end|>"
    plain = model.encode(text)
    assert not any(map(model.is_control, plain))
    parsed = model.encode(text, parse_special=True)
    assert [model.token_text(i) for i in parsed if model.is_control(i)] == ["<|im_start|>", "<|im_end|>"]
    assert parsed == [1, *model.encode("user\nlamp"), 2]
    assert model.decode(plain) == model.decode(parsed) == text


@pytest.mark.parametrize("parse", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_user_defined_tokens_are_always_recognised(name, parse):
    model = tokenizer(name)
    ids = model.encode("<tool>lamp<tool>", add_special=False, parse_special=parse)
    assert [model.token_text(i) for i in (ids[0], ids[-1])] == ["<tool>"] * 2
    assert model.decode(ids).replace(" lamp", "lamp") == "<tool>lamp<tool>"


def test_the_longest_token_comes_first():
    model = with_tokens("tiny_bpe", "<a>", "<a><b>", "<b><c>", "<b><c><", kind=4)

    def split(text: str) -> list[str]:
        return [model.token_text(i) for i in model.encode(text)]

    # Of two that are as long, the one with the lower id.
    assert split("<a><b><c>") == ["<a><b>", *split("<c>")]
    assert split("<b><c>") == ["<b><c>"]
    assert split("<a><b>") == ["<a><b>"]
    assert split("<a><b><c><a>") == ["<a>", "<b><c><", *split("a>")]
    assert split("<a><a>") == ["<a>", "<a>"]


def test_what_ends_a_generation():
    model = tokenizer("tiny_bpe")
    assert {model.token_text(i) for i in model.eog_ids} == {"<|endoftext|>", "<|im_end|>", "<fim_pad>"}
    assert isinstance(model.eog_ids, frozenset)
    assert tokenizer("tiny_spm").eog_ids == {2}
    assert from_metadata(metadata("tiny_spm", eot_token_id=300, eom_token_id=301)).eog_ids == {2, 300, 301}


@pytest.mark.parametrize(("kind", "ends"), [(1, False), (2, True), (3, True), (4, True)])
def test_a_well_known_text_ends_a_generation_unless_it_is_a_normal_token(kind, ends):
    model = with_tokens("tiny_spm", "<end_of_turn>", kind=kind)
    i = model.vocab_size - 1
    assert (i in model.eog_ids, model.is_control(i)) == (ends, ends)
    assert (i in model.encode("<end_of_turn>")) is False
    assert (i in model.encode("<end_of_turn>", parse_special=True)) is ends


def test_a_well_known_text_ends_a_generation_where_the_file_has_no_types():
    values = metadata("tiny_bpe", token_type=None)
    model = from_metadata(values)
    assert {model.token_text(i) for i in model.eog_ids} == {"<|endoftext|>", "<|im_end|>", "<fim_pad>"}
    assert model.encode("lamp") == tokenizer("tiny_bpe").encode("lamp")


@pytest.mark.parametrize(
    ("texts", "not_an_end"),
    [
        (("<|end|>", "<|return|>", "<|call|>"), "<|end|>"),  # gpt-oss
        (("<|end|>", "<|calls|>", "<|flush|>"), "<|end|>"),  # Solar Open
        (("</s>", "<|tool_response>", "<turn|>"), "</s>"),  # Gemma 4
        (("<|end|>", "<|assistant|>"), "<|assistant|>"),  # Phi 3
    ],
)
def test_vocabularies_where_a_text_does_not_end_a_generation(texts, not_an_end):
    model = with_tokens("tiny_bpe", *texts, kind=3)
    ends = {model.token_text(i) for i in model.eog_ids}
    assert ends & set(texts) == set(texts) - {not_an_end}


def test_an_empty_token_is_never_found():
    model = with_tokens("tiny_bpe", "", "", kind=3)
    assert model.encode("lamp", parse_special=True) == tokenizer("tiny_bpe").encode("lamp")
    assert model.decode([model.vocab_size - 1]) == ""
    assert with_tokens("tiny_spm", "", kind=1).encode("lamp") == tokenizer("tiny_spm").encode("lamp")


def test_keys_of_the_table_are_the_format_s():
    # The PyPI package that defines them, where it is installed.
    constants = pytest.importorskip("gguf.constants", reason="needs the package gguf")
    from gguf_jax.tokenizers.special_tokens import KEYS

    known = {value for name, value in vars(constants.Keys.Tokenizer).items() if name.endswith("_ID")}
    # the package has forgotten what BERT's files of 2024 write
    assert {P + key for names in KEYS.values() for key in names} <= known | {P + "cls_token_id"}

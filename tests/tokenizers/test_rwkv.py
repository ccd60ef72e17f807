"""RWKV's tokenizer: the longest token at every byte."""

import ast

from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_jax.tokenizers import from_metadata
from tests.tokenizers.vocabularies import P, metadata, tokenizer

TOKENS = metadata("tiny_rwkv")[P + "tokens"]
# as Python itself reads them; a token with a single quote is written in double ones
BYTES = {ast.literal_eval(f'b"{token}"' if "'" in token else f"b'{token}'"): i for i, token in enumerate(TOKENS) if i}
WORDS = [piece.decode("utf-8", "ignore") for piece in BYTES if len(piece) > 1]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=12).map("".join))
def test_ids_are_those_of_the_definition(text):
    left, expected = text.encode(), []
    while left:
        longest = max((piece for piece in BYTES if left.startswith(piece)), key=len)
        expected.append(BYTES[longest])
        left = left[len(longest) :]
    model = tokenizer("tiny_rwkv")
    assert model.encode(text) == expected
    assert model.decode(expected) == text


def test_every_token_is_its_bytes():
    model = tokenizer("tiny_rwkv")
    for piece, i in BYTES.items():
        assert model.token_bytes(i) == piece
    assert model.token_bytes(0) == b"<s>"


def test_bytes_without_a_token():
    tokens = ["<s>", "a", "aab", r"\xe6\x97"]
    types = metadata("tiny_rwkv")[P + "token_type"][:4]
    model = from_metadata(metadata("tiny_rwkv", tokens=tokens, token_type=types))
    assert model.encode("aaabax日") == [1, 2, 1, 3]
    unknown = from_metadata(metadata("tiny_rwkv", tokens=tokens, token_type=types, unknown_token_id=0))
    assert unknown.encode("aaabax日") == [1, 2, 1, 0, 3, 0]
    assert unknown.encode("") == []

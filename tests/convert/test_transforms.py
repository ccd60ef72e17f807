"""Transformations of weights: what they mean, that `inverse` undoes `forward`, and that rows are those of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_jax.convert.rows import Array, count, whole
from gguf_jax.convert.transforms import (
    Chain,
    Deal,
    LatentKV,
    RowOrder,
    Same,
    Shift,
    Split,
    Stack,
    Transpose,
    grouped_qkv,
    interleaved_rope,
)  # fmt: skip


def values(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


CASES = {
    "same": (Same(), [(6, 5)]),
    "rope": (interleaved_rope(3, 24), [(24, 5)]),
    "rope of a bias": (interleaved_rope(3, 24), [(24,)]),
    "grouped": (grouped_qkv(2, 3, 4), [(40, 5)]),
    "transpose": (Transpose(), [(6, 5)]),
    "transpose of several": (Transpose(), [(3, 6, 5)]),
    "transpose of a bias": (Transpose(), [(6,)]),
    "stack": (Stack(), [(6, 5)] * 4),
    "stack of vectors": (Stack(), [(6,)] * 4),
    "split": (Split(2), [(8, 5)]),
    "split of several": (Split(2), [(3, 8, 5)]),
    "order of several": (RowOrder((2, 0, 1)), [(4, 3, 5)]),
    "deal": (Deal(2), [(8, 5)]),
    "deal of several": (Deal(2), [(3, 8, 5)]),
    "deal of biases": (Deal(2, columns=True), [(3, 8)]),
    "latent": (LatentKV(3, 4, 5), [(27, 6)]),
    "chain": (Chain((Transpose(), Split(2))), [(3, 5, 8)]),
}


@pytest.mark.parametrize("name", list(CASES))
def test_property_inverse_undoes_forward(name):
    transform, shapes = CASES[name]
    given = [values(*shape) for shape in shapes]
    back = transform.inverse(transform.forward([Array(each) for each in given]))
    assert len(back) == len(given)
    for found, expected in zip(back, given, strict=True):
        assert found.shape == expected.shape
        np.testing.assert_array_equal(whole(found), expected)


@pytest.mark.parametrize("name", list(CASES))
def test_property_rows_are_those_of_the_whole(name):
    transform, shapes = CASES[name]
    for tensor in transform.forward([Array(values(*shape)) for shape in shapes]):
        rows = whole(tensor).reshape(count(tensor), -1)
        for first in range(count(tensor)):
            for last in range(first, count(tensor) + 1):
                np.testing.assert_array_equal(tensor.rows(first, last), rows[first:last])


def test_rope_pairs_what_was_in_halves():
    w = values(12, 5)
    (found,) = interleaved_rope(2, 12).forward([Array(w)])
    np.testing.assert_array_equal(whole(found)[[0, 1, 2, 3]], w[[0, 3, 1, 4]])
    np.testing.assert_array_equal(whole(found)[[6, 7]], w[[6, 9]])


def test_groups_come_apart():
    w = np.arange(2 * 5 * 2, dtype=np.float32)[:, None]  # two groups of three queries, a key and a value, two long
    (found,) = grouped_qkv(2, 3, 2).forward([Array(w)])
    queries, keys, rest = np.split(whole(found)[:, 0], [12, 16])
    assert queries.tolist() == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15]
    assert (keys.tolist(), rest.tolist()) == ([6, 7, 16, 17], [8, 9, 18, 19])


def test_split_of_experts_takes_halves_of_each():
    w = values(3, 8, 5)
    gate, up = Split(2).forward([Array(w)])
    np.testing.assert_array_equal(whole(gate), w[:, :4])
    np.testing.assert_array_equal(whole(up), w[:, 4:])


def test_rows_are_dealt_in_turn():
    w = values(3, 8, 5)
    gate, up = Deal(2).forward([Array(w)])
    np.testing.assert_array_equal(whole(gate), w[:, ::2])
    np.testing.assert_array_equal(whole(up), w[:, 1::2])
    biases = values(3, 8)
    gate, up = Deal(2, columns=True).forward([Array(biases)])
    np.testing.assert_array_equal(np.stack([whole(gate), whole(up)], -1).reshape(3, 8), biases)


def test_one_added_to_a_norm_is_taken_away_again():
    w = values(50)
    (found,) = Shift(1.0).forward([Array(w)])
    np.testing.assert_array_equal(whole(found), w + np.float32(1))
    again = Shift(1.0).forward(Shift(1.0).inverse([found]))
    np.testing.assert_array_equal(whole(again[0]), whole(found))


@pytest.mark.parametrize(
    ("transform", "shapes", "message"),
    [
        (interleaved_rope(3, 24), [(20, 5)], r"expected 24 rows, found 20 in \[20, 5\]"),
        (Split(2), [(7, 5)], r"expected a multiple of 2 rows, found 7 in \[7, 5\]"),
        (Stack(), [(6, 5), (6, 4)], r"expected one shape, found \[6, 4\] and \[6, 5\]"),
    ],
)
def test_a_shape_that_does_not_fit(transform, shapes, message):
    with pytest.raises(ValueError, match=message):
        transform.forward([Array(values(*shape)) for shape in shapes])

"""`bench.kernels` times every op on shapes of its own table."""

import json

import pytest

from gguf_jax.bench.kernels import OPS, Chosen, timings
from gguf_jax.cli.bench_kernels import _text
from gguf_jax.errors import GGUFJaxError


def test_every_op_is_timed_by_every_implementation():
    chosen = Chosen(types=["Q4_K", "f16"], shapes=["small.*"], rows=[3], seconds=0.001)
    found = list(timings(chosen))
    assert {timing.op for timing in found} == set(OPS)
    linear = {(each.type, each.shape, each.precision) for each in found if each.op == "linear"}
    assert len(linear) == 2 * 2 * 2
    assert {each.rows for each in found if each.op != "attention"} == {3}
    for each in found:
        assert 0 < each.seconds < 10
        row = each.as_dict()
        assert row["gb_per_s"] >= 0
        assert row["share_of_limit"] > 0
    assert any(each.implementation == "xla" for each in found)


def test_small_shapes_must_be_asked_for():
    assert [name for name, _ in Chosen().of_shapes({"small.wide": 1, "qwen2-1.5b.output": 2})] == ["qwen2-1.5b.output"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            Chosen(ops=["conv"]),
            "--op: expected one of linear, linears, gated_linear, grouped_linear, attention, take_rows, rms_norm, ",
        ),
        (Chosen(types=["Q9_9"]), "--type: expected one of F32,"),
        (Chosen(implementations=["cuda"]), "--implementation: expected one of "),
        (Chosen(shapes=["gpt-9.*"]), "--shape: expected a pattern of "),
    ],
)
def test_what_there_is_not_is_an_error(chosen, message):
    with pytest.raises(GGUFJaxError) as error:
        next(timings(chosen))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_formats():
    (timing, *_) = timings(Chosen(["take_rows"], ["Q8_0"], ["small.*"], [1], ["xla"], seconds=0.001))
    row = timing.as_dict()
    text = _text(row, "json", True) + _text(row, "json", False) + "\n]\n"
    assert json.loads(text) == [row, row]
    assert json.loads(_text(row, "jsonl", True)) == row
    header, line = _text(row, "csv", True).splitlines()
    assert dict(zip(header.split(","), line.split(","), strict=True))["type"] == "Q8_0"
    lines = _text(row, "md", True).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 3

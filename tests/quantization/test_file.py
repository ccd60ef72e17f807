"""Quantizing a file: bytes, types and metadata are what the formats, the recipes and llama-quantize say (*exact*), for
any chunks and workers (*property*)."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import FORMATS, FileType, GGMLType
from gguf_jax.gguf import Typed, ValueType, read, write
from gguf_jax.gguf.split import groups_of, write_shards
from gguf_jax.quantization import chunks
from gguf_jax.quantization.file import quantize_file
from gguf_jax.quantization.imatrix import read_imatrix
from gguf_jax.quantization.imatrix_file import read_sums
from gguf_jax.quantization.step import Options
from tests.gguf.checks import one_line
from tests.quantization.models import BFLOAT16, contents, encoded, leftovers, make, make_imatrix, metadata, tensors

pytestmark = pytest.mark.usefixtures("numpy_encoder")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, BFLOAT16], ids=["F16", "F32", "BF16"])
@pytest.mark.parametrize("file_type", ["Q8_0", "Q4_0", "Q4_K_M", "F16", "BF16", "F32"])
def test_tensors_are_what_the_formats_encode(tmp_path, dtype, file_type):
    source = make(tmp_path / "in.gguf", dtype=dtype)
    result = quantize_file(source, tmp_path / "out.gguf", file_type)
    given = tensors(dtype=dtype)
    with read(source) as before, read(tmp_path / "out.gguf", strict=True) as after:
        assert sorted(after.tensors) == sorted(given)
        for done, view in zip(result.tensors, after.tensors.values(), strict=True):
            assert (done.name, done.type, done.bytes_after) == (view.name, view.type, view.nbytes)
            assert done.found == before.tensors[view.name].type
            if view.type == done.found:
                expected = before.tensors[view.name].blocks()
            else:
                expected = encoded(given[view.name], view.type)
            np.testing.assert_array_equal(view.blocks(), expected)
        assert after.metadata["general.file_type"] == FileType["ALL_F32" if file_type == "F32" else file_type]
    assert result.bytes_after == sum(tensor.bytes_after for tensor in result.tensors)
    assert leftovers(tmp_path) == []


def test_metadata_move_behind_all_others_when_they_are_set(model, tmp_path):
    changes = {"general.name": "other", "new.key": Typed(7, ValueType.U32)}
    matrix = make_imatrix(tmp_path / "m.gguf")
    quantize_file(model, tmp_path / "out.gguf", "Q8_0", imatrix=matrix, overrides=changes)
    with read(tmp_path / "out.gguf") as after:
        kept = [key for key in metadata() if key not in ("general.file_type", "general.name")]
        assert list(after.metadata) == [
            *kept, "general.quantization_version", "general.file_type", "general.name", "new.key",
            "quantize.imatrix.file", "quantize.imatrix.dataset", "quantize.imatrix.entries_count",
            "quantize.imatrix.chunks_count",
        ]  # fmt: skip
        assert after.metadata["quantize.imatrix.entries_count"] == 14
        assert after.metadata["quantize.imatrix.chunks_count"] == 3
        assert after.metadata["general.name"] == "other"


def test_importances_reach_the_tensor_and_the_expert_that_they_are_of(model, tmp_path):
    experts = np.float16(np.random.default_rng(3).standard_normal((4, 24, 256)))
    source = make(tmp_path / "moe.gguf", extra={"blk.0.ffn_up_exps.weight": experts})
    matrix = make_imatrix(tmp_path / "m.gguf")
    with read(matrix) as found:
        entries = {name: view.dequantize() for name, view in found.tensors.items()}
        weights = np.float32(np.random.default_rng(4).uniform(0.1, 4, (4, 256)))
        entries["blk.0.ffn_up_exps.weight.in_sum2"] = weights * 2
        entries["blk.0.ffn_up_exps.weight.counts"] = np.float32([[2], [2], [2], [2]])
        write(tmp_path / "m2.gguf", found.metadata, entries)
    quantize_file(source, tmp_path / "out.gguf", "Q4_0", imatrix=tmp_path / "m2.gguf", options=Options(pure=True))
    measured = read_imatrix(tmp_path / "m2.gguf").entries
    with read(tmp_path / "out.gguf") as after:
        found = after.tensors["blk.0.ffn_up_exps.weight"]
        assert found.type == GGMLType.Q4_0
        for i in range(4):
            np.testing.assert_array_equal(found.blocks()[i], encoded(experts[i], GGMLType.Q4_0, weights[i]))
        name = "blk.1.attn_q.weight"
        expected = encoded(tensors()[name], GGMLType.Q4_0, measured[name][0])
        np.testing.assert_array_equal(after.tensors[name].blocks(), expected)
        assert (expected != encoded(tensors()[name], GGMLType.Q4_0)).any()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(("weights", "file_type"), [(1, "Q8_0"), (50 * 256, "Q4_0"), (1 << 30, "Q4_0")])
def test_chunks_and_workers_change_no_byte(model, tmp_path, monkeypatch, workers, weights, file_type):
    matrix = make_imatrix(tmp_path / "m.gguf")
    expected = tmp_path / "whole.gguf"
    quantize_file(model, expected, file_type, imatrix=matrix)
    monkeypatch.setattr(chunks.Task.chunks, "__defaults__", (weights,))
    quantize_file(model, tmp_path / "out.gguf", file_type, imatrix=matrix, workers=workers)
    assert (tmp_path / "out.gguf").read_bytes() == expected.read_bytes()


def test_what_is_quantized_is_decoded_and_encoded_again(model, tmp_path):
    quantize_file(model, tmp_path / "q8.gguf", "Q8_0")
    with pytest.raises(GGUFJaxError, match="--allow-requantize") as error:
        quantize_file(tmp_path / "q8.gguf", tmp_path / "out.gguf", "Q4_0")
    one_line(error)
    quantize_file(tmp_path / "q8.gguf", tmp_path / "out.gguf", "Q4_0", options=Options(allow_requantize=True))
    with read(tmp_path / "q8.gguf") as before, read(tmp_path / "out.gguf") as after:
        name = "blk.0.attn_q.weight"
        expected = encoded(before.tensors[name].dequantize(), GGMLType.Q4_0)
        np.testing.assert_array_equal(after.tensors[name].blocks(), expected)


def test_a_big_endian_file_becomes_a_little_endian_one(tmp_path):
    write(tmp_path / "big.gguf", metadata(), tensors(), byte_order="big")
    quantize_file(tmp_path / "big.gguf", tmp_path / "from_big.gguf", "Q4_0")
    quantize_file(make(tmp_path / "little.gguf"), tmp_path / "from_little.gguf", "Q4_0")
    assert (tmp_path / "from_big.gguf").read_bytes() == (tmp_path / "from_little.gguf").read_bytes()


@pytest.mark.parametrize("alignment", [1, 256])
def test_an_alignment_is_kept(tmp_path, alignment):
    write(tmp_path / "in.gguf", metadata(), tensors(), alignment=alignment)
    result = quantize_file(tmp_path / "in.gguf", tmp_path / "out.gguf", "Q8_0", max_shard_size=200_000)
    with read(result.paths[0]) as after:
        assert len(after.tensors) == len(tensors())
        assert all(view.offset % alignment == 0 for view in after.tensors.values())


def test_copy_changes_no_tensor_and_not_the_file_type(model, tmp_path):
    quantize_file(model, tmp_path / "out.gguf", "COPY")
    (_, before), (_, after) = contents(model), contents(tmp_path / "out.gguf")
    assert after == before
    with read(tmp_path / "out.gguf") as found:
        assert found.metadata["general.file_type"] == FileType.F16


def test_pruned_layers_are_gone_and_others_move_up(tmp_path):
    source = make(tmp_path / "in.gguf", layers=3)
    matrix = make_imatrix(tmp_path / "m.gguf", layers=3)
    options = Options(prune_layers=frozenset({1}), pure=True)
    quantize_file(source, tmp_path / "out.gguf", "Q4_0", options=options, imatrix=matrix)
    with read(tmp_path / "out.gguf") as after:
        assert after.metadata["llama.block_count"] == 2
        assert not any(name.startswith("blk.2.") for name in after.tensors)
        moved, name = after.tensors["blk.1.attn_q.weight"], "blk.2.attn_q.weight"
        weights = read_imatrix(matrix).entries[name][0]
        np.testing.assert_array_equal(moved.blocks(), encoded(tensors(3)[name], GGMLType.Q4_0, weights))


def test_leading_dimensions_of_one_are_dropped_as_ggml_does(tmp_path):
    source = make(tmp_path / "in.gguf", extra={"blk.0.odd.weight": np.ones((1, 1, 256), np.float16)})
    quantize_file(source, tmp_path / "out.gguf", "Q8_0")
    with read(tmp_path / "out.gguf") as after:
        assert after.tensors["blk.0.odd.weight"].shape == (256,)


# Shards


def test_shards_are_kept_and_made(model, tmp_path):
    with read(model) as whole:
        write_shards(whole, str(tmp_path / "in"), groups_of(whole.tensors, max_tensors=5))
    first = tmp_path / "in-00001-of-00004.gguf"
    kept = quantize_file(first, tmp_path / "kept.gguf", "Q8_0", keep_split=True)
    quantize_file(model, tmp_path / "whole.gguf", "Q8_0")
    assert [Path(path).name for path in kept.paths] == [f"kept-0000{i}-of-00004.gguf" for i in range(1, 5)]
    for path in kept.paths:
        source = Path(path).with_name(Path(path).name.replace("kept", "in"))
        with read(path, shards=False) as part, read(source, shards=False) as before:
            assert list(part.tensors) == list(before.tensors)
    with read(kept.paths[0], shards=False) as part:
        assert [str(part.metadata.types[f"split.{key}"]) for key in ("no", "count", "tensors.count")] == [
            "u16", "u16", "i32"
        ]  # fmt: skip
    _, joined = contents(kept.paths[0])
    _, expected = contents(tmp_path / "whole.gguf")
    assert joined == expected

    split = quantize_file(model, tmp_path / "split.gguf", "Q8_0", max_shard_size=200_000)
    with read(tmp_path / "whole.gguf") as whole:
        paths = write_shards(whole, str(tmp_path / "again"), groups_of(whole.tensors, max_bytes=200_000))
    assert len(paths) == len(split.paths) > 1
    for ours, theirs in zip(split.paths, paths, strict=True):
        assert Path(ours).read_bytes() == Path(theirs).read_bytes()


def test_a_first_shard_without_tensors_is_kept(model, tmp_path):
    with read(model) as whole:
        write_shards(whole, str(tmp_path / "in"), groups_of(whole.tensors, max_tensors=30, empty_first=True))
    kept = quantize_file(tmp_path / "in-00001-of-00002.gguf", tmp_path / "kept.gguf", "Q8_0", keep_split=True)
    with read(kept.paths[0], shards=False) as first, read(kept.paths[0]) as both:
        assert (len(first.tensors), len(both.tensors)) == (0, len(tensors()))


# Weights that are not finite


@pytest.mark.parametrize("dtype", [np.float16, np.float32, BFLOAT16], ids=["F16", "F32", "BF16"])
@pytest.mark.parametrize(("value", "word"), [(math.nan, "nan"), (-math.inf, "an infinity")])
def test_a_weight_that_is_not_finite_is_named_or_its_tensor_kept(tmp_path, monkeypatch, dtype, value, word):
    monkeypatch.setattr(chunks.Task.chunks, "__defaults__", (1024,))
    name = "blk.1.attn_q.weight"
    bad = np.array(tensors(dtype=dtype)[name])
    bad[17, 33] = value
    source = make(tmp_path / "in.gguf", dtype=dtype, extra={name: bad})
    out = tmp_path / "out.gguf"
    expected = (
        f"tensor '{name}': expected finite weights, found {word} at index {17 * 256 + 33} \\(row 17, column 33\\)"
    )
    with pytest.raises(GGUFJaxError, match=expected) as error:
        quantize_file(source, out, "Q8_0")
    one_line(error)
    assert not out.exists()
    result = quantize_file(source, out, "Q8_0", allow_nonfinite=True, resume=True, report=tmp_path / "r.json")
    with read(out, strict=True) as after, read(make(tmp_path / "good.gguf", dtype=dtype)) as good:
        np.testing.assert_array_equal(after.tensors[name].dequantize(), bad.astype(np.float32))
        others = {n: t for n, t in good.tensors.items() if n != name}
        for other, view in others.items():
            if len(view.shape) > 1:
                expected = encoded(tensors(dtype=dtype)[other], GGMLType.Q8_0)
                np.testing.assert_array_equal(after.tensors[other].blocks(), expected)
    assert [t.name for t in result.tensors if t.type == GGMLType.F32 and len(t.shape) > 1] == [name]
    json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)


def test_weights_too_large_for_their_type_are_named(tmp_path):
    name = "blk.0.attn_k.weight"
    huge = np.array(tensors(dtype=np.float32)[name])
    huge[3, 5] = 1e8
    source = make(tmp_path / "in.gguf", dtype=np.float32, extra={name: huge})
    for file_type, place in (("F16", "row 3, column 5"), ("Q8_0", "row 3, column 0")):
        with pytest.raises(GGUFJaxError, match=f"found weights too large for {file_type} at .*{place}"):
            quantize_file(source, tmp_path / "out.gguf", file_type)
    quantize_file(source, tmp_path / "out.gguf", "Q8_0", allow_nonfinite=True)
    with read(tmp_path / "out.gguf") as after:
        np.testing.assert_array_equal(after.tensors[name].dequantize(), huge)


@pytest.mark.parametrize("type", [GGMLType.Q4_0, GGMLType.Q4_K, GGMLType.IQ1_M], ids=lambda type: type.name)
def test_a_scale_that_is_not_finite_is_found_in_what_is_copied(tmp_path, type):
    form = FORMATS[type]
    blocks = np.zeros((8, 512 // form.block_size * form.bytes_per_block), np.uint8)
    records = blocks.view(form.layout)
    if type == GGMLType.IQ1_M:
        records["scales"][5, 1, 5] = records["scales"][5, 1, 7] = 0xF0  # the upper nibbles of d, lowest word first
    else:
        records[form.layout.names[0]][5, 1] = np.inf
    block = 5 * 512 + form.block_size
    extra = {"blk.0.ffn_gate.weight": (type, blocks)}
    source = make(tmp_path / "in.gguf", extra=extra)
    with pytest.raises(GGUFJaxError, match=f"found a scale that is .* at index {block} "):
        quantize_file(source, tmp_path / "out.gguf", "COPY")
    quantize_file(source, tmp_path / "out.gguf", "COPY", allow_nonfinite=True)
    with read(tmp_path / "out.gguf") as after:
        np.testing.assert_array_equal(after.tensors["blk.0.ffn_gate.weight"].blocks(), blocks)


def test_exact_an_importance_matrix_in_memory_is_that_of_its_file(model, tmp_path):
    path = make_imatrix(tmp_path / "m.gguf")
    quantize_file(model, tmp_path / "file.gguf", "Q4_K_M", imatrix=path)
    sums = dataclasses.replace(read_sums(path), path="")
    for name, given in (("sums", sums), ("means", dataclasses.replace(read_imatrix(path), path=""))):
        quantize_file(model, tmp_path / f"{name}.gguf", "Q4_K_M", imatrix=given)
        (keys, expected), (others, found) = (contents(tmp_path / f"{each}.gguf") for each in ("file", name))
        assert found == expected
        assert others == [each for each in keys if each[0] != "quantize.imatrix.file"]


def test_exact_fields_of_options_may_be_given_by_themselves(model, tmp_path):
    chosen = Options(output_tensor_type=GGMLType.Q8_0, tensor_types=(("ffn_down", GGMLType.Q5_K),))
    quantize_file(model, tmp_path / "a.gguf", "Q4_K_M", options=chosen)
    named = dict(output_tensor_type="q8_0", tensor_types={"ffn_down": "Q5_K"})
    quantize_file(model, tmp_path / "b.gguf", "Q4_K_M", **named)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    for options, message in [
        (dict(options=chosen, pure=True), "expected either options or their fields, found both (pure)"),
        (dict(requantize=True), "expected fields among pure, "),
        (dict(tensor_types={"x": "Q9"}), "type: expected one of"),
    ]:
        with pytest.raises(GGUFJaxError) as error:
            quantize_file(model, tmp_path / "c.gguf", "Q4_K_M", **options)
        assert message in one_line(error)

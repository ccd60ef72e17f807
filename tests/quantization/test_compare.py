"""`compare_files` and `gguf-jax compare`: errors of one file against another, by their formulas."""

import csv
import io
import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from gguf_jax.cli.app import app
from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.gguf import write
from gguf_jax.quantization import chunks
from gguf_jax.quantization.compare import compare_files
from gguf_jax.quantization.heat_map import Quantity, check_plot_path, grids_of, relative_errors, write_heat_map

RNG = np.random.default_rng(0)
NAMES = [
    "token_embd.weight",
    "blk.0.attn_q.weight",
    "blk.0.ffn_down.weight",
    "blk.1.attn_q.weight",
    "output_norm.weight",
]


def encoded(values, type):
    form = FORMATS[type]
    return type, form.join(form.encode_planes(values, None, np))


@pytest.fixture
def files(tmp_path):
    tensors = {name: RNG.standard_normal((6, 512)).astype(np.float32) for name in NAMES[:4]}
    tensors[NAMES[4]] = RNG.standard_normal(512).astype(np.float32)
    write(tmp_path / "a.gguf", {"general.architecture": "llama"}, tensors | {"only.a": tensors[NAMES[4]]})
    quantized = {name: encoded(tensors[name], GGMLType.Q4_K) for name in NAMES[:3]}
    quantized[NAMES[3]] = encoded(tensors[NAMES[3]], GGMLType.Q2_K)
    write(tmp_path / "b.gguf", {"general.architecture": "llama"}, {NAMES[4]: tensors[NAMES[4]], **quantized})
    return tmp_path, tensors, quantized


def test_errors_are_their_formulas(files, monkeypatch):
    folder, tensors, quantized = files
    whole = compare_files(folder / "a.gguf", folder / "b.gguf")
    monkeypatch.setattr(chunks.Task.chunks, "__defaults__", (1024,))
    found = compare_files(folder / "a.gguf", folder / "b.gguf")
    assert [t.name for t in found.tensors] == NAMES
    assert (found.only_a, found.only_b, found.other_shape) == (("only.a",), (), ())
    for tensor, other in zip(found.tensors, whole.tensors, strict=True):
        exact = tensors[tensor.name].astype(np.float64)
        if tensor.same_bytes:
            assert tensor.error.rmse == 0
            continue
        type, blocks = quantized[tensor.name]
        error = FORMATS[type].decode_planes(FORMATS[type].split(blocks), np).astype(np.float64) - exact
        # sums of 3072 float64 terms
        limit = 3072 * np.finfo(np.float64).eps
        assert np.isclose(tensor.error.rmse, np.sqrt(np.mean(error**2)), rtol=limit, atol=0)
        assert np.isclose(tensor.error.rmse, other.error.rmse, rtol=limit, atol=0)
        assert tensor.error.max_abs_error == np.abs(error).max()
    assert [t.same_bytes for t in found.tensors] == [False] * 4 + [True]
    assert [(t.layer, t.part) for t in found.tensors][1] == (0, "attn_q.weight")
    assert found.tensors[3].error.rmse > found.tensors[1].error.rmse


def test_a_file_is_itself(files):
    folder, _, _ = files
    found = compare_files(folder / "b.gguf", folder / "b.gguf")
    assert all(t.same_bytes and t.error.rmse == 0 for t in found.tensors)
    assert found.total.rmse == 0


def test_the_command(files):
    folder, _, _ = files
    paths = [str(folder / "a.gguf"), str(folder / "b.gguf")]
    run = CliRunner().invoke
    table = run(app, ["compare", *paths]).stdout.splitlines()
    assert table[0].split()[:3] == ["tensor", "A", "B"]
    assert len(table) == len(NAMES) + 2
    assert "same bytes" in table[-2]
    document = json.loads(run(app, ["compare", *paths, "--json"]).stdout)
    rows = list(csv.DictReader(io.StringIO(run(app, ["compare", *paths, "--csv"]).stdout)))
    assert [row["name"] for row in rows] == [tensor["name"] for tensor in document["tensors"]] == NAMES
    assert float(rows[0]["rmse"]) == document["tensors"][0]["rmse"]


def test_the_heat_map_s_grid(files):
    folder, _, _ = files
    found = compare_files(folder / "a.gguf", folder / "b.gguf").tensors
    parts, layers, (values,) = grids_of([relative_errors(found)])
    assert parts == ["token_embd.weight", "attn_q.weight", "ffn_down.weight"]  # without what has no error
    assert layers == ["-", "0", "1"]
    assert np.isnan(values).tolist() == [[False, True, True], [True, False, False], [True, False, True]]


def test_maps_of_several_quantities_share_rows_and_columns():
    first = Quantity("a", {"blk.0.x": 2.0, "blk.1.x": 3.0, "blk.0.zero": 0.0})
    second = Quantity("b", {"blk.10.y": 5.0, "blk.0.x": 7.0, "z": 1.0, "blk.0.zero": math.nan})
    parts, layers, values = grids_of([first, second])
    assert (parts, layers) == (["x", "y", "z"], ["-", "0", "1", "10"])
    known = {tuple(map(int, at)): float(values[tuple(at)]) for at in np.argwhere(~np.isnan(values))}
    assert known == {(0, 0, 1): 2.0, (0, 0, 2): 3.0, (1, 0, 1): 7.0, (1, 1, 3): 5.0, (1, 2, 0): 1.0}


@pytest.mark.parametrize("layers", [2, 40])
def test_several_maps_are_drawn(tmp_path, layers):
    quantities = [Quantity(label, {f"blk.{i}.x": i + 1.0 for i in range(layers)}) for label in "ab"]
    write_heat_map(str(tmp_path / "map.svg"), quantities, "title")
    assert "<svg" in (tmp_path / "map.svg").read_text("utf-8")


def test_a_plot_is_written(files):
    folder, _, _ = files
    result = CliRunner().invoke(
        app, ["compare", str(folder / "a.gguf"), str(folder / "b.gguf"), "--plot", str(folder / "map.png")]
    )
    assert result.exit_code == 0, result.output
    assert (folder / "map.png").read_bytes().startswith(b"\x89PNG")


def test_refusals(files, tmp_path):
    folder, tensors, _ = files
    write(
        tmp_path / "c.gguf",
        {"general.architecture": "llama"},
        {"other": tensors[NAMES[0]], NAMES[1]: tensors[NAMES[4]]},
    )
    with pytest.raises(GGUFError, match="expected tensors of one name and shape in both, found none"):
        compare_files(folder / "a.gguf", tmp_path / "c.gguf")
    with pytest.raises(GGUFJaxError, match=r"expected a name that ends in \.png"):
        check_plot_path("map.jpg")
    with pytest.raises(GGUFJaxError, match="expected a folder that exists"):
        check_plot_path(str(tmp_path / "none" / "map.png"))
    with pytest.raises(GGUFJaxError, match=r"map\.png: expected tensors that differ, found no relative error$"):
        write_heat_map(str(tmp_path / "map.png"), [Quantity("relative error", {"a": 0.0})], "title")

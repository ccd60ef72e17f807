"""What is said of each tensor: its error, against NumPy in float64, and how far the work is."""

import csv
import json
import math

import numpy as np
import pytest

from gguf_jax.formats import dequantize
from gguf_jax.gguf import read
from gguf_jax.quantization.file import quantize_file
from gguf_jax.quantization.imatrix import read_imatrix
from tests.quantization.models import contents, make_imatrix, tensors

pytestmark = pytest.mark.usefixtures("numpy_encoder")


def test_the_report_is_right(model, tmp_path):
    matrix = make_imatrix(tmp_path / "m.gguf")
    result = quantize_file(model, tmp_path / "out.gguf", "Q4_0", imatrix=matrix, report=tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["bytes"] == result.bytes_after
    assert found["bits_per_weight"] == 8 * result.bytes_after / sum(v.size for v in tensors().values())
    entries = read_imatrix(matrix).entries
    with read(tmp_path / "out.gguf") as after:
        for row in found["tensors"]:
            view = after.tensors[row["name"]]
            x = np.float64(tensors()[row["name"]])
            y = np.float64(dequantize(view.blocks(), view.type)).reshape(x.shape)
            d = x - y
            assert row["type"] == view.type.name
            assert row["bits_per_weight"] == 8 * view.nbytes / x.size
            assert row["max_abs_error"] == np.abs(d).max()
            close = {"rel": x.size * np.finfo(np.float64).eps}  # a sum of so many
            assert row["rmse"] == pytest.approx(math.sqrt((d * d).mean()), **close)
            assert row["relative_rmse"] == pytest.approx(math.sqrt((d * d).sum() / (x * x).sum()), **close)
            assert row["cosine"] == pytest.approx((x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum()), **close)
            if row["found"] == row["type"]:
                assert (row["rmse"], row["sqnr_db"], row["weighted_rmse"]) == (0, None, None)
                continue
            assert row["sqnr_db"] == pytest.approx(10 * math.log10((x * x).sum() / (d * d).sum()), **close)
            w = np.float64(entries[row["name"]][0])
            expected = math.sqrt((w * d * d).sum() / (w.sum() * len(x)))
            assert row["weighted_rmse"] == pytest.approx(expected, **close)


def test_the_report_as_csv(model, tmp_path):
    quantize_file(model, tmp_path / "out.gguf", "Q4_0", report=tmp_path / "r.csv")
    with open(tmp_path / "r.csv", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["name"] for row in rows] == list(contents(tmp_path / "out.gguf")[1])
    assert {row["weighted_rmse"] for row in rows} == {""}
    assert all(float(row["rmse"]) >= 0 for row in rows)


def test_progress_rises_to_its_end(model, tmp_path):
    seen = []
    quantize_file(model, tmp_path / "out.gguf", "Q8_0", on_progress=seen.append)
    done = [at.done for at in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1].total == sum(v.nbytes for v in tensors().values())
    assert [at.index for at in seen if at.finished] == list(range(len(tensors())))

"""Contract: what cannot be done is one line before anything is written, what is odd a warning."""

import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from gguf_jax.errors import GGUFError
from gguf_jax.formats import GGMLType
from gguf_jax.gguf import read
from gguf_jax.quantization.file import quantize_file
from gguf_jax.quantization.step import Options
from tests.quantization.models import make, make_imatrix, refused

pytestmark = pytest.mark.usefixtures("numpy_encoder")


def test_input_and_output_must_differ(model, tmp_path):
    (tmp_path / "link.gguf").symlink_to(model)
    os.link(model, tmp_path / "hard.gguf")
    for target in (model, tmp_path / "link.gguf", tmp_path / "hard.gguf", tmp_path / "." / "in.gguf"):
        refused("expected another file than the input", model, target, "Q8_0", force=True)


def test_an_output_that_exists_is_not_replaced_unasked(model, tmp_path):
    (tmp_path / "out.gguf").write_bytes(b"old")
    refused("exists already; --force", model, tmp_path / "out.gguf", "Q8_0")
    quantize_file(model, tmp_path / "out.gguf", "Q8_0", force=True)
    with read(tmp_path / "out.gguf"):
        pass


def test_types_that_need_importances(model, tmp_path):
    out = tmp_path / "out.gguf"
    refused(r"importance matrix.*llama-imatrix", model, out, "IQ2_XS")
    matrix = make_imatrix(tmp_path / "m.gguf", skip="blk.1.ffn_up")
    refused(r"expected entries for blk\.1\.ffn_up\.weight", model, out, "IQ2_XS", imatrix=matrix)
    refused("importance matrix", model, out, "IQ2_XS", imatrix=matrix, include_weights=["nothing"])
    refused("expected entries", model, out, "IQ2_XS", imatrix=matrix, exclude_weights=["ffn_down"])
    refused("--include-weights", model, out, "Q8_0", imatrix=matrix, include_weights="a", exclude_weights="b")


def test_importances_of_another_length(model, tmp_path):
    out = tmp_path / "out.gguf"
    matrix = make_imatrix(tmp_path / "m.gguf", lengths={"blk.0.attn_v.weight": 128})
    refused(r"'blk\.0\.attn_v\.weight': expected 256 values \(1 x 256\), found 128", model, out, "Q4_0", imatrix=matrix)
    warnings = []
    matrix = make_imatrix(tmp_path / "m.gguf", lengths={"token_embd.weight": 128})
    quantize_file(model, out, "Q4_0", imatrix=matrix, on_warning=warnings.append)
    assert "token_embd.weight" in warnings[0]


def test_arguments_that_cannot_be(model, tmp_path):
    out = tmp_path / "out.gguf"
    refused("file type: expected one of", model, out, "Q9_Z")
    refused("workers: expected at least 1, found 0", model, out, "Q8_0", workers=0)
    refused(r"ends in \.json or \.csv", model, out, "Q8_0", report=tmp_path / "r.txt")
    refused("expected a folder that exists", model, out, "Q8_0", report=tmp_path / "no" / "r.json")
    refused("--keep-split and --max-shard-size", model, out, "Q8_0", keep_split=True, max_shard_size=100)
    with pytest.raises(GGUFError, match="its folder does not exist"):
        quantize_file(model, tmp_path / "no" / "out.gguf", "Q8_0")
    odd = make(tmp_path / "odd.gguf", extra={"token_embd.weight": np.ones((4, 48), np.float16)})
    refused("multiple of 32", odd, out, "Q8_0", options=Options(token_embedding_type=GGMLType.Q4_0))


def test_a_pattern_that_fits_nothing_is_said(model, tmp_path):
    warnings = []
    types = (("attn_q", GGMLType.Q8_0), ("attn_z", GGMLType.Q8_0))
    options = Options(tensor_types=types)
    result = quantize_file(model, tmp_path / "o.gguf", "Q4_0", options=options, on_warning=warnings.append)
    assert [line for line in warnings if "attn" in line] == [
        "--tensor-type 'attn_z': no tensor has a name that it fits"
    ]
    assert {t.type for t in result.tensors if "attn_q" in t.name} == {GGMLType.Q8_0}


def test_no_room_is_noticed_before_work_starts(model, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    refused("bytes of free disk space, found 1000", model, tmp_path / "out.gguf", "Q8_0")

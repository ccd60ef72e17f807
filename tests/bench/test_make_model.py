"""benchmarks/make_model.py: the types that llama-quantize gives each tensor, and a file that runs."""

import numpy as np
import pytest

from gguf_jax import checkpoint, gguf
from gguf_jax.formats import FileType, GGMLType
from tests.bench.scripts import script

make_model = script("make_model")


def types_of(path, mix):
    """Name -> (type in the file, type by the rules) of every tensor."""
    with gguf.read(path) as file:
        types = make_model.tensor_types(mix, file.metadata, {name: view.shape for name, view in file.tensors.items()})
        return {name: (view.type, types[name]) for name, view in file.tensors.items()}


def qwen2(layers, heads, kv_heads):
    attention = {"qwen2.attention.head_count": heads, "qwen2.attention.head_count_kv": kv_heads}
    return {"general.architecture": "qwen2", "qwen2.block_count": layers, **attention}


def test_types_are_those_of_a_file_that_llama_quantize_made(bundled):
    types = types_of(bundled, "Q4_K_M")
    assert {found for found, _ in types.values()} >= {GGMLType.Q4_K, GGMLType.Q6_K, GGMLType.F32}
    assert {name: pair for name, pair in types.items() if pair[0] != pair[1]} == {}


@pytest.mark.parametrize("mix", ["IQ2_XS", "IQ3_S"])
def test_types_of_shared_files(shared, mix):
    types = types_of(shared / "models" / "prose-23m" / f"prose-23m-{mix}.gguf", mix)
    assert {name: pair for name, pair in types.items() if pair[0] != pair[1]} == {}


@pytest.mark.parametrize(
    ("mix", "name", "shape", "expected"),
    [  # as llama-quantize --dry-run prints them
        ("Q4_K_M", "blk.0.ffn_down.weight", (896, 4864), "Q6_K"),
        ("Q4_K_M", "blk.0.ffn_up.weight", (4864, 896), "Q5_0"),  # 896 is no multiple of 256
        ("Q4_K_M", "token_embd.weight", (151936, 896), "Q8_0"),  # tied, and no multiple
        ("IQ2_XS", "blk.0.ffn_up.weight", (4864, 896), "IQ4_NL"),
        ("IQ1_M", "blk.3.attn_v.weight", (128, 896), "Q5_0"),
        ("Q8_0", "blk.3.attn_v.bias", (128,), "F32"),
        ("F16", "blk.3.attn_v.weight", (128, 896), "F16"),
    ],
)
def test_types_where_rows_do_not_fit_the_block(mix, name, shape, expected):
    assert make_model.tensor_types(mix, qwen2(24, 14, 2), {name: shape})[name].name == expected


def test_an_importance_matrix_changes_some_types():
    name, shape = "blk.0.ffn_down.weight", (1536, 8960)
    for imatrix, expected in ((False, "Q4_0"), (True, "Q4_1")):
        types = make_model.tensor_types("Q4_0", qwen2(28, 12, 2), {name: shape}, imatrix=imatrix)
        assert types[name].name == expected


@pytest.mark.parametrize("mix", ["Q4_K_M", "IQ1_M"])
def test_a_made_file_loads_and_its_logits_are_finite(bundled, tmp_path, monkeypatch, mix):
    with gguf.read(bundled) as file:
        vocabulary = file.tensors["token_embd.weight"].shape[0] + 7
    shape = make_model.Shape(9, 256, 512, 8, 2, tied=False, vocabulary=vocabulary)
    monkeypatch.setitem(make_model.SHAPES, "tiny", shape)
    make_model.make(tmp_path / "tiny.gguf", "tiny", mix, bundled)
    with gguf.read(tmp_path / "tiny.gguf", strict=True) as file:
        assert file.metadata["general.file_type"] == FileType[mix]
        assert len(file.metadata["tokenizer.ggml.tokens"]) == vocabulary
    logits = np.asarray(checkpoint.load(tmp_path / "tiny.gguf")(np.arange(12)[None]))
    assert np.isfinite(logits).all()
    assert 0.01 < logits.std() < 100

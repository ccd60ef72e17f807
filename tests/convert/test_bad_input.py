"""Folders that cannot be converted: one line with the file, tensor or key, what was expected and what was found."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.convert import open_model
from gguf_jax.convert.safetensors import read_safetensors
from gguf_jax.errors import GGUFError, GGUFJaxError, Unsupported
from tests.convert.folders import MODELS, golden_folder, write_folder
from tests.convert.weights import weights

MODEL = MODELS["qwen3"]


def folder_of(place, config=None, drop=(), add=None):
    tensors = weights({k: v for k, v in MODEL["shapes"].items() if k not in drop}) | (add or {})
    return write_folder(place / "model", MODEL["config"] | (config or {}), tensors)


def refused(folder, message, kind=GGUFError, **options):
    with pytest.raises(kind, match=message) as error:
        open_model(folder, **options)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


class TestConfig:
    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"frobnicate": 3}, r"expected only keys that are known .*, found frobnicate = 3; --ignore"),
            ({"hidden_act": "relu"}, r"hidden_act: expected 'silu' or 'swish', found 'relu'"),
            ({"hidden_size": "48"}, r"hidden_size: expected an integer of at least 0, found '48'"),
            (
                {"num_hidden_layers": None},
                r"num_hidden_layers: expected an integer of at least 0.*, found 'no such key'",
            ),
            (
                {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
                "rope_type: expected default, .* found 'dynamic'",
            ),
            (
                {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "x": 1}},
                r"rope_parameters\.x: expected no such key",
            ),
            (
                {"num_hidden_layers": 1 << 30},
                r"num_hidden_layers: expected an integer .* at most 16384, found 1073741824",
            ),
            ({"num_attention_heads": 1 << 30}, r"num_attention_heads: expected an integer .* at most 4096"),
            ({"vocab_size": 1 << 30}, r"vocab_size: expected an integer .* at most 53, found 1073741824"),
            ({"hidden_size": 1 << 62}, r"hidden_size: expected an integer"),
            ({"rope_parameters": [1]}, r"rope_parameters: expected an object, found \[1\]"),
            ({"architectures": []}, r"architectures: expected a list with the model's class, found \[\]"),
            ({"head_dim": 16}, r"expected 72 as in blk\.0\.attn_q\.weight \[72, 48\], found 96"),
        ],
    )
    def test_a_key(self, tmp_path, config, message):
        refused(folder_of(tmp_path, config), message)

    def test_orders_of_rows_that_would_fill_the_memory(self, tmp_path):
        """They are made before a tensor is looked at."""
        config = MODELS["llama"]["config"] | {"num_attention_heads": 4096, "head_dim": 8192}
        folder = write_folder(tmp_path / "model", config, weights(MODELS["llama"]["shapes"]))
        refused(folder, "head_dim: expected at most 4194304 elements of 4096 heads, found 8192")

    def test_an_unknown_class_names_the_nearest(self, tmp_path):
        folder = folder_of(tmp_path, {"architectures": ["Qwen33ForCausalLM"]})
        refused(
            folder,
            r"expected one of .*LlamaForCausalLM.*, found 'Qwen33ForCausalLM' \(the nearest is Qwen3",
            Unsupported,
        )

    def test_a_quantized_model(self, tmp_path):
        refused(
            folder_of(tmp_path, {"quantization_config": {"bits": 4}}),
            "quantization_config: expected a model that",
            Unsupported,
        )

    def test_keys_and_tensors_can_be_ignored(self, tmp_path):
        extra = {"model.layers.0.extra.weight": np.ones(3, np.float32)}
        folder = folder_of(tmp_path, {"frobnicate": 3}, add=extra)
        with open_model(folder, ignore=["frob*", "*.extra.*"]) as file:
            assert not any("extra" in name for name in file.tensors)

    @pytest.mark.parametrize(
        ("text", "message"), [("{", "expected JSON"), ("[]", "expected a JSON object, found list")]
    )
    def test_no_json(self, tmp_path, text, message):
        folder = folder_of(tmp_path)
        (folder / "config.json").write_text(text)
        refused(folder, message)


class TestTensors:
    def test_one_is_missing(self, tmp_path):
        name = "model.layers.1.mlp.up_proj.weight"
        refused(folder_of(tmp_path, drop=[name]), rf"expected the tensor {name}, found no such tensor")

    def test_one_is_unknown(self, tmp_path):
        extra = {"model.layers.0.mlp.side_proj.weight": np.ones((3, 4), np.float32)}
        refused(folder_of(tmp_path, add=extra), r"expected only tensors that Qwen3ForCausalLM knows, found .*side_proj")

    def test_one_has_another_shape(self, tmp_path):
        name = "model.layers.1.self_attn.k_norm.weight"
        folder = folder_of(tmp_path, add={name: np.ones(11, np.float32)})
        refused(folder, rf"{name}: expected the shape \[12\] \(as blk\.1\.attn_k_norm\.weight\), found \[11\]")

    def test_one_is_no_float(self, tmp_path):
        folder = folder_of(tmp_path, add={"model.norm.weight": np.ones(48, np.uint8)})
        refused(folder, "model.norm.weight: expected F32, F16 or BF16, found U8")

    def test_experts_with_a_gap(self, tmp_path):
        model = MODELS["mixtral"]
        name = "model.layers.0.block_sparse_moe.experts.2.w1.weight"
        shapes = {k: v for k, v in model["shapes"].items() if k != name}
        folder = write_folder(tmp_path / "model", model["config"], weights(shapes))
        with pytest.raises(GGUFError, match=f"expected the tensor {name}, found no such tensor"):
            open_model(folder)

    def test_weights_that_are_not_finite(self, tmp_path):
        bad = weights(MODEL["shapes"])["model.layers.0.mlp.up_proj.weight"]
        bad[1, 2] = np.nan
        folder = folder_of(tmp_path, add={"model.layers.0.mlp.up_proj.weight": bad})
        with pytest.raises(
            GGUFJaxError, match=r"blk\.0\.ffn_up\.weight.*expected finite weights, found nan at index 50"
        ):
            gj.convert_folder(folder, tmp_path / "a.gguf")
        assert not (tmp_path / "a.gguf").exists()


class TestFolder:
    def test_none(self, tmp_path):
        refused(tmp_path / "absent", "expected a folder with config.json and .safetensors files, found no such folder")

    def test_weights_in_another_form(self, tmp_path):
        folder = folder_of(tmp_path)
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        refused(folder, "expected model.safetensors or .*, found pytorch_model.bin")

    @pytest.mark.parametrize("name", ["../other.safetensors", "a.bin", "/etc/passwd"])
    def test_an_index_that_leaves_the_folder(self, tmp_path, name):
        folder = folder_of(tmp_path)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        refused(folder, "expected names of .safetensors files beside it")

    def test_an_index_with_more_than_its_files(self, tmp_path):
        folder = folder_of(tmp_path)
        index = {"weight_map": {"absent.weight": "model.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        refused(folder, "expected tensors that its files hold, found absent.weight")


def entry(dtype="F32", shape=(2, 3), offsets=(0, 24)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


class TestSafetensors:
    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ({"a": entry(offsets=(0, 23))}, r"'a': data_offsets: expected 24 bytes for F32 \[2, 3\], found 23"),
            ({"a": entry(offsets=(8, 32))}, "'a': data_offsets: expected an end of at most 24, found 32"),
            ({"a": entry(shape=(1 << 61, 1 << 61))}, "'a': data_offsets: expected"),
            ({"a": entry(shape=(-1, 3))}, "'a': shape: expected at most 8 lengths"),
            ({"a": entry(dtype="Q9")}, "'a': dtype: expected one of F64"),
            ({"a": entry(dtype=[1])}, "'a': dtype: expected one of F64"),
            ({"a": entry(), "b": entry()}, "'b': expected data of its own, found another tensor's"),
            ({"a": {"dtype": "F32"}}, "'a': expected dtype, shape and data_offsets"),
            ({"a": entry(offsets=(0.0, 24.0))}, "'a': data_offsets: expected two offsets"),
            ([], "expected a safetensors header that is a JSON object, found list"),
        ],
    )
    def test_a_header(self, tmp_path, header, message):
        text = json.dumps(header).encode()
        (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(24))
        with pytest.raises(GGUFError, match=message):
            read_safetensors(str(tmp_path / "a.safetensors"))

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"\x01", "expected a safetensors header of at most 0 bytes"),
            (
                struct.pack("<Q", 1 << 60) + b"{}",
                "expected a safetensors header of at most 2 bytes, found 1152921504606846976",
            ),
            (struct.pack("<Q", 2) + b"{x", "expected a safetensors header of JSON"),
        ],
    )
    def test_a_file(self, tmp_path, data, message):
        (tmp_path / "a.safetensors").write_bytes(data)
        with pytest.raises(GGUFError, match=message):
            read_safetensors(str(tmp_path / "a.safetensors"))


def test_a_conversion_is_not_written_over_another_file(tmp_path):
    folder = golden_folder(tmp_path / "model", "qwen3")
    (tmp_path / "a.gguf").write_bytes(b"precious")
    with pytest.raises(GGUFError, match="exists already; --force overwrites it"):
        gj.convert_folder(folder, tmp_path / "a.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == b"precious"

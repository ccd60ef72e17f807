"""PEFT adapters: what a converted one adds to a model is what PEFT adds to the weights that the model is made of."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.convert import open_model
from gguf_jax.convert.lora import convert_lora
from gguf_jax.errors import GGUFError, Unsupported
from tests.convert.folders import MODELS, golden_folder, write_folder, write_tensors
from tests.convert.weights import weight, weights

RANK, ALPHA = 3, 5.0

TARGETS = {
    "llama": ("model.layers.{}.self_attn.q_proj", "model.layers.{}.self_attn.v_proj", "model.layers.{}.mlp.down_proj"),
    "gptneox": ("gpt_neox.layers.{}.attention.query_key_value", "gpt_neox.layers.{}.mlp.dense_h_to_4h"),
    "gpt2": ("transformer.h.{}.attn.c_attn", "transformer.h.{}.mlp.c_fc"),
}


def write_adapter(folder, name, factor=1.0, embedding=None, **settings):
    """An adapter for a golden model, and what it adds to each weight, in the orientation of transformers' tensors."""
    shapes = MODELS[name]["shapes"]
    modules = [target.format(i) for target in TARGETS[name] for i in range(2)]
    tensors, added = {}, {}
    for module in modules:
        rows, columns = shapes[f"{module}.weight"][:: -1 if name == "gpt2" else 1]
        a, b = weight(f"{module}.A.x", (RANK, columns)), weight(f"{module}.B.x", (rows, RANK))
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
        delta = np.float32(factor * ALPHA / RANK) * (b @ a)
        added[f"{module}.weight"] = delta.T if name == "gpt2" else delta
    if embedding:
        rows, columns = shapes[f"{embedding}.weight"]
        a, b = weight("embedding.A.x", (RANK, rows)), weight("embedding.B.x", (columns, RANK))
        tensors[f"base_model.model.{embedding}.lora_embedding_A"] = a
        tensors[f"base_model.model.{embedding}.lora_embedding_B"] = b
        added[f"{embedding}.weight"] = np.float32(factor * ALPHA / RANK) * (b @ a).T
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA} | settings)
    )
    write_tensors(folder / "adapter_model.safetensors", tensors)
    return added


def logits_of(folder, adapters=()):
    with open_model(folder) as file:
        model = gj.load(file, adapters=adapters)
    return np.asarray(model(np.arange(20)[None] % model.config.vocab_size))[0]


@pytest.mark.parametrize(
    ("name", "factor", "settings"),
    [
        ("llama", 1.0, {}),
        ("llama", math.sqrt(RANK), {"use_rslora": True}),
        ("llama", 2.0, {"alpha_pattern": {"self_attn.*|mlp.*|embed_tokens": 2 * ALPHA}}),
        ("gptneox", 1.0, {}),
        ("gpt2", 1.0, {"fan_in_fan_out": True}),
    ],
)
def test_a_converted_adapter_adds_what_peft_adds(tmp_path, name, factor, settings):
    base = golden_folder(tmp_path / "base", name)
    embedding = "model.embed_tokens" if name == "llama" else None
    added = write_adapter(tmp_path / "adapter", name, factor, embedding, **settings)
    convert_lora(tmp_path / "adapter", tmp_path / "adapter.gguf", base)
    found = logits_of(base, [tmp_path / "adapter.gguf"])

    model = MODELS[name]
    merged = {k: v + added.get(k, np.float32(0)) for k, v in weights(model["shapes"], model["one_added"]).items()}
    expected = logits_of(write_folder(tmp_path / "merged", model["config"], merged))
    scale = np.abs(expected).max()
    assert np.abs(logits_of(base) - expected).max() > 0.1 * scale  # the adapter does something
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * scale)


def test_a_gguf_file_will_do_as_base(tmp_path):
    base = golden_folder(tmp_path / "base", "llama")
    write_adapter(tmp_path / "adapter", "llama")
    gj.convert_folder(base, tmp_path / "base.gguf", "F32")
    convert_lora(tmp_path / "adapter", tmp_path / "a.gguf", base)
    convert_lora(tmp_path / "adapter", tmp_path / "b.gguf", tmp_path / "base.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


class TestBadInput:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"peft_type": "IA3"}, "peft_type: expected 'LORA', found 'IA3'"),
            ({"use_dora": True}, "use_dora: expected False, found True"),
            ({"modules_to_save": ["lm_head"]}, r"modules_to_save: expected \[\], found \['lm_head'\]"),
            ({"lora_alpha": "16"}, "lora_alpha: expected a number above 0, found '16'"),
        ],
    )
    def test_settings(self, tmp_path, settings, message):
        base = golden_folder(tmp_path / "base", "llama")
        write_adapter(tmp_path / "adapter", "llama", **settings)
        with pytest.raises((GGUFError, Unsupported), match=message):
            convert_lora(tmp_path / "adapter", tmp_path / "a.gguf", base)

    def test_no_base(self, tmp_path):
        write_adapter(tmp_path / "adapter", "llama", base_model_name_or_path="meta/llama")
        with pytest.raises(
            GGUFError, match="expected a folder that is there, found 'meta/llama'; --base names the model"
        ):
            convert_lora(tmp_path / "adapter", tmp_path / "a.gguf")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("base_model.model.model.layers.0.self_attn.z_proj.lora_A.weight", "z_proj"),
            (
                "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight",
                "k_proj.lora_B: expected the other half",
            ),
            ("base_model.model.lm_head.weight", "lm_head.weight; --ignore"),
        ],
    )
    def test_tensors(self, tmp_path, name, message):
        base = golden_folder(tmp_path / "base", "llama")
        write_adapter(tmp_path / "adapter", "llama")
        write_tensors(tmp_path / "adapter" / "adapter_model.safetensors", {name: np.ones((RANK, 48), np.float32)})
        with pytest.raises(GGUFError, match=message):
            convert_lora(tmp_path / "adapter", tmp_path / "a.gguf", base)
        assert not (tmp_path / "a.gguf").exists()

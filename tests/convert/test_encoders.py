"""Encoders of transformers, converted: our states and scores are those that it computes.

`tools/make_hf_encoder_goldens.py` made the goldens.
"""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

import gguf_jax as gj
from gguf_jax.convert import open_model
from gguf_jax.convert.export import export_folder
from gguf_jax.embeddings import pooling_for
from gguf_jax.errors import GGUFError
from gguf_jax.gguf import read
from gguf_jax.tokenizers import from_metadata
from tests.conftest import DATA
from tests.convert.folders import write_folder
from tests.convert.weights import PROMPT, tokens, weights

MODELS = json.loads((DATA / "hf_encoders.json").read_text())
TOLERANCE = 1e-4  # of the largest number, as for decoders


def folder_of(path, name, **config):
    model = MODELS[name]
    return write_folder(path / "model", model["config"] | config, weights(model["shapes"]))


def opened(path, name, **config):
    with open_model(folder_of(path, name, **config)) as file:
        return gj.load(file)


@pytest.mark.parametrize("name", MODELS)
def test_states_are_those_of_transformers(tmp_path, name):
    model = opened(tmp_path, name)
    at = jnp.arange(PROMPT, dtype=jnp.int32)[None]
    ids = jnp.asarray(np.maximum(tokens(PROMPT, model.config.vocab_size), 2))[None]
    states, _ = nnx.jit(type(model).hidden)(model, ids, at, types=(at >= PROMPT // 2).astype(jnp.int32))
    with np.load(DATA / "hf_encoder_states.npz") as arrays:
        expected = arrays[name]
    found = np.asarray(states)[0, ::9] if model.head is None else np.asarray(model.head(states[:, 0]))[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def test_scores_have_names(tmp_path):
    labels = {"0": "bad", "1": "fair", "2": "good"}
    model = opened(tmp_path, "bert, scores", id2label=labels)
    assert list(model.metadata["bert.classifier.output_labels"]) == ["bad", "fair", "good"]
    assert pooling_for(model, None) == "rank"


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_pooling(tmp_path, settings, pooling):
    folder = folder_of(tmp_path, "bert")
    modules = [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    with open_model(folder) as file:
        model = gj.load(file)
    assert model.config.pooling == pooling_for(model, None) == pooling


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"a": 1}, "modules.json: expected a JSON list of objects"),
        ([{"type": "x.Pooling", "path": "../up"}], "modules.json: path: expected a folder beside it, found '../up'"),
        (
            [{"type": "x.Pooling", "path": "1_Pooling"}],
            "config.json: pooling_mode: expected one of mean, cls,",
        ),
    ],
)
def test_a_pooling_that_has_no_number(tmp_path, modules, message):
    folder = folder_of(tmp_path, "bert")
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(GGUFError, match=message):
        open_model(folder)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("bert", {"hidden_act": "relu"}, "hidden_act: expected 'gelu'"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type: expected 'absolute'"),
        ("t5", {"feed_forward_proj": "gated-silu"}, "feed_forward_proj: expected 'relu' or 'gated-gelu'"),
        ("t5", {"relative_attention_max_distance": 64}, "relative_attention_max_distance: expected 128"),
    ],
)
def test_what_is_not_converted(tmp_path, name, config, message):
    with pytest.raises(GGUFError, match=message):
        opened(tmp_path, name, **config)


def jina(code: bool) -> dict[str, list[int]]:
    """The shapes of a Jina model of text or of code, as their own code names them."""
    norms = ["attention.output.LayerNorm"]
    matrices = {f"attention.self.{name}": [36, 36] for name in ("query", "key", "value")}
    matrices["attention.output.dense"] = [36, 36]
    if code:
        norms += ["attention.self.layer_norm_q", "attention.self.layer_norm_k", "layer_norm_1", "layer_norm_2"]
        matrices |= {"mlp.up_gated_layer": [100, 36], "mlp.down_layer": [36, 50]}
    else:
        norms += ["mlp.layernorm"]
        matrices |= {"mlp.gated_layers": [100, 36], "mlp.wo": [36, 50]}
    shapes = {"embeddings.word_embeddings.weight": [53, 36], "embeddings.token_type_embeddings.weight": [2, 36]}
    shapes |= {f"embeddings.LayerNorm.{end}": [36] for end in ("weight", "bias")}
    for block in ("encoder.layer.0.", "encoder.layer.1."):
        shapes |= {f"{block}{name}.weight": shape for name, shape in matrices.items()}
        biased = (*norms, *(name for name in matrices if "gated" not in name))
        shapes |= {f"{block}{name}.weight": [36] for name in norms}
        shapes |= {f"{block}{name}.bias": [36] for name in biased}
    return shapes


JINA = dict(
    architectures=["JinaBertForMaskedLM"],
    vocab_size=53,
    hidden_size=36,
    intermediate_size=50,
    num_hidden_layers=2,
    num_attention_heads=6,
    max_position_embeddings=128,
    layer_norm_eps=1e-12,
    hidden_act="gelu",
    feed_forward_type="geglu",
    position_embedding_type="alibi",
)
FOLDERS = {
    **{name: (model["config"], model["shapes"]) for name, model in MODELS.items()},
    "jina": (JINA, jina(False)),
    "jina, code": (JINA, jina(True)),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_property_an_exported_encoder_converts_to_the_same(tmp_path, name):
    config, shapes = FOLDERS[name]
    with open_model(write_folder(tmp_path / "first", config, weights(shapes)), name="model") as file:
        export_folder(file, tmp_path / "second", type="F32")
        with open_model(tmp_path / "second", name="model") as again:
            assert {n: bytes(v.data) for n, v in again.tensors.items()} == {
                n: bytes(v.data) for n, v in file.tensors.items()
            }
            assert dict(again.metadata) == dict(file.metadata)
        model = gj.load(file)
    ids = np.array([[5, 6, 7]])
    assert np.isfinite(np.asarray(model(ids))).all()


def unigram_folder(tmp_path, shared):
    """T5 with a tokenizer.json of some pieces of a real vocabulary, and what reads that file itself."""
    values = read(shared / "vocab" / "ggml-vocab-nomic-bert-moe.gguf").metadata
    pieces, scores = list(values["tokenizer.ggml.tokens"])[4:9000], values["tokenizer.ggml.scores"][4:9000].tolist()
    special = ["<pad>", "</s>", "<unk>"]
    made = Tokenizer(models.Unigram([*((text, 0.0) for text in special), *zip(pieces, scores, strict=True)], 2))
    charsmap = values["tokenizer.ggml.precompiled_charsmap"].tobytes()
    steps = [normalizers.Precompiled(charsmap), normalizers.Strip(left=False, right=True)]
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(" {2,}"), "▁")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.add_special_tokens(special)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    model = MODELS["t5"]
    shapes = {key: [len(pieces) + 3 if n == 53 else n for n in shape] for key, shape in model["shapes"].items()}
    config = model["config"] | {"vocab_size": len(pieces) + 3}
    folder = write_folder(tmp_path / "model", config, weights(shapes))
    made.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder, made


def test_unigram_of_a_tokenizer_json(tmp_path, shared):
    folder, theirs = unigram_folder(tmp_path, shared)
    with open_model(folder) as file:
        ours = from_metadata(file.metadata)
    text = (shared / "text" / "wiki.test.raw").read_text("utf-8")
    cases = [text[i : i + 150].strip() for i in range(0, 60_000, 1500)]
    cases += ["Größe ①  ﬁ two  spaces", "unknown \U0001f642\U0001f642 日本"]
    assert ours.encode_batch(cases) == [each.ids for each in theirs.encode_batch(cases)]
    assert ours.decode(ours.encode("two  spaces"), skip_special=True) == "two spaces"

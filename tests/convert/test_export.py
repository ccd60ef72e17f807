"""A file that is exported and converted again has the same tensors, byte for byte, and the same metadata."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import tokenizers
from flax import nnx

import gguf_jax as gj
from gguf_jax.convert import open_model
from gguf_jax.convert.export import export_folder
from gguf_jax.convert.export_tokenizer import tokenizer_files
from gguf_jax.convert.orbax import export_orbax, restore
from gguf_jax.convert.safetensors import read_safetensors
from gguf_jax.convert.source import open_folder
from gguf_jax.convert.tokenizer import tokenizer_metadata
from gguf_jax.errors import GGUFError
from gguf_jax.tokenizers import from_metadata
from tests.conftest import DATA
from tests.convert.folders import MODELS, golden_folder


def plain(metadata, leave=()):
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in metadata.items() if k not in leave}


def tied_name(name):
    """Both names of a matrix that is stored once."""
    return "lm_head.weight" if "embed" in name or ".wte" in name else name


@pytest.mark.parametrize("name", list(MODELS))
def test_property_an_exported_model_converts_to_the_same(tmp_path, name):
    with open_model(golden_folder(tmp_path / "first", name), name="model") as file:
        export_folder(file, tmp_path / "second", type="F32")
        expected = {name: (view.type, view.shape, bytes(view.data)) for name, view in file.tensors.items()}
        metadata = plain(file.metadata)
    first, second = (read_safetensors(str(tmp_path / each / "model.safetensors")) for each in ("first", "second"))
    assert {tied_name(name) for name in second} == {tied_name(name) for name in first}  # what transformers looks for
    with open_model(tmp_path / "second", name="model") as again:
        assert {name: (v.type, v.shape, bytes(v.data)) for name, v in again.tensors.items()} == expected
        assert plain(again.metadata) == metadata


def test_property_floats_of_a_file_survive_as_they_are(tmp_path, shared):
    """F16 matrices and F32 vectors, with a tokenizer: everything comes back."""
    source = shared / "models" / "prose-23m" / "prose-23m-F16.gguf"
    export_folder(source, tmp_path / "folder")
    gj.convert_folder(tmp_path / "folder", tmp_path / "again.gguf", "F16", name="prose-23m")
    with gj.read(source) as a, gj.read(tmp_path / "again.gguf") as b:
        assert {n: (v.type, bytes(v.data)) for n, v in a.tensors.items()} == {
            n: (v.type, bytes(v.data)) for n, v in b.tensors.items()
        }
        assert plain(a.metadata) == plain(b.metadata)


def test_packed_weights_are_written_as_what_they_decode_to(tmp_path, bundled):
    export_folder(bundled, tmp_path / "folder", type="F32")
    with open_model(tmp_path / "folder") as again, gj.read(bundled) as file:
        for name, view in file.tensors.items():
            np.testing.assert_array_equal(again.tensors[name].dequantize(), view.dequantize())
        assert plain(again.metadata)["tokenizer.ggml.merges"] == plain(file.metadata)["tokenizer.ggml.merges"]


@pytest.mark.parametrize("vocabulary", ["tiny_bpe", "tiny_spm"])
def test_a_tokenizer_that_comes_back_encodes_alike(tmp_path, vocabulary):
    metadata = json.loads((DATA / f"{vocabulary}.json").read_text())
    model = golden_folder(tmp_path / "first", "llama")
    size = len(metadata["tokenizer.ggml.tokens"])
    for name, text in tokenizer_files(gj.Metadata(metadata)).items():
        (model / name).write_bytes(text)
    with open_folder(model) as folder:
        again = tokenizer_metadata(folder, size, "llama", metadata.get("tokenizer.ggml.pre"))
    first, second = from_metadata(gj.Metadata(metadata)), from_metadata(gj.Metadata(again))
    theirs = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    for text in ("The old man went to sea.", " two  spaces\n\nlines", "déjà vu 12345 ☃", "don't stop"):
        assert second.encode(text) == first.encode(text)
        assert second.decode(second.encode(text)) == first.decode(first.encode(text))
        assert theirs.encode(text).ids == first.encode(text)


@pytest.mark.parametrize("name", ["gpt-2", "phi-3", "bert-bge"])
def test_a_real_vocabulary_encodes_alike_in_tokenizers(shared, name):
    """Byte-level BPE, pieces and WordPiece, in Hugging Face's own library."""
    metadata = gj.read(shared / "vocab" / f"ggml-vocab-{name}.gguf").metadata
    ours = from_metadata(metadata)
    theirs = tokenizers.Tokenizer.from_str(tokenizer_files(metadata)["tokenizer.json"].decode())
    for text in ("Hello, world! It's 12345.67 don't", " two  spaces\n\n\tlines ", "naïve café 日本語 ☃ 🦙", "ﬁne ① Ⅳ"):
        assert theirs.encode(text).ids == ours.encode(text)


def test_unigram_encodes_alike_in_tokenizers():
    metadata = gj.Metadata(
        {
            "tokenizer.ggml.model": "t5",
            "tokenizer.ggml.tokens": ["<pad>", "</s>", "<unk>", "\u2581", "\u2581a", "b", "ab", "\u2581ab"],
            "tokenizer.ggml.scores": np.array([0, 0, 0, -2, -3, -4, -3.5, -5], np.float32),
            "tokenizer.ggml.token_type": np.array([3, 3, 2, 1, 1, 1, 1, 1], np.int32),
            "tokenizer.ggml.unknown_token_id": 2,
            "tokenizer.ggml.eos_token_id": 1,
            "tokenizer.ggml.add_eos_token": True,
            "tokenizer.ggml.add_space_prefix": True,
            "tokenizer.ggml.remove_extra_whitespaces": True,
        }
    )
    theirs = tokenizers.Tokenizer.from_str(tokenizer_files(metadata)["tokenizer.json"].decode())
    for text in ("ab b a", " abab   b ", "a", "bbab"):
        assert theirs.encode(text).ids == from_metadata(metadata).encode(text)


def test_an_orbax_checkpoint_restores_the_packed_model(tmp_path, bundled):
    export_orbax(bundled, tmp_path / "checkpoint")
    model, expected = restore(tmp_path / "checkpoint"), gj.load(prepare=False)
    pairs = list(zip(*(jax.tree.leaves(nnx.state(m)) for m in (model, expected)), strict=True))
    assert len(pairs) > 57
    assert all(a.dtype == b.dtype and (np.asarray(a) == np.asarray(b)).all() for a, b in pairs)
    with pytest.raises(GGUFError, match="expected no such folder, found one"):
        export_orbax(bundled, tmp_path / "checkpoint")


@pytest.mark.parametrize(("name", "key"), [("deepseek2", "q_lora_rank"), ("phi3-long", "sliding_window")])
def test_none_is_written_where_its_absence_would_be_a_number(tmp_path, name, key):
    with open_model(golden_folder(tmp_path / "first", name)) as file:
        export_folder(file, tmp_path / "second")
    assert json.loads((tmp_path / "second" / "config.json").read_text())[key] is None


class TestBadInput:
    def test_a_folder_with_files_is_left_alone(self, tmp_path, bundled):
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "precious").write_text("1")
        with pytest.raises(GGUFError, match="expected no such folder or an empty one, found files"):
            export_folder(bundled, tmp_path / "folder")
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]

    def test_an_architecture_without_a_class(self, tmp_path):
        gj.write(tmp_path / "a.gguf", {"general.architecture": "rwkv7"}, {"a": np.ones((2, 2), np.float32)})
        with pytest.raises(gj.Unsupported, match=r"a\.gguf: general\.architecture: expected one of llama, .*'rwkv7'"):
            export_folder(tmp_path / "a.gguf", tmp_path / "folder")

    def test_weights_too_large_leave_nothing(self, tmp_path):
        folder = golden_folder(tmp_path / "first", "qwen2")
        with open_model(folder) as file:
            tensors = {name: view.dequantize() for name, view in file.tensors.items()}
            tensors["blk.0.ffn_up.weight"] = tensors["blk.0.ffn_up.weight"] + np.float32(1e6)
            gj.write(tmp_path / "a.gguf", file.metadata, tensors)
        with pytest.raises(gj.GGUFJaxError, match="expected weights that fit F16, found larger ones"):
            export_folder(tmp_path / "a.gguf", tmp_path / "second", type="F16")
        assert not (tmp_path / "second").exists()

    def test_a_type_that_is_none(self, tmp_path, bundled):
        with pytest.raises(gj.GGUFJaxError, match="type: expected one of F32, F16, BF16, found 'Q4_K_M'"):
            export_folder(bundled, tmp_path / "folder", type="Q4_K_M")

"""`gguf-jax convert`, `gguf-jax export` and `from_pretrained`, as a user runs them."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.cli.app import app
from gguf_jax.convert import pretrained
from gguf_jax.errors import GGUFJaxError
from tests.convert.folders import golden_folder, write_folder
from tests.convert.test_lora import write_adapter
from tests.convert.weights import weights

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 53, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
LAYER = {
    "input_layernorm": (256,), "post_attention_layernorm": (256,), "self_attn.q_proj": (256, 256),
    "self_attn.k_proj": (128, 256), "self_attn.v_proj": (128, 256), "self_attn.o_proj": (256, 256),
    "mlp.gate_proj": (512, 256), "mlp.up_proj": (512, 256), "mlp.down_proj": (256, 512),
}  # fmt: skip
SHAPES = {
    "model.embed_tokens.weight": (53, 256),
    "lm_head.weight": (53, 256),
    "model.norm.weight": (256,),
    **{f"model.layers.0.{name}.weight": shape for name, shape in LAYER.items()},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which the program runs, with a model `hf` whose rows are long enough for K types."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "hf", CONFIG, weights(SHAPES))
    return tmp_path


def run(*arguments):
    app([*map(str, arguments)], standalone_mode=False)


def data(path):
    with gj.read(path) as file:
        return {name: bytes(view.data) for name, view in file.tensors.items()}


def test_a_packed_type_at_once_has_the_bytes_of_two_steps(folder, capsys):
    run("convert", "hf", "a.gguf", "--type", "Q4_K_M", "--json")
    totals = json.loads(capsys.readouterr().out)
    assert totals["file_type"] == "Q4_K_M"
    assert {tensor["type"] for tensor in totals["tensors"]} == {"F32", "Q4_K", "Q6_K"}
    run("convert", "hf", "f32.gguf", "--type", "F32", "--quiet")
    gj.quantize_file("f32.gguf", "b.gguf", "Q4_K_M")
    assert data("a.gguf") == data("b.gguf")


@pytest.mark.parametrize(("given", "found"), [((), "F16"), (("--type", "bf16"), "BF16"), (("--type", "auto"), "F32")])
def test_types_of_floats(folder, given, found):
    run("convert", "hf", "a.gguf", "--quiet", "--name", "mine", *given)
    with gj.read("a.gguf") as file:
        matrices = {view.type.name for view in file.tensors.values() if len(view.shape) > 1}
        assert matrices == {found}
        assert file.metadata["general.name"] == "mine"


def test_shards_are_read_together(folder):
    """The same file from an index and two files."""
    every = weights(SHAPES)
    names = list(every)
    for i, part in enumerate((names[:5], names[5:])):
        write_folder(folder / "part", CONFIG, {name: every[name] for name in part})
        (folder / "hf2").mkdir(exist_ok=True)
        (folder / "part" / "model.safetensors").rename(folder / "hf2" / f"model-{i}.safetensors")
    (folder / "hf2" / "config.json").write_text(json.dumps(CONFIG))
    where = {name: f"model-{int(i >= 5)}.safetensors" for i, name in enumerate(names)}
    (folder / "hf2" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    run("convert", "hf", "a.gguf", "-q")
    run("convert", "hf2", "b.gguf", "-q")
    assert data("a.gguf") == data("b.gguf")


def test_export_and_back(folder, capsys):
    run("convert", "hf", "a.gguf", "--type", "Q8_0", "-q")
    run("export", "a.gguf", "out", "--type", "F32")
    found = capsys.readouterr()
    assert found.out.splitlines()[-2:] == ["out/config.json", "out/model.safetensors"]
    assert "9 of 12 tensors were packed" in found.err
    run("convert", "out", "b.gguf", "--type", "Q8_0", "-q")
    assert data("b.gguf") == data("a.gguf")
    with pytest.raises(GGUFJaxError, match="found files; --force replaces them"):
        run("export", "a.gguf", "out")
    run("export", "a.gguf", "out", "--force")


def test_lora(folder, capsys):
    base = golden_folder(folder / "base", "llama")
    write_adapter(folder / "adapter", "llama")
    run("convert", "adapter", "a.gguf", "--lora", "--base", base)
    found = capsys.readouterr()
    assert (found.out, found.err) == ("a.gguf\n", "6 tensors of llama, alpha 5\n")
    with pytest.raises(GGUFJaxError, match="--base: expected --lora with it"):
        run("convert", base, "b.gguf", "--base", base)


class TestFromPretrained:
    def test_as_stored_and_packed(self, folder):
        ids = np.arange(20)[None]
        stored = np.asarray(gj.from_pretrained("hf")(ids))
        packed = gj.from_pretrained("hf", type="Q8_0", cache="cache")
        assert packed.metadata["general.file_type"] == 7
        assert 0 < np.abs(np.asarray(packed(ids)) - stored).max() < 0.1 * np.abs(stored).max()

    def test_a_conversion_is_kept_until_the_folder_changes(self, folder, monkeypatch):
        gj.from_pretrained("hf", type="Q8_0", cache="cache")
        made = []
        monkeypatch.setattr(pretrained, "convert_folder", lambda *a, **k: made.append(a) or gj.convert_folder(*a, **k))
        gj.from_pretrained("hf", type="Q8_0", cache="cache")
        assert not made
        write_folder(folder / "hf", CONFIG | {"rms_norm_eps": 1e-6}, weights(SHAPES))
        gj.from_pretrained("hf", type="Q8_0", cache="cache")
        assert len(made) == 1

    def test_a_repository_is_downloaded(self, folder, monkeypatch):
        import huggingface_hub

        asked = []

        place = folder / "models--user--Tiny-0.6M-Chat" / "snapshots" / "0123abcd"
        write_folder(place, CONFIG, weights(SHAPES))

        def download(name, revision, allow_patterns):
            asked.append((name, revision))
            return str(place)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        assert gj.from_pretrained("user/repo", revision="v1").config.embedding_length == 256
        run("convert", "user/repo", "a.gguf", "-q")
        assert asked == [("user/repo", "v1"), ("user/repo", None)]
        with gj.read("a.gguf") as file:
            names = ("name", "organization", "basename", "size_label", "finetune")
            found = [file.metadata[f"general.{name}"] for name in names]
        assert found == ["Tiny 0.6M Chat", "User", "Tiny", "0.6M", "Chat"]

    def test_none_of_both(self, folder, monkeypatch):
        import huggingface_hub

        def download(*arguments, **options):
            raise OSError("no network\nat all")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        with pytest.raises(
            GGUFJaxError, match=r"absent: expected a folder with config\.json, or user/name, found neither"
        ):
            gj.from_pretrained("absent")
        with pytest.raises(GGUFJaxError, match="user/repo: cannot be downloaded: 'no network'"):
            gj.from_pretrained("user/repo")

"""`merge_adapters`: the weights of a file with adapters in them."""

import numpy as np
import pytest

from gguf_jax import gguf
from gguf_jax.adapters import Adapter, write_adapter
from gguf_jax.checkpoint import load
from gguf_jax.cli.app import app
from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import GGMLType, dequantize
from gguf_jax.quantization.array import quantize
from gguf_jax.quantization.merge import merge_adapters
from tests.models.families import FAMILIES
from tests.support import small_model

TENSORS = ["token_embd.weight", "blk.0.attn_q.weight", "blk.1.ffn_down.weight"]


@pytest.fixture
def files(tmp_path):
    """A model whose blk.0.attn_q is Q8_0 and blk.1.ffn_down F16, the rest F32, and an adapter of three tensors."""
    from gguf_jax.checkpoint import tensors_of

    family = FAMILIES["llama"]
    config = family.make(feed_forward_length=64)
    tensors = dict(tensors_of(small_model(**vars(config))))
    tensors["blk.0.attn_q.weight"] = quantize(tensors["blk.0.attn_q.weight"], "Q8_0")
    tensors["blk.1.ffn_down.weight"] = tensors["blk.1.ffn_down.weight"].astype(np.float16)
    gguf.write(tmp_path / "model.gguf", family.metadata(config), tensors)
    rng = np.random.default_rng(0)
    pairs = {
        name: (rng.standard_normal((2, tensors[name].shape[1])), rng.standard_normal((tensors[name].shape[0], 2)))
        for name in TENSORS
    }
    adapter = Adapter("style", "llama", 3.0, {n: (np.float32(a), np.float32(b)) for n, (a, b) in pairs.items()})
    write_adapter(adapter, tmp_path / "style.gguf")
    return tmp_path, adapter


@pytest.mark.parametrize(("type", "types"), [
    (GGMLType.F16, ["F32", "F16", "F16"]), (GGMLType.BF16, ["F32", "BF16", "BF16"]), (None, ["F32", "Q8_0", "F16"]),
])  # fmt: skip
def test_exact_weights(type, types, files):
    folder, adapter = files
    changed = merge_adapters(folder / "model.gguf", folder / "out.gguf", [(adapter, 0.5)], type=type)
    assert sorted(changed) == sorted(TENSORS)
    with gguf.read(folder / "model.gguf") as before, gguf.read(folder / "out.gguf") as after:
        assert list(after.tensors) == list(before.tensors)
        for name, view in after.tensors.items():
            if name not in TENSORS:
                assert view.data == before.tensors[name].data
                continue
            a, b = adapter.pairs[name]
            wide = before.tensors[name].dequantize() + np.float32(0.5 * 3 / 2) * (b @ a)
            assert view.type.name == types[TENSORS.index(name)]
            expected = (
                dequantize(np.asarray(quantize(wide, view.type).to_blocks()), view.type)
                if view.format.is_quantized
                else wide
            )
            ulp = {"F32": 2.0**-22, "F16": 2.0**-10, "BF16": 2.0**-7, "Q8_0": 2.0**-22}[view.type.name]
            # the order of a sum of two products is the library's
            assert np.abs(view.dequantize() - expected.reshape(wide.shape)).max() <= ulp * np.abs(wide).max()
    file_type = 1 if type is GGMLType.F16 else None
    with gguf.read(folder / "out.gguf") as after:
        assert after.metadata.get("general.file_type") == file_type
    load(folder / "out.gguf")


def test_command_line(files):
    from typer.testing import CliRunner

    folder, _ = files
    model, style, out = (str(folder / name) for name in ("model.gguf", "style.gguf", "out.gguf"))
    runner = CliRunner()
    result = runner.invoke(app, ["export-lora", model, out, "--lora-scaled", f"{style}:0.5", "-t", "keep"])
    assert (result.exit_code, result.stdout) == (0, f"{out}\n")
    with gguf.read(out) as file:
        assert file.tensors["blk.0.attn_q.weight"].type is GGMLType.Q8_0
    for arguments, message in [
        ([model, out], "expected at least one --lora"),
        ([model, out, "--lora", style], "exists already"),
        ([model, str(folder / "x"), "--lora-scaled", style], "--lora-scaled: expected FILE:SCALE"),
        ([model, str(folder / "x"), "--lora", style, "-t", "Q9"], "--type: expected a ggml type such as F16"),
        ([model, str(folder / "x"), "--lora", model], "general.type: expected 'adapter'"),
        ([model, model, "--lora", style, "--force"], "expected another file than the model itself"),
        (
            [model, str(folder / "x"), "--lora-scaled", f"{style}:nan"],
            "adapter style: expected a finite scale, found nan",
        ),
    ]:
        result = runner.invoke(app, ["export-lora", *arguments])
        assert isinstance(result.exception, GGUFJaxError)
        assert message in str(result.exception)
        assert not (folder / "x").exists()


def test_what_does_not_fit(files):
    folder, adapter = files
    for bad, message in [
        (Adapter("x", "qwen2", 0.0, adapter.pairs), "adapter x: expected one for 'llama', found 'qwen2'"),
        (Adapter("x", "llama", 0.0, {"absent": adapter.pairs[TENSORS[0]]}), "absent: expected a tensor of the model"),
        (
            Adapter("x", "llama", 0.0, {TENSORS[1]: adapter.pairs[TENSORS[2]]}),
            r"expected the shape \[32, 32\], found \[32, 64\]",
        ),
    ]:
        with pytest.raises(GGUFJaxError, match=message):
            merge_adapters(folder / "model.gguf", folder / "out.gguf", [(bad, 1.0)])
        assert not (folder / "out.gguf").exists()

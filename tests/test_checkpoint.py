"""A file becomes a model and back: golden logits, strictness both ways, memory, placement."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gguf_jax as gj
from gguf_jax import checkpoint
from gguf_jax.generation.timings import Timings
from gguf_jax.gguf import ValueType
from gguf_jax.models.config import QKNorm
from gguf_jax.nn import PackedParam, RopePairing
from tests.support import random_blocks, small_model

GOLDEN = {
    "stories260K": "stories260K/stories260K.gguf",
    "tinystories-656k-F32": "tinystories-656k/tinystories-656k-F32.gguf",
    "prose-23m-F16": "prose-23m/prose-23m-F16.gguf",
}
METADATA = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 48,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.attention.sliding_window": 5,
}


def write_small(path, *, drop=(), add=None, metadata=None, **changes):
    """A small model's file, with some of it changed."""
    tensors = checkpoint.tensors_of(small_model(windows=(5, 5), **changes))
    tensors = {name: value for name, value in tensors.items() if name not in drop} | (add or {})
    gj.write(path, METADATA | (metadata or {}), tensors)
    return path


@pytest.fixture(scope="module", params=GOLDEN)
def golden_case(request, shared):
    """The peer's logits and greedy tokens, float32 cache, and the model they came from."""
    model = gj.load(shared / "models" / GOLDEN[request.param])
    with np.load(shared / "golden" / "logits" / f"{request.param}.npz") as golden:
        return model, {name: golden[name] for name in golden.files}


def test_exact_logits(golden_case):
    model, golden = golden_case
    logits = np.asarray(model(golden["tokens"][None]))[0]
    assert np.abs(logits - golden["logits"]).max() <= 2e-5 * np.abs(golden["logits"]).max()


@pytest.mark.parametrize("batch_size", [16, 512])
def test_exact_greedy_tokens(golden_case, batch_size):
    model, golden = golden_case
    engine = gj.Engine(model, cache_type="f32", batch_size=batch_size)
    prompt = golden["tokens"][:16].tolist()
    steps = engine.generate([prompt], [gj.SamplingParams.greedy()], max_tokens=64)
    assert [ids[0] for ids in steps] == golden["greedy"].tolist()


def test_exact_greedy_tokens_of_the_bundled_model():
    """The peer's, for packed weights: it rounds activations to int8 here, so logits differ, but no token does."""
    golden = json.loads((Path(__file__).parent / "data" / "prose-23m-Q4_K_M.greedy.json").read_text("utf-8"))
    engine = gj.Engine(gj.load(), cache_type="f32")
    steps = engine.generate([golden["prompt"]], [gj.SamplingParams.greedy()], max_tokens=64)
    assert [ids[0] for ids in steps] == golden["greedy"]


def test_exact_weights_of_the_bundled_model(bundled):
    model = gj.load(bundled)
    with gj.read(bundled) as file:
        loaded = checkpoint.tensors_of(model)
        assert set(loaded) == set(file.tensors)
        for name, view in file.tensors.items():
            mine = loaded[name]
            assert mine.shape == view.shape
            blocks = mine.to_blocks() if isinstance(mine, gj.QuantizedArray) else mine.view(np.uint8)
            assert (blocks.reshape(-1) == view.blocks().reshape(-1)).all()
    w = model.blk[0].attn_q.weight
    assert isinstance(w, PackedParam)
    assert (w.get_value().shape, w.get_value().type, w.get_value().bits_per_weight) == (
        (512, 512),
        gj.GGMLType.Q4_K,
        4.5,
    )
    assert model.config.vocab_size == 4096
    assert model.metadata["general.name"] == "prose-23m"  # the file is closed by now


def test_exact_packed_model_computes_what_its_decoded_weights_compute(bundled):
    """Packed and dequantized are the same model: the decoder inside the program rounds nothing."""
    packed = gj.load(bundled)
    decoded = gj.load(bundled)
    for _, each in nnx.to_flat_state(nnx.state(packed, PackedParam)):
        assert each.get_value().ndim == 2
    for path, (module, leaf, _) in checkpoint.slots(decoded):
        value = getattr(module, leaf).get_value()
        if isinstance(value, gj.QuantizedArray):
            setattr(module, leaf, nnx.Param(value.dequantize()))
        assert path
    tokens = np.random.default_rng(0).integers(0, 4096, (1, 24))
    a, b = (np.asarray(model(tokens)) for model in (packed, decoded))
    eps = np.finfo(np.float32).eps
    longest, blocks = packed.config.feed_forward_length, packed.config.block_count
    assert np.abs(a - b).max() <= eps * np.sqrt(longest) * 8 * blocks * np.abs(b).max()


def test_save_round_trip(tmp_path, bundled):
    model = gj.load(bundled)
    gj.save(model, tmp_path / "copy.gguf")
    with gj.read(bundled) as one, gj.read(tmp_path / "copy.gguf") as two:
        assert dict(one.metadata.types) == dict(two.metadata.types)
        assert set(one.tensors) == set(two.tensors)
        for name, view in one.tensors.items():
            assert (two.tensors[name].type, two.tensors[name].shape) == (view.type, view.shape)
            assert (two.tensors[name].blocks() == view.blocks()).all()


def test_save_needs_metadata(tmp_path):
    with pytest.raises(gj.GGUFJaxError, match=r"copy\.gguf: expected metadata"):
        gj.save(small_model(), tmp_path / "copy.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("architecture", "pairing"),
    [("llama", RopePairing.INTERLEAVED), ("qwen2", RopePairing.HALVES), ("qwen3", RopePairing.HALVES)],
)
def test_architectures(tmp_path, architecture, pairing):
    metadata = {key.replace("llama.", f"{architecture}."): value for key, value in METADATA.items()}
    metadata["general.architecture"] = architecture
    metadata |= {f"{architecture}.rope.scaling.type": "yarn", f"{architecture}.rope.scaling.factor": 2.0}
    qk_norm = QKNorm.HEAD if architecture == "qwen3" else None
    source = small_model(attn_bias=architecture == "qwen2", qk_norm=qk_norm, tied_output=True)
    gj.write(tmp_path / "model.gguf", metadata, checkpoint.tensors_of(source))
    model = gj.load(tmp_path / "model.gguf")
    c = model.config
    assert c.architecture == architecture
    assert (c.rope.pairing, c.rope.factor, c.rope.yarn.original_context) == (pairing, 2.0, 64)
    assert (c.attn_bias, c.qk_norm, c.tied_output) == (architecture == "qwen2", qk_norm, True)
    assert c.windows == (5, 5)
    assert model([[1, 2, 3]]).shape == (1, 3, 97)


def test_float_types_keep_their_dtype(tmp_path):
    rng = np.random.default_rng(0)
    half = rng.standard_normal((32, 32)).astype(np.float16)
    brain = jnp.asarray(rng.standard_normal((16, 32)), jnp.bfloat16)
    path = write_small(tmp_path / "m.gguf", add={"blk.0.attn_q.weight": half, "blk.0.attn_k.weight": np.asarray(brain)})
    model = gj.load(path)
    q, k = model.blk[0].attn_q.weight, model.blk[0].attn_k.weight
    assert isinstance(q, nnx.Param)
    assert (q.get_value().dtype, k.get_value().dtype) == (jnp.float16, jnp.bfloat16)
    assert (np.asarray(q.get_value()) == half).all()
    assert (k.get_value() == brain).all()
    assert np.isfinite(model([[1, 2, 3]])).all()


def test_placement(tmp_path, bundled):
    asked = {}
    device = jax.devices()[0]

    def place(name, shape):
        asked[name] = shape
        return jax.sharding.SingleDeviceSharding(device)

    model = gj.load(bundled, placement=place)
    assert asked == {name: tuple(value.shape) for name, value in checkpoint.tensors_of(model).items()}
    assert gj.load(bundled, placement=device).output_norm.weight.get_value().devices() == {device}


def test_progress_reports_every_byte(bundled):
    seen = []
    gj.load(bundled, on_tensor=lambda name, nbytes: seen.append(nbytes))
    with gj.read(bundled) as file:
        assert sum(seen) == sum(view.nbytes for view in file.tensors.values())


# Not ru_maxrss, which a process inherits: it would be what the tests before this one took in their process.
PEAK = """
import sys
import gguf_jax as gj
gj.load(sys.argv[1])
with open("/proc/self/status") as status:
    print(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a process its peak this way")
def test_peak_memory_of_load(tmp_path):
    """<= file size x 1.3 + 700 MB, for a file large enough (1.2 GB) that a second copy would show."""
    rows, columns, blocks = 16384, 4096, 9
    path = tmp_path / "large.gguf"
    metadata = METADATA | {"llama.block_count": blocks, "llama.embedding_length": columns}
    metadata |= {"llama.feed_forward_length": rows, "llama.attention.key_length": 8, "llama.attention.value_length": 8}
    q8 = gj.GGMLType.Q8_0
    up, down = random_blocks(q8, rows, columns=columns), random_blocks(q8, columns, columns=rows)
    one, q, k = (
        np.ones(columns, np.float32),
        random_blocks(q8, 32, columns=columns),
        random_blocks(q8, 16, columns=columns),
    )
    tensors = {"token_embd.weight": (q8, random_blocks(q8, 97, columns=columns)), "output_norm.weight": one}
    for n in range(blocks):
        blk = f"blk.{n}"
        tensors |= {f"{blk}.attn_norm.weight": one, f"{blk}.ffn_norm.weight": one, f"{blk}.attn_q.weight": (q8, q)}
        tensors |= {f"{blk}.attn_k.weight": (q8, k), f"{blk}.attn_v.weight": (q8, k)}
        tensors |= {f"{blk}.attn_output.weight": (q8, random_blocks(q8, columns, columns=32))}
        tensors |= {f"{blk}.ffn_up.weight": (q8, up), f"{blk}.ffn_down.weight": (q8, down)}
        tensors |= (
            {f"{blk}.ffn_gate.weight": np.zeros((rows, columns), np.float16)}
            if n < 2
            else {f"{blk}.ffn_gate.weight": (gj.GGMLType.Q4_0, random_blocks(gj.GGMLType.Q4_0, rows, columns=columns))}
        )
    gj.write(path, metadata, tensors)
    size = path.stat().st_size
    assert size > 1.2e9
    done = subprocess.run(
        [sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True, env=os.environ
    )
    assert int(done.stdout) <= size * 1.3 + 700e6


class TestBadFiles:
    """One line: file, field or tensor, expected, found."""

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            (
                "general.architecture",
                "llamas",
                "expected one of llama, .*, found 'llamas' .*nearest is llama",
            ),
            ("general.architecture", 3, "general.architecture: expected a string, found 3"),
            ("general.architecture", "x" * 10**5, r"found 'xxx.{10,80}\.\.\.$"),
            (
                "llama.rope.scaling.type",
                [1, 2],
                "llama.rope.scaling.type: expected one of none, linear, .*, found",
            ),
            ("llama.rope.scaling.factor", 1e-6, "llama.rope.scaling.factor: expected 0 or at least 0.001, found"),
            ("llama.attention.scale", gj.Typed(1e300, ValueType.F64), "attention.scale: expected a number from 0 to"),
            ("llama.block_count", 0, "llama.block_count: expected an integer from 1 to"),
            ("llama.block_count", 2**31, "llama.block_count: expected an integer from 1 to"),
            ("llama.block_count", "2", "llama.block_count: expected an integer from 1 to .*, found '2'"),
            ("llama.block_count", 3, r"block_count: expected at most 2 \(blocks with tensors\), found 3"),
            ("llama.embedding_length", 2**31 - 1, "llama.embedding_length: expected 32 .*found 2147483647"),
            ("llama.feed_forward_length", 2**31 - 1, "llama.feed_forward_length: expected 48 .*found 2147483647"),
            ("llama.attention.head_count", 2**30, "llama.attention.head_count"),
            ("llama.attention.head_count", 3, "llama.attention.head_count_kv: expected a divisor of 3 heads, found 2"),
            ("llama.attention.key_length", 9, "expected 32 .*found 36"),
            (
                "llama.attention.layer_norm_rms_epsilon",
                float("nan"),
                "expected a number from 0 to 1000, found nan",
            ),
            ("llama.rope.dimension_count", 7, "rope.dimension_count: expected an even number of at most 8 .*, found 7"),
            (
                "llama.rope.dimension_count",
                64,
                "llama.rope.dimension_count: expected an even number of at most 8 .*, found 64",
            ),
            ("llama.rope.scaling.type", "magic", "expected one of none, .*, longrope, found 'magic'"),
            ("llama.rope.freq_base", 0.0, "llama.rope.freq_base: expected a number from 1 to 1e"),
            ("llama.expert_count", 8, "llama.expert_used_count: expected an integer, found no such key"),
            ("llama.attention.sliding_window_pattern", [True], "sliding_window_pattern: expected 2 booleans"),
        ],
    )
    def test_metadata(self, tmp_path, key, value, message):
        path = write_small(tmp_path / "bad.gguf", metadata={key: value})
        with pytest.raises(gj.GGUFJaxError, match=message) as caught:
            gj.load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("key", [key for key in METADATA if key != "llama.attention.sliding_window"])
    def test_missing_key(self, tmp_path, key):
        tensors = checkpoint.tensors_of(small_model())
        gj.write(tmp_path / "bad.gguf", {k: v for k, v in METADATA.items() if k != key}, tensors)
        # without it there are as many groups as heads
        expected = "blk.0.attn_k.weight" if key == "llama.attention.head_count_kv" else key
        with pytest.raises(gj.GGUFError, match=rf"bad\.gguf: .*{expected}"):
            gj.load(tmp_path / "bad.gguf")

    def test_missing_tensor(self, tmp_path):
        path = write_small(tmp_path / "bad.gguf", drop=["blk.1.ffn_up.weight"])
        with pytest.raises(gj.GGUFError, match=r"bad\.gguf: expected the tensor blk\.1\.ffn_up\.weight, found no such"):
            gj.load(path)

    def test_unknown_tensor_unless_ignored(self, tmp_path):
        path = write_small(tmp_path / "bad.gguf", add={"blk.0.extra.weight": np.ones(3, np.float32)})
        with pytest.raises(gj.GGUFError, match=r"expected only tensors that .* knows, found blk\.0\.extra\.weight"):
            gj.load(path)
        assert gj.load(path, ignore=["blk.*.extra.*"])([[1]]).shape == (1, 1, 97)

    def test_wrong_shape(self, tmp_path):
        path = write_small(tmp_path / "bad.gguf", add={"blk.1.attn_norm.weight": np.ones(31, np.float32)})
        with pytest.raises(gj.GGUFError, match=r"blk\.1\.attn_norm\.weight: expected the shape \[32\], found \[31\]"):
            gj.load(path)

    def test_a_packed_vector(self, tmp_path):
        packed = (gj.GGMLType.Q4_0, random_blocks(gj.GGMLType.Q4_0, columns=32))
        path = write_small(tmp_path / "bad.gguf", add={"output_norm.weight": packed})
        with pytest.raises(
            gj.GGUFError, match=r"output_norm\.weight: expected F32, F16 or BF16 for a vector, found Q4_0"
        ):
            gj.load(path)

    def test_an_embedding_without_rows(self, tmp_path):
        path = write_small(tmp_path / "bad.gguf", add={"token_embd.weight": np.ones((0, 32), np.float32)})
        with pytest.raises(gj.GGUFError, match=r"token_embd\.weight: expected a matrix .*, found the shape \[0, 32\]"):
            gj.load(path)

    def test_names_with_control_characters(self, tmp_path):
        path = write_small(tmp_path / "bad.gguf", add={"x\x1b[31m\nfoo": np.ones(3, np.float32)})
        with pytest.raises(gj.GGUFError) as caught:
            gj.load(path)
        assert str(caught.value).isprintable()

    def test_more_tokens_than_the_tokenizer_has(self, tmp_path):
        vocabulary = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a", "b"]}
        vocabulary |= {"tokenizer.ggml.scores": [0.0, 0.0], "tokenizer.ggml.token_type": [1, 1]}
        model = gj.load(write_small(tmp_path / "m.gguf", metadata=vocabulary))
        with pytest.raises(
            gj.GGUFJaxError, match=r"m\.gguf: tokenizer\.ggml\.tokens: expected at least 97 tokens, found 2"
        ):
            gj.generate(model, "a")

    def test_many_blocks_are_refused_quickly(self, tmp_path):
        """Tensors that are no block's must not count as blocks."""
        empty = {f"t{i}": np.ones(0, np.float32) for i in range(1000)}
        path = write_small(tmp_path / "bad.gguf", add=empty, metadata={"llama.block_count": 1000})
        with pytest.raises(gj.GGUFError, match="block_count: expected at most 2 "):
            gj.load(path)

    def test_a_type_that_is_no_weight(self, tmp_path):
        path = write_small(tmp_path / "bad.gguf", add={"blk.1.attn_norm.weight": np.ones(32, np.int32)})
        with pytest.raises(
            gj.GGUFError, match=r"attn_norm\.weight: expected F32, F16, BF16 or a quantized type, found I32"
        ):
            gj.load(path)

    def test_no_embedding(self, tmp_path):
        path = write_small(tmp_path / "bad.gguf", drop=["token_embd.weight"])
        with pytest.raises(gj.GGUFError, match=r"token_embd\.weight: expected a matrix"):
            gj.load(path)

    def test_no_tokenizer_is_an_error_only_when_used(self, tmp_path):
        model = gj.load(write_small(tmp_path / "m.gguf"))
        assert model([[1, 2]]).shape == (1, 2, 97)
        with pytest.raises(gj.GGUFJaxError, match=r"m\.gguf: .*tokenizer\.ggml\.model.* no usable tokenizer"):
            gj.generate(model, "text")

    def test_timings_add_up(self, tmp_path):
        model = gj.load(write_small(tmp_path / "m.gguf"))
        timings = Timings()
        list(gj.Engine(model).generate([[1, 2]], [gj.SamplingParams.greedy()], max_tokens=5, timings=timings))
        assert (timings.prefill_tokens, timings.decode_tokens) == (2, 4)
        assert min(timings.compile_s, timings.prefill_s, timings.decode_s) > 0

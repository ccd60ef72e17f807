"""The same Hugging Face folder through `gguf-jax convert` and through llama.cpp's convert_hf_to_gguf.py.

    python benchmarks/compare_convert.py LLAMA_CPP PYTHON VOCAB [NAME ...]   tensors and metadata
    python benchmarks/compare_convert.py LLAMA_CPP PYTHON VOCAB --logits LLAMA_BIN [NAME ...]   and logits
    python benchmarks/compare_convert.py LLAMA_CPP PYTHON VOCAB --exports [NAME ...]   exports, read by transformers
    python benchmarks/compare_convert.py LLAMA_CPP PYTHON VOCAB --large [--quantize LLAMA_QUANTIZE]

`PYTHON` is an interpreter with torch, transformers and sentencepiece, `VOCAB` a GGUF file with GPT-2's vocabulary (the
peer knows a tokenizer by what it makes of a text, so it must be a real one). Of a golden model a folder is written with
a tokenizer; the report says which tensors or keys differ, if any do. `--large` makes a model of the shape of Qwen2-1.5B
in bfloat16 (3 GB) and converts it to Q4_K_M: here at once, there to BF16 and then with llama-quantize; it prints
seconds and the largest resident memory of each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from compare_families import CTX_SIZE, TEXT, difference  # noqa: E402

import gguf_jax as gj  # noqa: E402
from gguf_jax.convert.safetensors import Outgoing, write_safetensors  # noqa: E402
from gguf_jax.tokenizers.pre_tokenizers import PRE_TOKENIZERS  # noqa: E402
from tests.convert.folders import MODELS, golden_folder, write_folder  # noqa: E402
from tests.convert.weights import weights  # noqa: E402

SMALL_VOCAB = 53

TRAIN = """
import sys, sentencepiece
sentencepiece.SentencePieceTrainer.train(
    input=sys.argv[1], model_prefix=sys.argv[2], vocab_size=400, model_type="bpe", byte_fallback=True,
    add_dummy_prefix=False, minloglevel=2)
"""
PIECES = ("gemma", "gemma2", "gemma3", "phi3", "phi3-long", "llama-tied")
"""Models that get a SentencePiece tokenizer, since the peer reads no other for most of them."""


OLD_KEYS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_ctx": 128},
    "gptneox": {"rotary_pct": 0.5},
    "gptneox-serial": {"rotary_pct": 0.25},
    "cohere2": {"rotary_pct": 1.0},
}
"""What transformers before 5 wrote as well, and the peer reads."""


def tokenizers(python: str, folder: Path, vocab: Path) -> tuple[Path, Path]:
    """A byte-level tokenizer.json of a GGUF file's vocabulary, and a SentencePiece tokenizer.model of 400 tokens."""
    text = folder / "text.txt"
    text.write_text((ROOT / "README.md").read_text() + (ROOT / "ARCHITECTURE.md").read_text())
    subprocess.run([python, "-c", TRAIN, text, folder / "tokenizer"], check=True, capture_output=True)
    metadata = gj.read(vocab).metadata
    tokens, types = list(metadata["tokenizer.ggml.tokens"]), metadata["tokenizer.ggml.token_type"]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    patterns = PRE_TOKENIZERS[metadata["tokenizer.ggml.pre"]].patterns
    splits = [{"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in patterns]
    model = {"vocab": {t: i for i, t in enumerate(tokens)}, "merges": list(metadata["tokenizer.ggml.merges"])}
    added = [{"id": i, "content": t, **plain} for i, t in enumerate(tokens) if types[i] == 3]
    written = {"version": "1.0", "added_tokens": added, "normalizer": None}
    written["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*splits, byte_level]}
    written |= {"post_processor": byte_level, "decoder": byte_level, "model": {"type": "BPE", **model}}
    (folder / "tokenizer.json").write_text(json.dumps(written))
    return folder / "tokenizer.json", folder / "tokenizer.model"


def small(folder: Path, name: str, byte_level: Path, pieces: Path) -> Path:
    """A golden model with the vocabulary of one of the tokenizers."""
    model = MODELS[name]
    vocab = 400 if name in PIECES else len(json.loads(byte_level.read_text())["model"]["vocab"])
    shapes = {k: [vocab if n == SMALL_VOCAB else n for n in shape] for k, shape in model["shapes"].items()}
    write_folder(
        folder, model["config"] | {"vocab_size": vocab} | OLD_KEYS.get(name, {}), weights(shapes, model["one_added"])
    )
    if name in PIECES:
        shutil.copy(pieces, folder / "tokenizer.model")
        settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    else:
        shutil.copy(byte_level, folder / "tokenizer.json")
        end = "<|endoftext|>"
        settings = {"bos_token": end, "eos_token": end, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def peer(llama_cpp: Path, python: str, folder: Path, target: Path, kind: str) -> str | None:
    """Runs the peer's converter; what it ended with, where it failed."""
    command = [python, llama_cpp / "convert_hf_to_gguf.py", folder, "--outfile", target, "--outtype", kind]
    environment = os.environ | {"PYTHONPATH": str(llama_cpp / "gguf-py"), "NO_LOCAL_GGUF": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def differences(ours: Path, theirs: Path) -> list[str]:
    """What differs between two files, a line each."""
    found = []
    with gj.read(ours) as a, gj.read(theirs) as b:
        for name in sorted(a.tensors.keys() | b.tensors.keys()):
            x, y = a.tensors.get(name), b.tensors.get(name)
            if x is None or y is None:
                found.append(f"tensor {name}: only {'theirs' if x is None else 'ours'}")
            elif (x.type, x.shape) != (y.type, y.shape):
                found.append(f"tensor {name}: {x.type.name} {x.shape} and {y.type.name} {y.shape}")
            elif bytes(x.data) != bytes(y.data):
                off = np.abs(x.dequantize() - y.dequantize()).max()
                found.append(f"tensor {name}: bytes differ, by at most {off:.2e}")
        for key in sorted(a.metadata.keys() | b.metadata.keys()):
            x, y = (
                list(m.get(key)) if hasattr(m.get(key), "__len__") else m.get(key) for m in (a.metadata, b.metadata)
            )
            if x != y:
                found.append(f"key {key}: {str(x)[:60]} and {str(y)[:60]}")
            elif a.metadata.types[key] != b.metadata.types[key]:
                found.append(f"key {key}: {a.metadata.types[key]} and {b.metadata.types[key]}")
    return found


def compare_small(llama_cpp: Path, python: str, vocab: Path, names: list[str]) -> None:
    from gguf_jax.convert.file import convert_folder

    with tempfile.TemporaryDirectory() as place:
        made = tokenizers(python, Path(place), vocab)
        for name in names or list(MODELS):
            folder = small(Path(place) / name, name, *made)
            ours, theirs = Path(place) / f"{name}-ours.gguf", Path(place) / f"{name}-theirs.gguf"
            convert_folder(folder, ours, "F16")
            failed = peer(llama_cpp, python, folder, theirs, "f16")
            lines = [f"the peer fails: {failed}"] if failed else differences(ours, theirs)
            print(f"{name}: {'the same' if not lines else ''}")
            for line in lines:
                print(f"    {line}")


READ_BACK = """
import sys, numpy as np, torch, transformers
sys.path.insert(0, sys.argv[1])
from tests.convert.weights import KEPT, PROMPT, STEPS, tokens
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
golden = np.load(sys.argv[1] + "/tests/data/hf_logits.npz")
for name in sys.argv[3:]:
    folder = f"{sys.argv[2]}/{name}"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    ids = torch.from_numpy(tokens(PROMPT + STEPS, model.config.vocab_size).astype("int64"))[None]
    with torch.no_grad():
        logits = model.eval()(ids).logits[0].numpy()[list(KEPT)]
    off = np.abs(logits - golden[name]).max() / np.abs(golden[name]).max()
    print(f"{name}: {type(model).__name__}, {off:.1e} of the largest logit off", flush=True)
"""


def compare_exports(python: str, names: list[str]) -> None:
    """Golden models, converted and exported again, in transformers: their logits beside the golden ones."""
    from gguf_jax.convert import open_model
    from gguf_jax.convert.export import export_folder

    with tempfile.TemporaryDirectory() as place:
        for name in names or MODELS:
            with open_model(golden_folder(Path(place) / "source" / name, name)) as file:
                export_folder(file, Path(place) / name, type="F32")
        subprocess.run([python, "-c", READ_BACK, ROOT, place, *(names or MODELS)], check=True)


PROMPT = "The quick brown fox jumps over the lazy dog, and"
TOKENS = 32


def compare_logits(llama_bin: Path, python: str, vocab: Path, names: list[str]) -> None:
    """Converted models in llama.cpp: log-probabilities of a text, and greedy tokens after a prompt."""
    from gguf_jax.convert.file import convert_folder

    environment = os.environ | {"LD_LIBRARY_PATH": str(llama_bin)}
    print("| model | largest difference | largest log-probability | relative | greedy tokens |\n|---|--:|--:|--:|---|")
    with tempfile.TemporaryDirectory() as place:
        made = tokenizers(python, Path(place), vocab)
        text, path, logits = Path(place) / "text", Path(place) / "model.gguf", Path(place) / "logits"
        text.write_text(TEXT)
        for name in names or list(MODELS):
            convert_folder(small(Path(place) / name, name, *made), path, "F32", force=True, name="model")
            model = gj.load(path, cache_type="f32")
            cache = ["-ctk", "f32", "-ctv", "f32", "-fa", "off"]
            command = [llama_bin / "llama-perplexity", "-m", path, "-f", text, "-c", str(CTX_SIZE), "-b", "128", *cache]
            command += ["--kl-divergence-base", logits, "--chunks", "2"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                print(f"| {name} | llama-perplexity: {(done.stderr.strip().splitlines() or ['no word'])[-1]} |")
                continue
            worst, size, _ = difference(str(path), str(logits), model)
            command = [
                llama_bin / "llama-completion",
                "-m",
                path,
                "-p",
                PROMPT,
                "-n",
                str(TOKENS),
                "--temp",
                "0",
                *cache,
            ]
            command += ["-no-cnv", "--no-display-prompt", "--ignore-eos", "--simple-io"]
            said = subprocess.run(command, env=environment, capture_output=True).stdout.decode(errors="replace")
            options = {"params": gj.SamplingParams.greedy(), "engine": gj.Engine(model, precision="exact")}
            ours = "".join(gj.generate(model, PROMPT, max_tokens=TOKENS, stream=True, ignore_eog=True, **options))
            said, ours = (each.replace("\ufffd", "").strip() for each in (said, ours))  # bytes that are no UTF-8
            same = "the same" if said == ours else f"{said[:40]!r} and {ours[:40]!r}"
            print(f"| {name} | {worst:.2e} | {size:.3g} | {worst / size:.1e} | {same} |", flush=True)


def large(folder: Path) -> Path:
    """A model of the shape of Qwen2-1.5B, weights random."""
    width, inner, layers, vocab, kv = 1536, 8960, 28, 151936, 256
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
    for i in range(layers):
        start = f"model.layers.{i}."
        shapes |= {f"{start}{n}_layernorm.weight": (width,) for n in ("input", "post_attention")}
        for n, rows in (("q", width), ("k", kv), ("v", kv)):
            shapes |= {f"{start}self_attn.{n}_proj.weight": (rows, width), f"{start}self_attn.{n}_proj.bias": (rows,)}
        shapes[f"{start}self_attn.o_proj.weight"] = (width, width)
        shapes |= {f"{start}mlp.{n}_proj.weight": (inner, width) for n in ("gate", "up")}
        shapes[f"{start}mlp.down_proj.weight"] = (width, inner)
    random = np.random.Generator(np.random.PCG64(1))
    pool = (random.standard_normal(1 << 24, np.float32) * np.float32(0.02)).astype(ml_dtypes.bfloat16)

    def pieces(count: int):
        while count:
            start = int(random.integers(0, len(pool) // 2))
            piece = pool[start : start + min(count, len(pool) // 2)]
            yield piece
            count -= len(piece)

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: Outgoing("BF16", shape, pieces(int(np.prod(shape)))) for name, shape in shapes.items()}
    write_safetensors(str(folder / "model.safetensors"), tensors)
    config = dict(
        architectures=["Qwen2ForCausalLM"], model_type="qwen2", hidden_size=width, intermediate_size=inner,
        num_hidden_layers=layers, num_attention_heads=12, num_key_value_heads=2, vocab_size=vocab, rms_norm_eps=1e-6,
        rope_theta=1e6, max_position_embeddings=32768, tie_word_embeddings=True, hidden_act="silu",
        torch_dtype="bfloat16",
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def timed(command: list[str | Path], environment: dict[str, str] | None = None) -> tuple[float, float]:
    """Seconds, and the largest resident memory in GB. Pages of mapped files count, as for every program."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[:3]} failed:\n{said[-2000:]}")
    return time.perf_counter() - began, usage.ru_maxrss / 1e6


def compare_large(llama_cpp: Path, python: str, vocab: Path, quantize: Path | None, keep: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=keep) as place:
        folder = large(Path(place) / "model")
        byte_level, _ = tokenizers(python, Path(place), vocab)
        shutil.copy(byte_level, folder / "tokenizer.json")
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
        target = Path(place) / "ours.gguf"
        command: list[str | Path] = [sys.executable, "-m", "gguf_jax", "convert", folder, target, "--type", "Q4_K_M"]
        print("ours, BF16 -> Q4_K_M: {:.1f} s, {:.2f} GB".format(*timed(command)), flush=True)
        whole = Path(place) / "theirs-bf16.gguf"
        command = [python, llama_cpp / "convert_hf_to_gguf.py", folder, "--outfile", whole, "--outtype", "bf16"]
        environment = os.environ | {"PYTHONPATH": str(llama_cpp / "gguf-py")}
        print("theirs, to BF16: {:.1f} s, {:.2f} GB".format(*timed(command, environment)), flush=True)
        if quantize is not None:
            theirs = Path(place) / "theirs.gguf"
            print("theirs, Q4_K_M: {:.1f} s, {:.2f} GB".format(*timed([quantize, whole, theirs, "Q4_K_M"])), flush=True)
            for line in differences(target, theirs):
                print(f"    {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama_cpp", type=Path)
    parser.add_argument("python")
    parser.add_argument("vocab", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--quantize", type=Path)
    parser.add_argument("--exports", action="store_true")
    parser.add_argument("--logits", type=Path, metavar="LLAMA_BIN")
    parser.add_argument("--place", help="folder for files of some gigabytes")
    asked = parser.parse_intermixed_args()
    if asked.exports:
        compare_exports(asked.python, asked.names)
    elif asked.logits:
        compare_logits(asked.logits, asked.python, asked.vocab, asked.names)
    elif asked.large:
        compare_large(asked.llama_cpp, asked.python, asked.vocab, asked.quantize, asked.place)
    else:
        compare_small(asked.llama_cpp, asked.python, asked.vocab, asked.names)


if __name__ == "__main__":
    main()

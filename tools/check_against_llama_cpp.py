"""Logits of small random models, one for each option of the decoder, in llama.cpp and here.

    python tools/check_against_llama_cpp.py        needs `import llama_cpp` (the PyPI package llama-cpp-python)

Each model is written by this project's writer and read by both programs; key-value caches are float32. Prints, for each
variant, the largest difference of a logit over the largest logit, and whether 32 greedy tokens are equal.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import gguf_jax as gj

EMBEDDING, FEED_FORWARD, HEADS, GROUPS, BLOCKS, CONTEXT = 64, 96, 4, 2, 3, 256

VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # name: (architecture, metadata, options of the tensors)
    "llama": ("llama", {}, {}),
    "llama, tied": ("llama", {}, {"tied": True}),
    "llama, no grouping": ("llama", {"attention.head_count_kv": 4}, {"groups": 4}),
    "llama, biases": ("llama", {}, {"bias": True, "output_bias": True, "ffn_bias": True}),
    "llama, linear": ("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {}),
    "llama, rope_freqs": ("llama", {}, {"rope_freqs": True}),
    "llama, yarn": (
        "llama",
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64},
        {},
    ),
    "qwen2": ("qwen2", {}, {"bias": True}),
    "qwen2, yarn, attn_factor": (
        "qwen2",
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 8.0,
            "rope.scaling.original_context_length": 32,
            "rope.scaling.attn_factor": 0.9,
        },
        {"bias": True, "tied": True},
    ),
    "qwen3": ("qwen3", {}, {"qk_norm": True}),
    "qwen3, wide heads": (
        "qwen3",
        {"attention.key_length": 32, "attention.value_length": 32, "rope.freq_base": 1e6},
        {"qk_norm": True, "head": 32, "tied": True},
    ),
}


def make(path: Path, architecture: str, changes: dict[str, Any], options: dict[str, Any]) -> None:
    """Write a random model with the bundled model's vocabulary."""
    rng = np.random.default_rng(0)
    head, groups = options.get("head", EMBEDDING // HEADS), options.get("groups", GROUPS)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.15).astype(np.float32)

    def near_one(n: int) -> np.ndarray:
        return (1 + 0.2 * rng.standard_normal(n)).astype(np.float32)

    with gj.read(gj.bundled_model()) as file:
        metadata: dict[str, Any] = {k: v for k, v in file.metadata.items() if k.startswith("tokenizer.")}
        keys = {
            "block_count": BLOCKS,
            "context_length": CONTEXT,
            "embedding_length": EMBEDDING,
            "feed_forward_length": FEED_FORWARD,
            "attention.head_count": HEADS,
            "attention.head_count_kv": groups,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.dimension_count": head,
            "vocab_size": 4096,
        }
        metadata |= {"general.architecture": architecture}
        metadata |= {f"{architecture}.{key}": value for key, value in (keys | changes).items()}
        tensors = {"token_embd.weight": weight(4096, EMBEDDING), "output_norm.weight": near_one(EMBEDDING)}
        if not options.get("tied"):
            tensors["output.weight"] = weight(4096, EMBEDDING)
        if options.get("rope_freqs"):
            tensors["rope_freqs.weight"] = np.linspace(1, 8, head // 2, dtype=np.float32)
        for n in range(BLOCKS):
            blk = f"blk.{n}"
            tensors |= {f"{blk}.attn_norm.weight": near_one(EMBEDDING), f"{blk}.ffn_norm.weight": near_one(EMBEDDING)}
            for name, rows in (("attn_q", HEADS * head), ("attn_k", groups * head), ("attn_v", groups * head)):
                tensors[f"{blk}.{name}.weight"] = weight(rows, EMBEDDING)
                if options.get("bias"):
                    tensors[f"{blk}.{name}.bias"] = weight(rows)
            tensors[f"{blk}.attn_output.weight"] = weight(EMBEDDING, HEADS * head)
            if options.get("output_bias"):
                tensors[f"{blk}.attn_output.bias"] = weight(EMBEDDING)
            if options.get("qk_norm"):
                tensors |= {f"{blk}.attn_{x}_norm.weight": near_one(head) for x in "qk"}
            for name, shape in (
                ("gate", (FEED_FORWARD, EMBEDDING)),
                ("up", (FEED_FORWARD, EMBEDDING)),
                ("down", (EMBEDDING, FEED_FORWARD)),
            ):
                tensors[f"{blk}.ffn_{name}.weight"] = weight(*shape)
                if options.get("ffn_bias"):
                    tensors[f"{blk}.ffn_{name}.bias"] = weight(shape[0])
        gj.write(path, metadata, tensors)


def peer(path: Path, tokens: list[int]) -> tuple[np.ndarray, list[int]]:
    """llama.cpp's logits `[T, vocab]` and 32 greedy tokens after the first 16."""
    import llama_cpp  # pyright: ignore[reportMissingImports]

    model = llama_cpp.Llama(
        str(path), n_ctx=CONTEXT, n_batch=CONTEXT, logits_all=True, verbose=False, type_k=0, type_v=0
    )
    model.eval(tokens)
    logits = np.array(model.scores[: len(tokens)], np.float32)
    model.reset()
    model.eval(tokens[:16])
    greedy: list[int] = []
    for _ in range(32):
        greedy.append(int(np.argmax(model.scores[model.n_tokens - 1])))
        model.eval(greedy[-1:])
    return logits, greedy


def main() -> int:
    tokens = np.random.default_rng(1).integers(0, 4096, 128).tolist()
    worst = 0.0
    print(f"{'variant':28} {'difference':>10}  greedy")
    with tempfile.TemporaryDirectory() as folder:
        for name, (architecture, changes, options) in VARIANTS.items():
            path = Path(folder) / "model.gguf"
            make(path, architecture, changes, options)
            expected, greedy = peer(path, tokens)
            model = gj.load(path)
            logits = np.asarray(model([tokens]))[0]
            difference = float(np.abs(logits - expected).max() / np.abs(expected).max())
            steps = gj.Engine(model, cache_type="f32").generate(
                [tokens[:16]], [gj.SamplingParams.greedy()], max_tokens=32
            )
            equal = [ids[0] for ids in steps] == greedy
            print(f"{name:28} {difference:10.2e}  {'equal' if equal else 'DIFFERENT'}", flush=True)
            worst = max(worst, difference if equal else np.inf)
    return int(worst > 2e-5)


if __name__ == "__main__":
    sys.exit(main())

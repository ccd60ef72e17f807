"""Makes tests/data/hf_models.json and hf_logits.npz: small models of transformers, and the logits it computes.

Needs the extra `peer` (transformers, torch). Weights are not stored: they follow from their names
(`tests/convert/weights.py`). Usage: python tools/make_hf_goldens.py [NAME ...]; without names all are made anew.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]
from safetensors.numpy import load_file, save_file  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.convert.weights import KEPT, PROMPT, STEPS, tokens, weight  # noqa: E402

DATA = ROOT / "tests" / "data"
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
VOCAB = 53

BASE: dict[str, Any] = dict(
    vocab_size=VOCAB,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=256,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
MAMBA: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=48, num_hidden_layers=2, state_size=6, conv_kernel=4, bos_token_id=1, eos_token_id=2
)
NO_GROUPS = {key: value for key, value in BASE.items() if key != "num_key_value_heads"}
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=20000.0,
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)
SCALES = dict(attention_multiplier=0.3, embedding_multiplier=6.0, residual_multiplier=0.5, logits_scaling=4.0)
EXPERTS = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=40)
DEEPSEEK = dict(
    **BASE | dict(num_key_value_heads=6),
    kv_lora_rank=24,
    qk_nope_head_dim=10,
    qk_rope_head_dim=8,
    v_head_dim=12,
    n_routed_experts=6,
    num_experts_per_tok=2,
    n_shared_experts=2,
    moe_intermediate_size=40,
    first_k_dense_replace=1,
)
LONG = [1.0 + 0.1 * i for i in range(4)]

# Name -> class of the configuration and what it is given; sizes are odd where a model lets them be.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", BASE | dict(head_dim=12, rope_parameters=LLAMA3)),
    "llama-tied": (
        "LlamaConfig",
        BASE
        | dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=True)
        | dict(rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=10000.0)),
    ),
    "llama-yarn": ("LlamaConfig", BASE | dict(rope_parameters=YARN)),
    "mistral": ("MistralConfig", BASE | dict(head_dim=12, sliding_window=9)),
    "qwen2": ("Qwen2Config", BASE | dict(tie_word_embeddings=True)),
    "qwen2-window": ("Qwen2Config", BASE | dict(use_sliding_window=True, sliding_window=9, max_window_layers=1)),
    "qwen3": ("Qwen3Config", BASE | dict(head_dim=12)),
    "gemma": ("GemmaConfig", BASE | dict(head_dim=12)),
    "gemma2": ("Gemma2Config", BASE | dict(head_dim=12, query_pre_attn_scalar=20, sliding_window=9)),
    "gemma3": (
        "Gemma3TextConfig",
        BASE
        | dict(num_hidden_layers=7, head_dim=12, query_pre_attn_scalar=12, sliding_window=9)
        | dict(
            rope_parameters={
                "full_attention": dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                "sliding_attention": dict(rope_type="default", rope_theta=10000.0),
            }
        ),
    ),
    "phi3": ("Phi3Config", BASE | dict(sliding_window=9)),
    "phi3-long": (
        "Phi3Config",
        BASE
        | dict(original_max_position_embeddings=128, sliding_window=None)
        | dict(rope_parameters=dict(rope_type="longrope", long_factor=LONG, short_factor=LONG, rope_theta=10000.0)),
    ),
    "gpt2": (
        "GPT2Config",
        dict(vocab_size=VOCAB, n_embd=48, n_layer=2, n_head=6, n_positions=128, bos_token_id=1, eos_token_id=2),
    ),
    "gptneox": ("GPTNeoXConfig", NO_GROUPS | dict(rotary_pct=0.5, use_parallel_residual=True)),
    "gptneox-serial": ("GPTNeoXConfig", NO_GROUPS | dict(use_parallel_residual=False, rotary_emb_base=500)),
    "falcon": (
        "FalconConfig",
        NO_GROUPS | dict(new_decoder_architecture=False, multi_query=True, parallel_attn=True, bias=False, alibi=False),
    ),
    "falcon-grouped": (
        "FalconConfig",
        NO_GROUPS | dict(new_decoder_architecture=True, num_kv_heads=2, bias=False, alibi=False),
    ),
    "starcoder2": ("Starcoder2Config", BASE | dict(sliding_window=9)),
    "stablelm": ("StableLmConfig", BASE | dict(use_qkv_bias=True, partial_rotary_factor=0.5)),
    "stablelm-parallel": (
        "StableLmConfig",
        BASE | dict(qk_layernorm=True, use_parallel_residual=True, partial_rotary_factor=0.5),
    ),
    "olmo2": ("Olmo2Config", BASE),
    "olmo3": ("Olmo3Config", BASE | dict(num_hidden_layers=4, sliding_window=9)),
    "granite": (
        "GraniteConfig",
        BASE | SCALES,
    ),
    "granitemoe": ("GraniteMoeConfig", BASE | SCALES | dict(num_local_experts=6, num_experts_per_tok=2)),
    "granitemoe-shared": (
        "GraniteMoeSharedConfig",
        BASE | SCALES | dict(num_local_experts=6, num_experts_per_tok=2, shared_intermediate_size=56),
    ),
    "mixtral": ("MixtralConfig", BASE | dict(num_local_experts=5, num_experts_per_tok=2, head_dim=12)),
    "qwen2moe": (
        "Qwen2MoeConfig",
        BASE | EXPERTS | dict(shared_expert_intermediate_size=56, norm_topk_prob=False),
    ),
    "qwen3moe": ("Qwen3MoeConfig", BASE | EXPERTS | dict(head_dim=12, norm_topk_prob=True)),
    "gpt-oss": (
        "GptOssConfig",
        BASE
        | dict(num_local_experts=6, num_experts_per_tok=2, head_dim=12, sliding_window=9)
        | dict(rope_parameters=YARN | dict(truncate=True)),
    ),
    "ministral3": (
        "Ministral3Config",
        BASE
        | dict(head_dim=12)
        | dict(rope_parameters=YARN | dict(mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1)),
    ),
    "deepseek2": (
        "DeepseekV2Config",
        DEEPSEEK
        | dict(q_lora_rank=None, topk_method="greedy", norm_topk_prob=False, n_group=1, topk_group=1)
        | dict(rope_parameters=YARN | dict(mscale=0.707, mscale_all_dim=0.707)),
    ),
    "deepseek3": (
        "DeepseekV3Config",
        DEEPSEEK
        | dict(q_lora_rank=20, n_group=2, topk_group=1, norm_topk_prob=True, routed_scaling_factor=2.5)
        | dict(rope_parameters=YARN | dict(mscale=1.0, mscale_all_dim=1.0)),
    ),
    "command-r": ("CohereConfig", BASE | dict(use_qk_norm=True)),
    "cohere2": ("Cohere2Config", BASE | dict(num_hidden_layers=4, head_dim=8, sliding_window=9)),
    "mamba": ("MambaConfig", MAMBA | dict(intermediate_size=96, time_step_rank=5, use_mambapy=False)),
    "mamba2": ("Mamba2Config", MAMBA | dict(num_heads=12, head_dim=8, n_groups=1, tie_word_embeddings=True)),
}


def made(name: str) -> tuple[dict[str, Any], np.ndarray]:
    """What is stored of a case: its config.json and shapes, and float32 `[positions, vocabulary]`."""
    kind, values = CASES[name]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**values)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    one_added = name.startswith("gemma")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        saved = json.loads((Path(folder) / "config.json").read_text())
        file = Path(folder) / "model.safetensors"
        # the names and shapes of files, which for some models are not those of the modules
        shapes = {key: list(value.shape) for key, value in load_file(file).items()}
        save_file({key: weight(key, shape, one_added) for key, shape in shapes.items()}, file, {"format": "pt"})
        model = type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.from_numpy(tokens(PROMPT + STEPS, VOCAB).astype(np.int64))[None]
    with torch.no_grad():
        logits = model(ids).logits[0].numpy()
    return {"config": saved, "shapes": shapes, "one_added": one_added}, logits[list(KEPT)].astype(np.float32)


def main() -> None:
    index, arrays = DATA / "hf_models.json", DATA / "hf_logits.npz"
    names = sys.argv[1:] or list(CASES)
    models = json.loads(index.read_text()) if index.exists() and sys.argv[1:] else {}
    logits = dict(np.load(arrays)) if arrays.exists() and sys.argv[1:] else {}
    for name in names:
        models[name], logits[name] = made(name)
        print(name, float(np.abs(logits[name]).max()))
    kept = {name: models[name] for name in CASES if name in models}
    index.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in kept.items()) + "\n}\n")
    np.savez_compressed(arrays, allow_pickle=False, **{name: logits[name] for name in kept})


if __name__ == "__main__":
    main()

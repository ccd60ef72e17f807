"""Write tests/data/recipes.json.gz: which types llama-quantize gives to the tensors of many small models.

    python tools/make_recipe_golden.py LLAMA_CPP_BUILD_FOLDER [OUT]

Models are made up: the names, shapes and metadata of an architecture, in sizes that cost nothing; weights are zeros, or
a hole in the file. Most runs are `--dry-run`s. What the folder's llama-quantize printed stands in the golden file as it
is: of every run the types, one character each (48 + the type's id), in the order of its output.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFValueType

from gguf_jax.formats import GGMLType
from gguf_jax.gguf import read

OUT = Path(__file__).resolve().parents[1] / "tests" / "data" / "recipes.json.gz"
Model = dict[str, Any]  # "metadata": key -> value, "tensors": name -> [shape in NumPy order, name of its type]

FILE_TYPES = (
    "F32 F16 BF16 Q8_0 Q5_1 Q5_0 Q4_1 Q4_0 Q2_0 Q1_0 MXFP4_MOE Q6_K Q5_K_M Q5_K_S Q4_K_M Q4_K_S Q3_K_L Q3_K_M Q3_K_S "
    "Q2_K Q2_K_S IQ4_NL IQ4_XS IQ3_M IQ3_S IQ3_XS IQ3_XXS IQ2_M IQ2_S IQ2_XS IQ2_XXS IQ1_M IQ1_S TQ2_0 TQ1_0"
)

DENSE = "attn_norm:E attn_q:E,Q attn_k:E,K attn_v:E,K attn_output:Q,E ffn_norm:E ffn_gate:E,F ffn_up:E,F ffn_down:F,E"
SHORT = "attn_k:E,K attn_v:E,K attn_output:Q,E ffn_down:F,E"
FUSED = (
    "attn_norm:E attn_norm.bias:E attn_qkv:E,3E attn_qkv.bias:3E attn_output:E,E ffn_up:E,F ffn_up.bias:F ffn_down:F,E"
)
EXPERTS = (
    "attn_norm:E attn_q:E,Q attn_k:E,K attn_v:E,K attn_output:Q,E ffn_norm:E ffn_gate_inp:E,X ffn_gate_exps:E,F,X "
    "ffn_up_exps:E,F,X ffn_down_exps:F,E,X"
)
SHARED = " ffn_gate_inp_shexp:E ffn_gate_shexp:E,F ffn_up_shexp:E,F ffn_down_shexp:F,E"
MLA = "attn_norm:E attn_q_a:E,64 attn_q_b:64,Q attn_kv_a_mqa:E,96 attn_k_b:32,64,H attn_v_b:64,32,H attn_output:Q,E"
MAMBA = "attn_norm:E ssm_in:E,2E ssm_conv1d:4,E ssm_x:E,48 ssm_dt:16,E ssm_a:16,E ssm_d:E ssm_out:E,E"
RWKV = (
    "attn_norm:E time_mix_w1:E,160 time_mix_w2:32,E,5 time_mix_lerp_x:E,1,1 time_mix_lerp_fused:E,1,1,5 "
    "time_mix_first:32,8 time_mix_decay_w1:E,64 time_mix_decay_w2:64,E time_mix_key:E,E time_mix_value:E,E "
    "time_mix_receptance:E,E time_mix_gate:E,E time_mix_output:E,E channel_mix_key:E,F channel_mix_value:F,E "
    "channel_mix_receptance:E,E"
)
RWKV7 = (
    "time_mix_w0:E time_mix_w1:E,64 time_mix_w2:64,E time_mix_a0:E time_mix_a1:E,64 time_mix_a2:64,E "
    "time_mix_v1:E,32 time_mix_v2:32,E time_mix_g1:E,64 time_mix_g2:64,E time_mix_lerp_fused:E,1,1,6 "
    "time_mix_key:E,E time_mix_value:E,E time_mix_receptance:E,E time_mix_output:E,E channel_mix_key:E,F "
    "channel_mix_value:F,E"
)
GLM5 = (
    MLA + " ssm_f_a:E,64 ssm_f_b:64,E ssm_g_a:E,64 ssm_g_b:64,E ssm_beta:E,8 ssm_conv1d_q:4,E hc_attn_fn:E,24 "
    "indexer.attn_q_b:64,128 indexer.attn_k:E,128 indexer.proj:E,8 indexer_compressor_gate:E,64 nextn.eh_proj:2E,E "
    "ffn_gate_inp:E,X ffn_gate_exps:E,F,X ffn_up_exps:E,F,X ffn_down_exps:F,E,X" + SHARED
)


# fmt: off
def model(
    architecture: str, layers: int, block: str, head: str = "token_embd:E,V output_norm:E output:E,V", *, E: int = 256,
    F: int = 512, H: int = 8, KV: int | None = 8, X: int = 0, type: str = "F16", prefix: str = "blk.{}.", **keys: Any,
) -> Model:
    """A model of `layers` blocks, each `name:dim,dim ...` in ggml's order; dims are numbers and the names above."""
    V = 64
    dims = {"E": E, "2E": 2 * E, "3E": 3 * E, "F": F, "V": V, "H": H, "X": X, "Q": E, "K": E * KV // H if KV else E}

    def tensors(text: str, before: str) -> Iterator[tuple[str, list[Any]]]:
        for item in text.split():
            name, _, shape = item.partition(":")
            sizes = [dims[dim] if dim in dims else int(dim) for dim in shape.split(",")]
            found = type if len(sizes) > 1 and max(sizes[1:]) > 1 else "F32"
            if "/" in name:  # a type of its own
                name, found = name.split("/")
            whole = before + name + ("" if name.endswith((".bias", "weight", "!")) else ".weight")
            yield whole.removesuffix("!"), [sizes[::-1], found]

    found = dict(tensors(head, ""))
    for layer in range(layers):
        found |= dict(tensors(block.replace("{}", str(layer)), prefix.format(layer)))
    metadata = {
        "context_length": 512, "embedding_length": E, "block_count": layers, "feed_forward_length": F,
        "attention.head_count": H, "attention.head_count_kv": KV, "attention.layer_norm_epsilon": 1e-5,
        "attention.layer_norm_rms_epsilon": 1e-5, "attention.sliding_window": 64, "expert_feed_forward_length": F,
    }
    metadata |= {"expert_count": X, "expert_used_count": 1, "expert_shared_count": 1} if X else {}
    metadata |= {key.replace("__", "."): value for key, value in keys.items()}
    kept = {f"{architecture}.{key}": value for key, value in metadata.items() if value is not None}
    return {"metadata": {"general.architecture": architecture, **kept}, "tensors": found}


def models() -> dict[str, Model]:
    tied, positions = "token_embd:E,V output_norm:E", "token_embd:E,V position_embd:E,V token_types:E,2 output_norm:E"
    mla: dict[str, Any] = {
        "attention__q_lora_rank": 64, "attention__kv_lora_rank": 64, "attention__key_length_mla": 64,
        "attention__value_length_mla": 32, "ssm__conv_kernel": 4, "kda__head_dim": 32, "kda__safe_gate": True,
        "kda__gate_lower_bound": -5.0, "expert_gating_func": 2, "leading_dense_block_count": 1,
    }
    glm5: dict[str, Any] = mla | {
        "attention__indexer__head_count": 4, "attention__indexer__key_length": 32, "attention__indexer__top_k": 32,
        "attention__indexer__kpool": 4, "hyper_connection__count": 4, "hyper_connection__sinkhorn_iterations": 2,
        "hyper_connection__epsilon": 1e-6,
    }
    ssm: dict[str, Any] = {"ssm__conv_kernel": 4, "ssm__inner_size": 256, "ssm__state_size": 16}
    ssm |= {"ssm__time_step_rank": 16}
    headless: dict[str, Any] = {"attention__head_count": None, "attention__head_count_kv": None}
    wkv: dict[str, Any] = headless | {
        "wkv__head_size": 32, "time_mix_extra_dim": 32, "time_decay_extra_dim": 64, "attention__decay_lora_rank": 64,
        "attention__iclr_lora_rank": 64, "attention__gate_lora_rank": 64,
        "attention__value_residual_mix_lora_rank": 32,
    }
    kept = (
        "a_norm ffn_gate_inp ffn_gate_tid2eid altup_x laurel_x per_layer_model_proj position_embd token_types "
        "ssm_conv1d shortconv.conv indexer.k_proj indexer.q_proj time_mix_first time_mix_w0 time_mix_w1 time_mix_w2 "
        "time_mix_v0 time_mix_v1 time_mix_v2 time_mix_a0 time_mix_a1 time_mix_a2 time_mix_g1 time_mix_g2 "
        "time_mix_decay_w1 time_mix_decay_w2 time_mix_lerp_fused attn_rel_b v.position_embd sam.pos_embd sam.neck.0 "
        "sam.net_2 v.rel_pos_w v.patch_embd v.patch_merger a.rvq.codebook_1 mm.a.code_embd hc_x indexer.attn_q_b "
        "indexer.attn_k indexer.proj indexer_compressor_gate indexer_compressor_ape ssm_f_a ssm_f_b ssm_g_a ssm_g_b "
        "ssm_beta attn_kv_a_mqa attn_k_b attn_v_b a_norm.b ffn_gate_inp_b time_mix_w3 the_position_embd "
        "the_token_types time_mix_lerp_w shortconv.conv2 rel_pos patch_embd sam.neck2 indexer.o_proj output_norm "
        "token_embd"
    ).replace(" ", ":E,E ") + ":E,E"
    parts = " ".join(f"ffn_gate.{x}:E,F ffn_up.{x}:E,F ffn_down.{x}:F,E" for x in range(8))
    odd_names = (
        "token_embd:E,V output:E,V output_norm:E fiver!:E,E seven_c!:E,E blk.1.scale!:E,E attn_v.weight.weight:E,E "
        "weightless!:E,E aweight:E,E stack:E,1,4 row:E,1 cls.output:E,E v.blk.3.attn_out:E,E v.patch_embd:E,E "
        "blk.07.ffn_gate:E,F a.rvq.codebook:E,E v.position_embd:E,E"
    )
    return {
        "llama": model("llama", 6, DENSE),
        "llama-tied": model("llama", 5, DENSE, tied, KV=2, type="F32"),
        "llama-32-gqa": model("llama", 32, DENSE, KV=2, type="BF16"),
        "llama-70b": model("llama", 80, DENSE, KV=1),
        "llama-65b": model("llama", 80, SHORT),
        "llama-70b-gqa2": model("llama", 80, SHORT, KV=4),
        "llama-70b-nextn": model("llama", 81, SHORT, KV=1, nextn_predict_layers=1),
        "llama-embed-70b": model("llama-embed", 80, SHORT, tied, KV=1),
        "llama-odd-names": model("llama", 9, DENSE, odd_names),
        "llama-0-heads": model("llama", 4, DENSE, KV=0),
        "llama-heads-by-layer": model("deci", 80, SHORT, attention__head_count=[8] * 80,
                                      attention__head_count_kv=[2] + [8] * 79),
        "llama-requantized": model("llama", 6, DENSE, type="Q8_0"),
        "llama-mixed": model("llama", 3, DENSE.replace("ffn_up", "ffn_up/Q4_K").replace("attn_q:", "attn_q/BF16:")),
        "rows-of-128": model("llama", 17, DENSE, E=128, F=384, KV=2),
        "rows-of-64": model("llama", 5, DENSE, E=64, F=192, KV=2),
        "rows-of-96": model("llama", 9, DENSE, tied, E=96, F=224, H=2, KV=2),
        "rows-of-100": model("llama", 9, DENSE, E=100, F=200, H=2, KV=2),
        "rows-of-100-tied": model("llama", 2, DENSE, tied, E=100, F=200, H=2, KV=2),
        "qwen2": model("qwen2", 16, DENSE + " attn_q.bias:Q attn_k.bias:K attn_v.bias:K", tied, KV=2),
        "qwen2-70b": model("qwen2", 80, SHORT, KV=1),
        "olmo-70b": model("olmo", 80, SHORT, tied),
        "jais2-70b": model("jais2", 68, SHORT, KV=2),
        "mixtral": model("llama", 16, EXPERTS, KV=2, X=8),
        "mixtral-80": model("llama", 80, SHORT, KV=1, X=8),
        "mixtral-parts": model("llama", 9, DENSE.split("ffn_gate")[0] + " ffn_gate_inp:E,X " + parts, KV=2, X=8),
        "experts-4": model("llama", 10, EXPERTS, X=4),
        "experts-2": model("llama", 10, EXPERTS, X=2, KV=4),
        "qwen2moe": model("qwen2moe", 12, EXPERTS + SHARED, X=6),
        "qwen3moe": model("qwen3moe", 17, EXPERTS + " attn_q_norm:32 attn_k_norm:32", KV=1, X=16, F=192),
        "qwen3moe-bad-layer": model("qwen3moe", 4, EXPERTS, "token_embd:E,V output:E,V blk.4.ffn_up:E,F", X=4),
        "qwen3moe-no-layer": model("qwen3moe", 4, EXPERTS, "token_embd:E,V mtp.ffn_gate:E,F", X=4),
        "gemma2": model("gemma2", 18, DENSE + " post_attention_norm:E post_ffw_norm:E", tied, KV=4),
        "gemma3": model("gemma3", 12, DENSE + " attn_q_norm:32 attn_k_norm:32", tied, KV=1, F=1152 // 2),
        "gemma3n": model(
            "gemma3n", 10,
            DENSE + " altup_correct_coef:4,4 altup_router:E,4 laurel_l:E,64 laurel_r:64,E inp_gate:E,64 proj:64,E",
            "token_embd:E,V per_layer_token_embd:1920,V per_layer_model_proj:E,1920 altup_proj:E,E,3 output_norm:E",
            KV=2,
        ),
        "falcon-7b": model("falcon", 32, FUSED, H=8, KV=1),
        "falcon-40b": model("falcon", 60, FUSED, tied, KV=4),
        "falcon-experts": model("falcon", 9, EXPERTS, X=8, KV=2),
        "phi3": model("phi3", 20, "attn_norm:E attn_qkv:E,3E attn_output:E,E ffn_norm:E ffn_up:E,2E ffn_down:F,E"),
        "gpt2": model("gpt2", 12, FUSED, positions, KV=None),
        "starcoder": model("starcoder", 12, FUSED, positions + " output:E,V", KV=1),
        "deepseek2-lite": model(
            "deepseek2", 13,
            "attn_norm:E attn_q:E,Q attn_kv_a_mqa:E,96 attn_kv_a_norm:64 attn_kv_b:64,E attn_output:Q,E "
            "ffn_gate_inp:E,X ffn_gate_exps:E,F,X ffn_up_exps:E,F,X ffn_down_exps:F,E,X" + SHARED, X=16, **mla,
        ),
        "deepseek2": model("deepseek2", 11, MLA + EXPERTS.split("attn_output:Q,E")[1] + SHARED, KV=1, X=32, **mla),
        "glm5-next": model("glm5-next", 9, GLM5, KV=1, X=8, **glm5),
        "bailingmoe3": model("bailingmoe3", 9, MLA + EXPERTS.split("attn_output:Q,E")[1], X=8, **mla),
        "glm4moe": model("glm4moe", 9, EXPERTS + SHARED + " exp_probs_b.bias:X nextn.eh_proj:2E,E", KV=1, X=12,
                         nextn_predict_layers=1),
        "gpt-oss": model(
            "gpt-oss", 12,
            "attn_norm:E attn_q:E,Q attn_q.bias:Q attn_k:E,K attn_v:E,K attn_output:Q,E attn_sinks:8 ffn_gate_inp:E,X "
            "ffn_gate_inp.bias:X ffn_gate_exps/MXFP4:E,F,X ffn_gate_exps.bias:F,X ffn_up_exps/MXFP4:E,F,X "
            "ffn_down_exps/MXFP4:F,E,X ffn_down_exps.bias:E,X", E=576, F=576, KV=1, X=32, type="BF16",
        ),
        "hunyuan-dense": model("hunyuan-dense", 8, DENSE, tied, KV=2, X=1),
        "nanbeige": model("nanbeige", 8, DENSE, KV=2, num_loops=2),
        "graniteswitch": model("graniteswitch", 7, DENSE, tied, KV=2, adapters__count=1, adapters__lora_rank=8,
                               adapters__token_ids_activate=[1], adapters__token_ids_substitute=[2],
                               logit_scale=1.0),
        "mamba": model("mamba", 6, MAMBA, tied, **ssm, **headless),
        "jamba": model("jamba", 5, MAMBA + " " + EXPERTS, KV=2, X=16, **ssm),
        "rwkv6": model("rwkv6", 4, RWKV, **wkv),
        "rwkv7": model("rwkv7", 4, RWKV7, **wkv),
        "bert": model("bert", 6, DENSE.replace("ffn_gate:E,F ", ""), positions),
        "lfm2": model("lfm2", 5, "shortconv.conv:3,E shortconv.in_proj:E,3E shortconv.out_proj:E,E ffn_gate:E,F "
                      "ffn_up:E,F ffn_down:F,E", tied, KV=2, shortconv__l_cache=3),
        "minimax-m3": model("minimax-m3", 6, EXPERTS + " indexer.k_proj:E,64 indexer.q_proj:E,64", KV=2, X=8,
                            expert_gating_func=2, attention__indexer__head_count=4, attention__indexer__key_length=32,
                            attention__indexer__top_k=8, attention__indexer__block_size=16,
                            attention__indexer__local_blocks=1),
        "t5": model("t5", 12, "enc.blk.{}.attn_q:E,E enc.blk.{}.attn_v:E,E enc.blk.{}.attn_rel_b:8,32 "
                    "enc.blk.{}.ffn_gate:E,F enc.blk.{}.ffn_down:F,E dec.blk.{}.attn_v:E,E dec.blk.{}.cross_attn_v:E,E "
                    "dec.blk.{}.attn_o:E,E dec.blk.{}.ffn_down:F,E", prefix="", attention__relative_buckets_count=32),
        "kept-names": model("llama", 2, "attn_q:E,E", kept),
        "kept-names-glm5": model("glm5-next", 2, kept, KV=1, X=8, **glm5),
        "clip": model("clip", 6, "attn_q:E,E attn_k:E,E attn_v:E,E attn_out:E,E ffn_up:E,F ffn_down:F,E",
                      "v.patch_embd:16,16,3,E v.position_embd:E,64 mm.0:E,E", prefix="v.blk.{}."),
    }
# fmt: on


OPTIONS = (
    "--pure; --leave-output-tensor; --output-tensor-type q5_K; --token-embedding-type bf16; --keep-split; "
    "--output-tensor-type f16 --token-embedding-type Q3_K; --pure --output-tensor-type q4_1; --prune-layers 1; "
    "--token-embedding-type q4_0 --tensor-type per_layer_token_embd=q8_0; "
    "--tensor-type attn_v=q8_0 --tensor-type FFN_(UP|gate)=IQ4_XS; "
    r"--tensor-type \.(0|1)\.attn=q5_0 --tensor-type attn_q=q2_K --tensor-type blk\.[0-9]\.ffn_down=tq1_0; "
    "--tensor-type attn_output=q2_0 --tensor-type token_embd=f32 --pure; "
    "--prune-layers 0,2,3 --tensor-type blk.1.attn_q=q8_0 --keep-split"
)
OPTION_MODELS = (
    "llama llama-32-gqa llama-tied rows-of-96 mixtral mixtral-parts gemma3n falcon-7b deepseek2 gpt-oss rwkv7 t5 clip "
    "llama-requantized"
)
OPTION_FILE_TYPES = "F16 Q4_0 MXFP4_MOE Q4_K_M IQ3_XXS IQ2_M"
IMATRIX_FILE_TYPES = "Q4_0 Q5_0 IQ4_NL IQ4_XS IQ3_XXS"  # their mixes ask for one

PATTERNS = (
    r"attn_[qv] ATTN_[QV] ^blk ^attn weight$ attn$ blk\.\d\. blk\.\D BLK\.\D+\. \w\.2\. \W3\W [[:digit:]]\.ffn "
    r"[^[:alpha:]]4\. [[:Punct:]]5 [a-f]fn_(up|down) [^a-u]_v (attn|ffn)_(?:k|gate) (?!blk).lk attn_q? f{2}n "
    r"n{2,} (n){1,2}_up .*\.[12]\..*up .+?[13]\..+?gate x|y|attn_k blk.1.*|blk.2 (f)\1n (t)(t)n_\1? \bffn \Bfn "
    r"\x66fn \u0066fn attn\_k \Attn_k \gate \zeta [.]1[.] [\.]1[\.] [\d]\.attn_v [-1]\.ffn_up [0-2-]\.ffn_up "
    r"[&&1]\. [||2] [~~3]\. [[1]\. ] } a] () | ||blk a|"
)
ODD_PATTERNS = (
    r"( ) [ [a [b-a] a{ {2} a{2 a{2,1} *a +a ?a (* a**b t++n (?<!b)lk (?:bl)k (?i)blk (?P<x>a) \ \1 [[:foo:]] "
    r"[[:alpha:] a||* []a] [^]a] [a-\d] \x6 \u006 \cA ^* $+ (?:a){2}{2} (?!b)* [[.a.]] a{,2} \B+ (a)\2 ((((a)))) [--/] "
    r"(b)\10 \0? ((?!x)b)+ (?!(x)+)b"
)


class Peer:
    def __init__(self, build: Path, folder: Path):
        self.program = build / "bin" / "llama-quantize"
        if not self.program.exists():
            raise SystemExit(f"error: {self.program}: no such file")
        self.folder = folder
        self.environment = os.environ | {"GGML_NO_BACKTRACE": "1"}

    def run(self, model: str, arguments: str, *rest: str | Path) -> tuple[int, str]:
        """Runs on a model's file; the folder is the current one, and IMATRIX the file of importances in it."""
        command = [self.program, *arguments.split(), f"{model}.gguf", *rest]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        return done.returncode, done.stdout.decode("utf-8", "replace")

    def dry(self, model: str, file_type: str, arguments: str) -> dict[str, Any]:
        """What a dry run prints: {"names", "types", "needs_imatrix"}, or {"error"}."""
        code, text = self.run(model, f"--dry-run {arguments}", file_type)
        if code:
            return {"error": failure(text)}
        rows = re.findall(
            r"^\[ *\d+/ *\d+\] (\S+) +- \[.*?\], type = +(\S+), size = .*?(?:MiB \((\S+)\))?$", text, re.M
        )
        types = "".join(chr(48 + GGMLType[(after or before).upper()]) for _, before, after in rows)
        needs = "will require an imatrix" in text
        return {"names": [name for name, _, _ in rows], "types": types} | ({"needs_imatrix": True} if needs else {})

    def real(self, model: str, file_type: str, arguments: str) -> dict[str, Any]:
        """What a run writes: keys in their order, what it set of them with types, and its tensors; or "error"."""
        code, text = self.run(model, arguments, "out.gguf", file_type, "1")
        if code:
            return {"error": failure(text)}
        before, after = read(self.folder / f"{model}.gguf").metadata, read(self.folder / "out.gguf").metadata
        kept = [key for key in before if key in after and np.array_equal(after[key], before[key])]
        tensors = read(self.folder / "out.gguf").tensors.values()
        return {
            "keys": list(after),
            "set": {key: [str(after.types[key]), after[key]] for key in after if key not in kept},
            "names": [view.name for view in tensors],
            "types": "".join(chr(48 + view.type) for view in tensors),
        }


def failure(text: str) -> str:
    lines = [line for line in text.splitlines() if "failed to quantize:" in line or "abort" in line.lower()]
    return re.sub(r"^.*failed to quantize: |/\S*/", "", lines[0] if lines else text.strip().splitlines()[-1])


def write_imatrix(path: Path, model: Model) -> None:
    """Importances, all of them 1, of the matrices in a model's layers."""
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["a text", "another one"])
    writer.add_uint32("imatrix.chunk_count", 7)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, (shape, _) in model["tensors"].items():
        if name.startswith("blk.") and len(shape) > 1:
            writer.add_tensor(f"{name}.in_sum2", np.ones((1, shape[-1]), np.float32))
            writer.add_tensor(f"{name}.counts", np.ones((1, 1), np.float32))
    finish(writer, tensors=True)


def write_model(path: Path, model: Model) -> None:
    """A file of the model, its last tensor first; the weights are a hole."""
    metadata = dict(model["metadata"])
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture"))
    for key, value in metadata.items():
        kind = GGUFValueType.get_type(value)
        writer.add_key_value(key, value, GGUFValueType.UINT32 if kind == GGUFValueType.INT32 else kind)
    for name, (shape, type_name) in reversed(model["tensors"].items()):
        type = gguf.GGMLQuantizationType[type_name]
        block, size = gguf.GGML_QUANT_SIZES[type]
        writer.add_tensor_info(name, shape, np.dtype(np.float32), math.prod(shape) // block * size, type)
    finish(writer, tensors=False)
    size = sum(-(-info.nbytes // 32) * 32 for info in writer.tensors[0].values())
    os.truncate(path, -(-path.stat().st_size // 32) * 32 + size)


def finish(writer: gguf.GGUFWriter, tensors: bool) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    if tensors:
        writer.write_tensors_to_file()
    else:
        writer.write_ti_data_to_file()
    writer.close()


def cases() -> Iterator[tuple[str, str, str]]:
    """Model, file type, and arguments; IMATRIX stands for the path of an importance matrix."""
    for name in models():
        for file_type in FILE_TYPES.split():
            yield name, file_type, ""
            if file_type in IMATRIX_FILE_TYPES.split() or name in ("llama", "mixtral"):
                yield name, file_type, "--imatrix IMATRIX"
    for name in OPTION_MODELS.split():
        for file_type in OPTION_FILE_TYPES.split():
            for options in OPTIONS.split("; "):
                yield name, file_type, options
    for file_type in ("q4_k", "Q3_K", "q5_k", "15", "0", "copy", "38", "NVFP4", "39", "Q9"):
        yield "llama", file_type, ""
    for pattern in (*PATTERNS.split(), *ODD_PATTERNS.split()):
        yield "llama", "Q4_0", f"--tensor-type {pattern}=q8_0"


REAL = (
    "llama Q4_K_M; llama F16; llama copy; llama-requantized copy; llama-requantized Q4_0; "
    "llama-requantized Q8_0; llama-requantized F32 --allow-requantize; llama IQ2_XXS; llama Q2_K_S; "
    "llama IQ2_S --imatrix IMATRIX; llama Q4_0 --imatrix IMATRIX --prune-layers 1,4; "
    "llama Q5_K_S --prune-layers 0; llama copy --prune-layers 5,9; t5 Q4_0 --prune-layers 11; "
    "t5 Q4_0 --prune-layers 5; llama Q4_0 --tensor-type attn_q=q8_K; llama Q4_0 --tensor-type attn_q=i32; "
    "rows-of-96 Q4_0 --token-embedding-type q6_K"
)


def main(build: Path, out: Path) -> None:
    golden: dict[str, Any] = {"models": models(), "dry": [], "real": []}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        peer = Peer(build, Path(folder))
        write_imatrix(Path(folder) / "IMATRIX", golden["models"]["llama"])
        for name, model in golden["models"].items():
            write_model(Path(folder) / f"{name}.gguf", model)
            model["order"] = []
        listed = list(cases())
        for case, result in zip(listed, pool.map(lambda case: peer.dry(*case), listed), strict=True):
            model = golden["models"][case[0]]
            model["order"] = model["order"] or result.get("names", [])
            if result.get("names") == model["order"]:
                del result["names"]
            golden["dry"].append([*case, result])
        real = [[part.strip() for part in f"{item} ".split(" ", 2)] for item in REAL.split("; ")]
        golden["real"] = [[*case, peer.real(*case)] for case in real]
    out.write_bytes(gzip.compress(json.dumps(golden, separators=(",", ":")).encode(), 9, mtime=0))
    print(f"{len(golden['models'])} models, {len(golden['dry'])} dry runs, {len(golden['real'])} others")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else OUT)

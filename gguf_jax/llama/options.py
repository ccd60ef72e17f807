"""What of llama-cpp-python's options has no meaning here: said once where that changes nothing, else refused."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import jax

from gguf_jax.errors import GGUFError, GGUFJaxError, Unsupported
from gguf_jax.formats import GGMLType
from gguf_jax.gguf.text import shown

WITHOUT_EFFECT = {
    "split_mode": (1, "the model is on one device"),
    "main_gpu": (0, "JAX's default device is used (CUDA_VISIBLE_DEVICES says which)"),
    "tensor_split": (None, "the model is on one device"),
    "use_mmap": (True, "weights are copied while they are loaded: nothing is mapped afterwards"),
    "use_mlock": (False, "weights are ordinary memory here"),
    "n_ubatch": (512, "n_batch says what is run at once"),
    "n_threads": (None, "kernels use the CPUs that the process may use (GGUF_JAX_THREADS says how many)"),
    "n_threads_batch": (None, "kernels use the CPUs that the process may use (GGUF_JAX_THREADS says how many)"),
    "offload_kqv": (True, "the cache is where the model is"),
    "op_offload": (None, "the model is on one device"),
    "swa_full": (None, "caches hold all positions"),
    "numa": (False, "memory is where JAX puts it"),
    "no_perf": (False, "nothing is measured that costs time"),
}
"""Options that change no result: their default, and why they change nothing else either. (`flash_attn` is no news:
attention never holds all scores here.)"""

REFUSED = {
    "attention_type": (-1, "whether attention is causal is the architecture's"),
    "lora_base": (None, "an adapter is applied to the model as it is"),
}
"""Options that would change results and cannot."""

ROPE_SCALING = {0: "none", 1: "linear", 2: "yarn", 3: "longrope"}
"""`enum llama_rope_scaling_type` and what metadata call it."""

_said: set[str] = set()


def check(given: Mapping[str, Any], unknown: Mapping[str, Any]) -> None:
    """Refuses what cannot be, and warns, once a process, of what has no effect.

    Raises:
        Unsupported: an option that would change results.
    """
    for name, (default, why) in REFUSED.items():
        if given[name] != default:
            raise Unsupported(f"{name}: expected {default!r}, as {why}, found {shown(given[name])}")
    idle = {name: why for name, (default, why) in WITHOUT_EFFECT.items() if given[name] != default}
    if given["n_gpu_layers"] and jax.default_backend() == "cpu":
        idle["n_gpu_layers"] = "JAX's default device is a CPU (JAX_PLATFORMS says which)"
    idle |= {name: "there is no such option" for name in unknown}  # llama-cpp-python takes any, and says nothing
    say_once(idle, stacklevel=4)


def say_once(idle: Mapping[str, str], stacklevel: int = 3) -> None:
    """Warns of options without effect, each with the reason, unless that was said before in this process."""
    new = {name: why for name, why in idle.items() if name not in _said}
    if new:
        _said.update(new)
        reasons = "; ".join(f"{name}: {why}" for name, why in new.items())
        warnings.warn(f"Llama: without effect here: {reasons}", stacklevel=stacklevel)


def overrides(given: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """Metadata that take the place of a file's: `kv_overrides`, and what the options of RoPE say."""
    found: dict[str, Any] = {}
    for key, value in (given["kv_overrides"] or {}).items():
        if not isinstance(value, (bool, int, float, str)):
            raise GGUFError(f"kv_overrides[{shown(key)}]: expected a bool, number or text, found {shown(value)}")
        found[key] = value
    rope = f"{architecture}.rope"
    base, scale = given["rope_freq_base"], given["rope_freq_scale"]
    if base:
        found[f"{rope}.freq_base"] = float(base)
    kind = given["rope_scaling_type"]
    if kind not in (None, -1):
        if kind not in ROPE_SCALING:
            raise GGUFError(f"rope_scaling_type: expected one of {sorted(ROPE_SCALING)} or -1, found {shown(kind)}")
        found[f"{rope}.scaling.type"] = ROPE_SCALING[kind]
    if scale:
        if not 0 < scale < float("inf"):
            raise GGUFError(f"rope_freq_scale: expected a positive number, found {shown(scale)}")
        found[f"{rope}.scaling.factor"] = 1.0 / scale
    yarn = {
        "yarn_ext_factor": (-1.0, "yarn_ext_factor"),
        "yarn_attn_factor": (1.0, "attn_factor"),
        "yarn_beta_fast": (32.0, "yarn_beta_fast"),
        "yarn_beta_slow": (1.0, "yarn_beta_slow"),
        "yarn_orig_ctx": (0, "original_context_length"),
    }
    for name, (default, key) in yarn.items():
        if given[name] != default:
            found[f"{rope}.scaling.{key}"] = given[name]
    return found


def cache_type(given: Mapping[str, Any]) -> tuple[GGMLType, GGMLType]:
    """Of keys and values, from `type_k` and `type_v`, which are ids of ggml types; F16 unless they say so."""

    def one(name: str) -> GGMLType:
        value = GGMLType.F16 if given[name] is None else given[name]
        try:
            return GGMLType(value)
        except ValueError:
            raise GGUFJaxError(f"{name}: expected the id of a ggml type, found {shown(value)}") from None

    return one("type_k"), one("type_v")

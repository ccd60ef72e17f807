"""How tokens are drawn, in llama-cpp-python's words, as `SamplingParams`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gguf_jax.errors import GGUFError, Unsupported
from gguf_jax.generation.sampling_params import SamplingParams
from gguf_jax.gguf.text import shown
from gguf_jax.llama import options

DEFAULTS: dict[str, Any] = dict(
    temp=0.8,
    top_k=40,
    top_p=0.95,
    min_p=0.05,
    typical_p=1.0,
    repeat_penalty=1.0,
    frequency_penalty=0.0,
    presence_penalty=0.0,
    penalize_nl=True,
    tfs_z=1.0,
    mirostat_mode=0,
    logit_bias=None,
)


def sampling_params(asked: Mapping[str, Any], seed: int, last_n: int) -> SamplingParams:
    """Of the arguments of `Llama.generate` and of a completion.

    Args:
        asked: any of `DEFAULTS`, and others, which are not looked at.
        last_n: how many tokens penalties look at.

    Raises:
        Unsupported: tail-free sampling or mirostat are asked for.
        GGUFJaxError: a number is out of range.
    """
    asked = DEFAULTS | dict(asked)
    if asked["tfs_z"] != 1.0:
        raise Unsupported(f"tfs_z: expected 1.0, as there is no tail-free sampling, found {shown(asked['tfs_z'])}")
    if asked["mirostat_mode"]:
        raise Unsupported(f"mirostat_mode: expected 0, as there is no mirostat, found {shown(asked['mirostat_mode'])}")
    if not asked["penalize_nl"]:
        options.say_once({"penalize_nl": "the end of a line is a token like others"})
    everywhere: dict[str, Any] = {
        name: asked[name] for name in ("repeat_penalty", "frequency_penalty", "presence_penalty")
    }
    everywhere |= {"seed": seed, "penalty_last_n": last_n, "logit_bias": _biases(asked["logit_bias"])}
    if isinstance(asked["temp"], (int, float)) and asked["temp"] < 0:
        return SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0, **everywhere)
    filters = {name: _within(asked[name]) for name in ("top_p", "min_p", "typical_p")}
    return SamplingParams(temperature=asked["temp"], top_k=_within(asked["top_k"], 2**31 - 1), **filters, **everywhere)


def _within(value: Any, high: int = 1) -> Any:
    """What is beyond the ends stands for the ends, as in llama.cpp; what is no number is left to be refused."""
    if isinstance(value, (int, float)) and not 0 < value < high:
        return 0 if value <= 0 else high if value >= high else value
    return value


def _biases(given: Mapping[Any, Any] | None) -> dict[int, float]:
    """Token ids, also as texts (as JSON has them), and numbers."""
    try:
        return {int(token): float(value) for token, value in (given or {}).items()}
    except (TypeError, ValueError):
        raise GGUFError(f"logit_bias: expected token ids and numbers, found {shown(given)}") from None

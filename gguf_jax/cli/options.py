"""Options that several commands share, and what becomes of them. Nothing here imports JAX at module level."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gguf_jax.errors import GGUFJaxError

if TYPE_CHECKING:
    from gguf_jax.generation import SamplingParams
    from gguf_jax.models import Decoder

Model = Annotated[str | None, typer.Argument(help="GGUF file (any shard of a split one). Default: the bundled model.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

_SAMPLING = "Sampling"
Temperature = Annotated[float, typer.Option("--temp", help="Temperature; 0 is greedy.", rich_help_panel=_SAMPLING)]
TopK = Annotated[int, typer.Option("--top-k", help="Keep the k best tokens; 0: all.", rich_help_panel=_SAMPLING)]
TopP = Annotated[float, typer.Option("--top-p", help="Keep this share of probability.", rich_help_panel=_SAMPLING)]
MinP = Annotated[
    float, typer.Option("--min-p", help="Least probability, relative to the best.", rich_help_panel=_SAMPLING)
]
Typical = Annotated[float, typer.Option("--typical", help="Locally typical mass; 1: off.", rich_help_panel=_SAMPLING)]
RepeatPenalty = Annotated[
    float, typer.Option("--repeat-penalty", help="Divides seen tokens' logits; 1: off.", rich_help_panel=_SAMPLING)
]
PresencePenalty = Annotated[
    float, typer.Option("--presence-penalty", help="Subtracted once for a seen token.", rich_help_panel=_SAMPLING)
]
FrequencyPenalty = Annotated[
    float, typer.Option("--frequency-penalty", help="Subtracted for each occurrence.", rich_help_panel=_SAMPLING)
]
RepeatLastN = Annotated[
    int, typer.Option("--repeat-last-n", help="Tokens that count as seen; -1: all.", rich_help_panel=_SAMPLING)
]
Seed = Annotated[int | None, typer.Option("--seed", "-s", help="Default: a new one.", rich_help_panel=_SAMPLING)]
LogitBias = Annotated[
    list[str] | None,
    typer.Option("--logit-bias", "-l", help="ID+BIAS, ID-BIAS or ID-inf; repeatable.", rich_help_panel=_SAMPLING),
]

_ENGINE = "Engine"
CtxSize = Annotated[
    int | None,
    typer.Option(
        "--ctx-size",
        "-c",
        help="Tokens of prompt and answer. Default: the model's, at most 4096.",
        rich_help_panel=_ENGINE,
    ),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", "-b", help="Longest chunk of the prompt run at once.", rich_help_panel=_ENGINE)
]
CacheType = Annotated[str, typer.Option("--cache-type", help="KV cache: f32, f16 or bf16.", rich_help_panel=_ENGINE)]

CACHE_TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def parse_logit_bias(entries: list[str] | None) -> dict[int, float]:
    """`["15+1.5", "7-inf"]` -> `{15: 1.5, 7: -inf}`; `=` may stand before the number."""
    biases: dict[int, float] = {}
    for entry in entries or ():
        match = re.fullmatch(r"\s*(\d+)\s*=?\s*([+-]?\s*(?:inf|\d+(?:\.\d*)?|\.\d+))\s*", entry)
        if not match or (match[2][0].isdigit() and "=" not in entry):
            raise GGUFJaxError(f"--logit-bias: expected TOKEN_ID+BIAS or TOKEN_ID-BIAS, found {entry!r}")
        biases[int(match[1])] = float(match[2].replace(" ", ""))
    return biases


def sampling_params(**given: Any) -> SamplingParams:
    """`SamplingParams` of the options, with a fresh seed when none was given, so that it can be reported."""
    import secrets

    from gguf_jax.generation import SamplingParams

    given["logit_bias"] = parse_logit_bias(given["logit_bias"])
    if given["seed"] is None:
        given["seed"] = secrets.randbits(32)
    return SamplingParams(**given)


def cache_dtype(name: str) -> str:
    if name not in CACHE_TYPES:
        raise GGUFJaxError(f"--cache-type: expected one of {', '.join(CACHE_TYPES)}, found {name!r}")
    return CACHE_TYPES[name]


def load_model(path: str | None) -> tuple[Decoder, float]:
    """Load with a progress bar; the model and the seconds it took, the import of JAX included."""
    import time

    start = time.perf_counter()
    from gguf_jax import gguf
    from gguf_jax.api import load
    from gguf_jax.bundled import bundled_model
    from gguf_jax.cli.activity import Activity

    with (
        gguf.read(bundled_model() if path is None else path) as file,
        Activity("loading", sum(view.nbytes for view in file.tensors.values()), is_bytes=True) as activity,
    ):
        model = load(file, on_tensor=lambda _, nbytes: activity.advance(nbytes))
    return model, time.perf_counter() - start

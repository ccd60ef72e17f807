"""What lm_eval's requests mean: which tokens are scored after which, where a prompt ends, how an answer is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import SamplingParams
from gguf_jax.gguf.text import shown

LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What a request may call the length of its answer; the first that is given counts, as in lm_eval."""

SAMPLING = {
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repetition_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
"""What a request calls a field of `SamplingParams`."""

ONES = ("num_beams", "num_return_sequences")
"""What is known only as 1: one answer, from one search."""


@dataclass(frozen=True)
class Generation:
    """How to answer a prompt. Requests that agree in it can be answered together.

    Attributes:
        stop: texts that end the answer, which are no part of it.
        max_tokens: its longest length.
        params: without a seed.
    """

    stop: tuple[str, ...]
    max_tokens: int
    params: SamplingParams


def generation(asked: Mapping[str, Any], max_tokens: int) -> Generation:
    """The second argument of a `generate_until` request.

    Without `do_sample` a request samples where it gives a temperature above 0; with `do_sample: false` it does not,
    whatever its temperature. A filter that is not asked for is off, not at this package's default, and penalties
    look at the whole text, as in transformers.

    Args:
        max_tokens: the longest answer, where the request does not say.

    Raises:
        GGUFJaxError: an argument is not known, or is not what it must be.
    """
    known = ("until", "do_sample", "temperature", *LIMITS, *SAMPLING, *ONES)
    if unknown := sorted(set(asked) - set(known)):
        raise GGUFJaxError(f"generation_kwargs: expected {', '.join(known)}, found {shown(unknown[0])}")
    given = {name: value for name, value in asked.items() if value is not None}
    for name in ONES:
        if given.get(name, 1) != 1:
            raise GGUFJaxError(f"generation_kwargs: {name}: expected 1, found {given[name]!r}")
    limit = next((given[name] for name in LIMITS if name in given), max_tokens)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise GGUFJaxError(f"generation_kwargs: max_gen_toks: expected at least 1 token, found {limit!r}")
    temperature = given.get("temperature", 1.0 if given.get("do_sample") else 0.0)
    fields: dict[str, Any] = dict(top_k=0, top_p=1.0, min_p=0.0, penalty_last_n=-1)
    fields |= {field: given[name] for name, field in SAMPLING.items() if name in given}
    if fields["top_k"] == -1:  # vLLM's word for no limit
        fields["top_k"] = 0
    try:
        params = SamplingParams(temperature=temperature if given.get("do_sample", True) else 0.0, **fields)
    except GGUFJaxError as error:
        raise GGUFJaxError(f"generation_kwargs: {error}") from error
    return Generation(_stops(given.get("until", ())), limit, params)


def _stops(until: Any) -> tuple[str, ...]:
    stops = [until] if isinstance(until, str) else until
    if not isinstance(stops, (list, tuple)) or not all(isinstance(stop, str) for stop in stops):
        raise GGUFJaxError(f"generation_kwargs: until: expected a text or a list of them, found {shown(until)}")
    return tuple(stop for stop in stops if stop)  # tasks mean nothing by an empty one


def fitted(context: Sequence[int], continuation: Sequence[int], ctx_size: int) -> list[int]:
    """The end of `context` that a model with room for `ctx_size` tokens can look at when it predicts `continuation`,
    whose last token need not be shown to it.

    Raises:
        GGUFJaxError: the continuation does not fit.
    """
    if len(continuation) > ctx_size:
        raise GGUFJaxError(f"continuation: expected at most ctx_size={ctx_size} tokens, found {len(continuation)}")
    return list(context[max(0, len(context) + len(continuation) - ctx_size - 1) :])


def parted(context: Sequence[int], whole: Sequence[int]) -> tuple[list[int], list[int]]:
    """The tokens `whole` of a context and its continuation, in two where they leave those of the context alone."""
    same = next((i for i, (a, b) in enumerate(zip(context, whole, strict=False)) if a != b), len(context))
    return list(whole[:same]), list(whole[same:])


def prompt_room(max_tokens: int, ctx_size: int) -> int:
    """The tokens of a prompt that leave room for an answer of `max_tokens`.

    Raises:
        GGUFJaxError: there are none.
    """
    if max_tokens >= ctx_size:
        raise GGUFJaxError(f"max_gen_toks: expected less than ctx_size={ctx_size}, found {max_tokens}")
    return ctx_size - max_tokens


def up_to_message(prompt: str, message: str) -> str:
    """A rendered conversation, cut where its last message ends: an answer that has been begun goes on from there.
    White space at the message's end is kept where the template kept it.

    Raises:
        GGUFJaxError: the message does not stand in the prompt as it is.
    """
    start = prompt.rfind(message.strip())
    if start < 0:
        raise GGUFJaxError(f"chat template: expected the last message in what it writes, found no {shown(message)}")
    whole = message.lstrip()
    return prompt[:start] + (whole if prompt.startswith(whole, start) else whole.rstrip())

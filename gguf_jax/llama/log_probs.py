"""Log-probabilities of tokens, as completions write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gguf_jax.llama.types import CompletionLogprobs


def log_softmax(logits: np.ndarray, axis: int = -1) -> np.ndarray:
    """`logits - log(sum(exp(logits)))` along an axis, float32."""
    logits = np.asarray(logits, np.float32)
    most = logits.max(axis=axis, keepdims=True)
    shifted = logits - np.where(np.isfinite(most), most, 0)
    with np.errstate(divide="ignore"):
        return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def best(values: np.ndarray, count: int) -> list[int]:
    """The indices of the largest values, the largest first; of equal ones the later."""
    count = min(count, len(values))
    if not count:
        return []
    least = np.partition(values, -count)[-count]
    candidates = np.flatnonzero(values >= least)
    return candidates[np.lexsort((candidates, values[candidates]))][::-1][:count].tolist()


def entry(
    token: int, text: str, offset: int, row: np.ndarray | None, count: int, spelled: Callable[[int], str]
) -> CompletionLogprobs:
    """The lists of one token.

    Args:
        text: the token's own.
        offset: characters before it.
        row: the logits `[V]` that it was drawn from; None: it has no probability, as nothing stands before it.
        count: how many of the best tokens stand beside it.
        spelled: the text of a token.
    """
    if row is None:
        return {"tokens": [text], "text_offset": [offset], "token_logprobs": [None], "top_logprobs": [None]}
    values = log_softmax(row)
    own = float(values[token])
    top = {spelled(i): float(values[i]) for i in best(values, count)} | {text: own}
    return {"tokens": [text], "text_offset": [offset], "token_logprobs": [own], "top_logprobs": [top]}


def joined(entries: Sequence[CompletionLogprobs]) -> CompletionLogprobs:
    """Those of several tokens."""
    return {
        "tokens": [each for found in entries for each in found["tokens"]],
        "text_offset": [each for found in entries for each in found["text_offset"]],
        "token_logprobs": [each for found in entries for each in found["token_logprobs"]],
        "top_logprobs": [each for found in entries for each in found["top_logprobs"]],
    }

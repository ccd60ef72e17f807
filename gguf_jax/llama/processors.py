"""What a caller puts between logits and tokens: processors of logits, and criteria that end an answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

LogitsProcessor = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Called with the ids before a token, int32 `[n]`, and its logits, float32 `[V]`, which it may change in place; it
gives the logits to draw from."""

StoppingCriteria = Callable[[np.ndarray, np.ndarray], bool]
"""Called with the same; True ends the answer."""


class LogitsProcessorList(list[LogitsProcessor]):
    """Processors one after the other."""

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        for processor in self:
            scores = processor(input_ids, scores)
        return scores


class StoppingCriteriaList(list[StoppingCriteria]):
    """True where one of them is. Each is asked each time: they may count."""

    def __call__(self, input_ids: np.ndarray, logits: np.ndarray) -> bool:
        return any([criterion(input_ids, logits) for criterion in self])


class MinTokensLogitsProcessor:
    """Forbids `token_eos` before `min_tokens` tokens of an answer. For one answer: its first call says where it
    begins."""

    def __init__(self, min_tokens: int, token_eos: int) -> None:
        self.min_tokens = min_tokens
        self.token_eos = token_eos
        self.prompt_tokens: int | None = None

    def __call__(self, input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        if self.prompt_tokens is None:
            self.prompt_tokens = len(input_ids)
        if len(input_ids) - self.prompt_tokens < self.min_tokens:
            scores[self.token_eos] = -np.inf
        return scores

"""Draft models: what guesses the tokens that follow. Answers are the same with and without."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np


class LlamaDraftModel(abc.ABC):
    """Guesses: ids int32 `[n]` -> ids `[k]` of what may follow them; none is fine."""

    @abc.abstractmethod
    def __call__(self, input_ids: np.ndarray, /, **kwargs: Any) -> np.ndarray: ...


class LlamaPromptLookupDecoding(LlamaDraftModel):
    """What followed the last tokens when they stood earlier in the text.

    Args:
        max_ngram_size: how many last tokens are looked for; the longest run that is found counts.
        num_pred_tokens: how many are guessed; more than 15 are not used at once.
    """

    def __init__(self, max_ngram_size: int = 2, num_pred_tokens: int = 10) -> None:
        self.max_ngram_size = max_ngram_size
        self.num_pred_tokens = num_pred_tokens

    def __call__(self, input_ids: np.ndarray, /, **kwargs: Any) -> np.ndarray:
        n = len(input_ids)
        for size in range(min(self.max_ngram_size, n - 1), 0, -1):
            # an end that stands at the very end of the text has nothing behind it
            ends = np.ones(n - size, bool)
            for i in range(size):
                ends &= input_ids[i : n - size + i] == input_ids[n - size + i]
            if ends.any():
                first = int(ends.argmax()) + size
                return input_ids[first : first + self.num_pred_tokens]
        return input_ids[:0]

"""What `draft_model` may be: a callable of llama-cpp-python's form, or a way to guess of `generation.speculation`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from gguf_jax.generation.request import Request
from gguf_jax.generation.sampling import Sampler, SamplerPlan, SamplingParams
from gguf_jax.generation.setting import Setting
from gguf_jax.generation.speculation import Drafter, DraftModel, PromptLookup
from gguf_jax.llama.speculative import LlamaDraftModel

Guess = Callable[[np.ndarray, Sampler, SamplerPlan], Sequence[int]]
"""Ids int32 `[n]`, and what the next tokens are drawn with -> what may follow."""

AnyDraft = LlamaDraftModel | Callable[[np.ndarray], np.ndarray] | PromptLookup | DraftModel


def guess_of(draft: AnyDraft, setting: Setting) -> Guess:
    """What a context calls.

    Raises:
        GGUFJaxError: a draft model has another vocabulary, or keeps states.
    """
    if isinstance(draft, (PromptLookup, DraftModel)):
        return _Sequence(draft.drafter(setting, 1))
    return lambda ids, sampler, plan: cast("Sequence[int]", draft(ids))


class _Sequence:
    """A drafter of one slot, for a sequence that mostly grows."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._request: Any = None

    def __call__(self, ids: np.ndarray, sampler: Sampler, plan: SamplerPlan) -> Sequence[int]:
        every = ids.tolist()
        known = self._request
        if known is None or every[: len(known.prompt) + len(known.tokens)] != known.prompt + known.tokens:
            self._request = known = Request(0, every, SamplingParams.greedy(), len(every), frozenset())
        known.tokens = every[len(known.prompt) :]
        return self._drafter.draft({0: (known, self._drafter.most)}, sampler, plan).get(0, [])

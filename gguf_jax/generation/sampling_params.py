"""What a user asks of the sampler (`SamplingParams`) and what of it decides which program is compiled (`SamplerPlan`).

Nothing here touches a device. The names, the defaults and the order of the steps are those of llama.cpp
(`common/common.h`, `src/llama-sampling.cpp`); mirostat, DRY, XTC and top-n-sigma are not here.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from gguf_jax.errors import GGUFJaxError

CANDIDATE_BUCKETS = (64, 256, 1024)
"""Sizes of the candidate list that are compiled; a slot with a larger top_k searches the whole vocabulary."""

MIN_WINDOW = 64
"""Smallest penalty window that is compiled; larger ones are powers of two."""

LIMIT = 1e9
"""Largest magnitude of a finite parameter: sums and products with logits then stay finite in float32."""


@dataclass(frozen=True)
class SamplingParams:
    """How to choose the next token of one sequence; validated when made, `GGUFJaxError` names the field.

    Attributes:
        temperature: divides the logits that are left after the filters; <= 0 takes the best token (greedy).
        top_k: keep the k best tokens; 0 keeps all.
        top_p: keep the best tokens until their probability reaches top_p; 1 keeps all.
        min_p: keep tokens at least min_p times as probable as the best; 0 keeps all.
        typical_p: keep the tokens whose surprise is nearest the entropy, until their probability exceeds typical_p
            (Meister et al. 2022, "Locally typical sampling"); 1 keeps all.
        repeat_penalty: a seen token's logit is divided by this if positive, else multiplied (CTRL, Keskar et al. 2019).
        presence_penalty: subtracted from the logit of a seen token.
        frequency_penalty: subtracted from the logit of a seen token once per occurrence.
        penalty_last_n: how many of the last tokens, prompt included, count as seen; 0 none, -1 the whole context.
        seed: 0 <= seed < 2**64; None draws one from the operating system when the sampler is made.
        logit_bias: token id -> number added to its logit; -inf forbids the token.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_last_n: int = 64
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("temperature", _real("temperature", self.temperature, -LIMIT, LIMIT))
        put("top_k", _integer("top_k", self.top_k, 0, 2**31 - 1))
        for name in ("top_p", "min_p", "typical_p"):
            put(name, _real(name, getattr(self, name), 0.0, 1.0))
        put("repeat_penalty", _real("repeat_penalty", self.repeat_penalty, 1 / LIMIT, LIMIT))
        for name in ("presence_penalty", "frequency_penalty"):
            put(name, _real(name, getattr(self, name), -LIMIT, LIMIT))
        put("penalty_last_n", _integer("penalty_last_n", self.penalty_last_n, -1, 2**31 - 1))
        if self.seed is not None:
            put("seed", _integer("seed", self.seed, 0, 2**64 - 1))
        put("logit_bias", _biases(self.logit_bias))

    @classmethod
    def greedy(cls) -> SamplingParams:
        """The best token each time, nothing drawn."""
        return cls(temperature=0.0)

    @property
    def is_greedy(self) -> bool:
        return self.temperature <= 0

    @property
    def penalizes(self) -> bool:
        """Whether the last tokens can change a logit."""
        neutral = self.repeat_penalty == 1 and self.presence_penalty == 0 and self.frequency_penalty == 0
        return self.penalty_last_n != 0 and not neutral


@dataclass(frozen=True)
class SamplerPlan:
    """The static part of a batch's sampling: hashable, one compiled program for each.

    Attributes:
        candidates: length of the sorted candidate list for the slots whose top_k fits one; 0 when no slot does.
        whole: some slot draws from the whole vocabulary (top_k off, or larger than every list).
        penalties: some slot penalizes its last tokens.
        typical: some drawing slot has typical_p < 1.
        bias: some slot has a logit bias.
    """

    candidates: int = 0
    whole: bool = False
    penalties: bool = False
    typical: bool = False
    bias: bool = False

    @property
    def greedy(self) -> bool:
        """Every slot takes its best token: no list, nothing drawn."""
        return not (self.candidates or self.whole)

    def joined(self, other: SamplerPlan) -> SamplerPlan:
        """The cheapest plan that serves the slots of both."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return SamplerPlan(**{name: max(one, two) for name, one, two in pairs})


def bucket(top_k: int, vocab_size: int) -> int:
    """Length of the candidate list that serves `top_k`; 0 means the whole vocabulary."""
    if not 0 < top_k < vocab_size:
        top_k = vocab_size
    return next((min(size, vocab_size) for size in CANDIDATE_BUCKETS if top_k <= size), 0)


def plan_for(params: Sequence[SamplingParams], vocab_size: int) -> SamplerPlan:
    """The cheapest plan that serves every slot of `params`."""
    drawing = [p for p in params if not p.is_greedy]
    lists = [bucket(p.top_k, vocab_size) for p in drawing]
    return SamplerPlan(
        candidates=max(lists, default=0),
        whole=0 in lists,
        penalties=any(p.penalizes for p in params),
        typical=any(p.typical_p < 1 for p in drawing),
        bias=any(p.logit_bias for p in params),
    )


def _real(name: str, value: Any, low: float, high: float) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not low <= float(value) <= high:
        raise GGUFJaxError(f"{name}: expected a number from {low:g} to {high:g}, found {value!r}")
    return float(value)


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not low <= int(value) <= high:
        raise GGUFJaxError(f"{name}: expected an integer from {low} to {high}, found {value!r}")
    return int(value)


def _biases(biases: Any) -> dict[int, float]:
    if not isinstance(biases, Mapping):
        raise GGUFJaxError(f"logit_bias: expected a mapping of token ids to numbers, found {biases!r}")
    checked = {}
    for token, value in biases.items():
        token = _integer("logit_bias: token id", token, 0, 2**31 - 1)
        forbids = isinstance(value, numbers.Real) and float(value) == -math.inf
        checked[token] = -math.inf if forbids else _real(f"logit_bias[{token}]", value, -LIMIT, LIMIT)
    return checked

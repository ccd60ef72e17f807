"""Multiple choice as llama-perplexity scores it: `--hellaswag`, `--winogrande` and `--multiple-choice`.

A task's choices are written out as whole texts. The tokens that all of them begin with are the context; what follows is
scored by the mean of its log-probabilities, and the choice with the best mean is chosen, the first of several.

Where something follows the gap (Winogrande), what is scored begins behind the choice, if in both texts more than
`MIN_TRAILING` tokens differ; the very last token is left out where there are two or more; and of two that are equal the
second is chosen. Where the second text is scored from the first token that differs, which it is if few do,
llama-perplexity predicts that token from the end of the first text (which its source knows of); here it is predicted
from the context.

Two cases in which llama-perplexity reads past the end of an array mean something here: a token is always left to be
scored, and the first token of texts that have none in common, and no BOS, is not.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.evals.continuations import Pair, scored_batches
from gguf_jax.evals.statistics import Estimate, flat, mean, share
from gguf_jax.evals.task_files import Kind, Task, TaskFile
from gguf_jax.evals.windows import BATCH_TOKENS
from gguf_jax.generation import Timings
from gguf_jax.models import Decoder
from gguf_jax.ops import Precision

MIN_TRAILING = 3
"""Winogrande: with so many tokens that differ, or fewer, the choice is scored too."""

NORMAL_95 = 1.95996398454
"""95% of a normal distribution lie within so many standard deviations."""


class Answer(NamedTuple):
    """What a model says to a task.

    Attributes:
        task: number in the file, from 0.
        scores: mean log-probability of what is scored with each choice, in nats a token.
        chosen: number of the choice with the best score.
        gold: numbers of those that are right.
    """

    task: int
    scores: tuple[float, ...]
    chosen: int
    gold: tuple[int, ...]

    @property
    def right(self) -> bool:
        return self.chosen in self.gold


@dataclass(frozen=True)
class MultipleChoice:
    """What is known after some tasks.

    Attributes:
        answers: of the tasks done, in the order in which llama-perplexity has them.
        planned: tasks there are.
        timings: `prefill_s` and `prefill_tokens` are those of the tasks, `compile_s` what came on top.
    """

    kind: Kind
    answers: tuple[Answer, ...] = field(repr=False)
    planned: int
    timings: Timings = field(repr=False)

    @property
    def tasks(self) -> int:
        """Tasks done."""
        return len(self.answers)

    @property
    def complete(self) -> bool:
        return self.tasks == self.planned

    @cached_property
    def accuracy(self) -> Estimate:
        """Share of the tasks answered right, with the error of a binomial."""
        return share(self._right)

    @property
    def chance(self) -> float:
        """What guessing is expected to reach."""
        return mean(np.array([len(each.gold) / len(each.scores) for each in self.answers])).value

    @property
    def interval(self) -> tuple[float, float]:
        """Where the accuracy lies with 95% probability, by Wilson's score."""
        return wilson(self.accuracy.value, self.tasks)

    @property
    def _right(self) -> np.ndarray:
        return np.array([each.right for each in self.answers], bool)

    def after_each_task(self) -> np.ndarray:
        """`accuracy` as it was after each task, float64 `[tasks]`."""
        return np.cumsum(self._right) / np.arange(1, self.tasks + 1)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; shares are fractions of one."""
        seconds, run = self.timings.prefill_s, self.timings.prefill_tokens
        low, high = self.interval
        return flat(
            kind=self.kind,
            tasks=self.tasks,
            tasks_planned=self.planned,
            correct=int(self._right.sum()),
            accuracy=self.accuracy,
            accuracy_low=low,
            accuracy_high=high,
            chance=self.chance,
            seconds=seconds,
            compile_seconds=self.timings.compile_s,
            tokens_per_second=run / seconds if seconds else None,
        )


def wilson(p: float, count: int) -> tuple[float, float]:
    """The interval of 95% of a share `p` of `count`."""
    if not count:
        return math.nan, math.nan
    z = NORMAL_95**2 / count
    half = z * math.sqrt(count * (4 * p * (1 - p) + z)) / (2 * NORMAL_95)
    return (p + z / 2 - half) / (1 + z), (p + z / 2 + half) / (1 + z)


def multiple_choice(
    model: Decoder,
    tasks: TaskFile | Sequence[Task],
    *,
    count: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    precision: Precision = "exact",
) -> MultipleChoice:
    """How many tasks a model answers right.

    Args:
        tasks: what `task_files.read_tasks` read; or tasks by themselves, as of a file for `--multiple-choice`.
        count: tasks to use at most, those that llama-perplexity takes when it is asked for so many.
        batch_tokens: tokens run at once.
        precision: see `ops.Precision`.

    Raises:
        GGUFJaxError: there are no tasks, the model has no tokenizer, a text has too few tokens to score one, or as
            `score_continuations`.
    """
    *_, last = multiple_choices(model, tasks, count=count, batch_tokens=batch_tokens, precision=precision)
    return last


def multiple_choices(
    model: Decoder,
    tasks: TaskFile | Sequence[Task],
    *,
    count: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    precision: Precision = "exact",
) -> Generator[MultipleChoice]:
    """`multiple_choice`, as it is known each time that some tasks are done; the last one is the result."""
    file = tasks if isinstance(tasks, TaskFile) else TaskFile("tasks", "multiple-choice", tuple(tasks))
    if not file.tasks:
        raise GGUFJaxError(f"{file.name}: expected tasks, found none")
    if model.tokenizer is None:
        raise GGUFJaxError("model: expected one with a tokenizer, found none")
    order = drawn(file.kind, len(file.tasks), count)
    pairs: list[Pair] = []
    groups: list[int] = []
    firsts = []
    for place, number in enumerate(order):
        firsts.append(len(pairs))
        pairs += _pairs(model.tokenizer, file.tasks[number], f"{file.name}: task {number + 1}")
        groups += [place] * (len(pairs) - len(groups))
    scores = np.full(len(pairs), np.nan)
    missing = [len(file.tasks[number].choices) for number in order]
    answers: list[Answer | None] = [None] * len(order)
    timings = Timings()
    options: dict[str, Any] = dict(batch_tokens=batch_tokens, precision=precision, groups=groups, timings=timings)
    for batch in scored_batches(model, pairs, **options):
        for pair, score in batch:
            scores[pair] = -score.nlls.mean(dtype=np.float64)
            place = groups[pair]
            missing[place] -= 1
            if not missing[place]:
                task = file.tasks[order[place]]
                found = scores[firsts[place] : firsts[place] + len(task.choices)]
                answers[place] = Answer(order[place], tuple(found.tolist()), _chosen(task, found), task.gold)
        if any(answers):
            done = tuple(answer for answer in answers if answer is not None)
            yield MultipleChoice(file.kind, done, len(order), replace(timings))


def _chosen(task: Task, scores: np.ndarray) -> int:
    if task.ending is None:
        return int(scores.argmax())
    return len(scores) - 1 - int(scores[::-1].argmax())


def _pairs(tokenizer: Any, task: Task, name: str) -> list[Pair]:
    """Of each choice, what comes before what is scored, and that."""
    sequences = [tokenizer.encode(text) for text in task.texts]
    shortest = min(map(len, sequences))
    if shortest < 2:
        raise GGUFJaxError(f"{name}: expected at least 2 tokens in each text, found {shortest}")
    common = min(_common(sequences), shortest - 1)
    starts = [common] * len(sequences)
    ends = [len(sequence) for sequence in sequences]
    if task.ending is not None:
        if all(end - common > MIN_TRAILING for end in ends):
            starts = [len(tokenizer.encode(task.context + choice)) for choice in task.choices]
        ends = [end - (end - start > 1) for start, end in zip(starts, ends, strict=True)]
    found: list[Pair] = []
    for sequence, start, end in zip(sequences, starts, ends, strict=True):
        start = min(max(1, start), end - 1)
        found.append((sequence[:start], sequence[start:end]))
    return found


def _common(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all of them begin with."""
    columns = zip(*sequences, strict=False)
    return next((i for i, ids in enumerate(columns) if len(set(ids)) > 1), min(map(len, sequences)))


def drawn(kind: Kind, total: int, count: int | None) -> list[int]:
    """Numbers of the tasks that llama-perplexity uses when it is asked for `count` of `total`, in its order.

    It draws them with a Mersenne twister of seed 1: HellaSwag's always, each of those that are left with the same
    probability as libstdc++ does that; the others only where it does not use all, by a product in float32.

    Raises:
        GGUFJaxError: `count` is less than 1.
    """
    if count is not None and count < 1:
        raise GGUFJaxError(f"tasks: expected at least 1, found {count}")
    count = total if count is None else min(count, total)
    if kind != "hellaswag" and count == total:
        return list(range(total))
    twister = np.random.RandomState(1)
    left = list(range(total))
    found = []
    for _ in range(count):
        if kind == "hellaswag":
            found.append(left.pop(_below(twister, len(left))))
        else:
            scaled = np.float32(2**-32) * np.float32(_draw(twister)) * np.float32(len(left))
            at = min(int(scaled), len(left) - 1)
            found.append(left[at])
            left[at] = left[-1]
            left.pop()
    return found


def _draw(twister: np.random.RandomState) -> int:
    """32 random bits."""
    return int(twister.randint(0, 2**32, dtype=np.uint32))


def _below(twister: np.random.RandomState, n: int) -> int:
    """A number below `n` as `std::uniform_int_distribution` of libstdc++ draws it: the upper half of a product, drawn
    again where the lower half is one of those that would make some numbers likelier."""
    while True:
        product = _draw(twister) * n
        if product % 2**32 >= 2**32 % n:
            return product >> 32

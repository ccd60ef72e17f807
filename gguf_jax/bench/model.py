"""How fast a model runs: the programs of generation, timed as `Engine` calls them, beside the least time that the
machine's measured limits allow.

A test is named as in llama-bench: `pp512` runs a prompt of 512 random tokens, `tg128` generates 128, `pp512+tg128` does
one after the other, and `@ d4096` says that the cache held so many tokens before. Compilation is never part of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import jax
import numpy as np

from gguf_jax.bench.limits import Limits
from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import FORMATS
from gguf_jax.formats.ggml_type import FileType, GGMLType
from gguf_jax.generation import Engine, SamplingParams, Timings
from gguf_jax.gguf import GGUFFile
from gguf_jax.models import Decoder, DecoderConfig, MambaConfig
from gguf_jax.nn.experts import Experts
from gguf_jax.ops import Precision

CONTEXT_STEP = 256
"""A context is a multiple of this, as contexts are in use."""


@dataclass(frozen=True)
class Setting:
    """What tests share that run on one engine. `n_ubatch` cuts prompts, as far as `n_batch` lets it: with one sequence
    nothing else is left of llama.cpp's two batch sizes. `n_threads` None leaves the number as it is."""

    n_batch: int = 2048
    n_ubatch: int = 512
    type_k: str = "f16"
    type_v: str = "f16"
    n_threads: int | None = None
    precision: Precision = "fast"


@dataclass(frozen=True)
class Case:
    """One test."""

    n_prompt: int
    n_gen: int
    n_depth: int = 0
    setting: Setting = field(default_factory=Setting)

    @property
    def name(self) -> str:
        parts = [f"pp{self.n_prompt}"] if self.n_prompt else []
        parts += [f"tg{self.n_gen}"] if self.n_gen else []
        return "+".join(parts) + (f" @ d{self.n_depth}" if self.n_depth else "")

    @property
    def n_tokens(self) -> int:
        return self.n_prompt + self.n_gen

    @property
    def positions(self) -> int:
        """That the cache must hold, with one to spare for the token that follows a prompt."""
        return max(self.n_depth, 1) + self.n_tokens + 1


def cases(
    settings: Sequence[Setting],
    n_prompt: Sequence[int],
    n_gen: Sequence[int],
    n_pg: Sequence[tuple[int, int]],
    n_depth: Sequence[int],
) -> list[Case]:
    """Every combination, in the order of llama-bench; tests of nothing are left out."""
    work = [(n, 0) for n in n_prompt] + [(0, n) for n in n_gen] + list(n_pg)
    return [
        Case(prompt, gen, depth, setting)
        for setting, depth, (prompt, gen) in product(settings, n_depth, work)
        if prompt or gen
    ]


@dataclass(frozen=True)
class Facts:
    """What a test's least time follows from, and what a report says about a model.

    Attributes:
        read_bytes: of weights, read for every token that is generated.
        expert_bytes: of all experts together; `read_bytes` has the share of them that a token goes to, `expert_share`.
        products: weights that every token is multiplied with, the output projection's apart.
        output_products: those of the output projection, for the last token of a prompt and each generated one.
    """

    filename: str
    description: str
    size: int
    parameters: int
    read_bytes: int
    products: int
    output_products: int
    config: DecoderConfig | MambaConfig
    expert_bytes: int = 0
    expert_share: float = 1.0

    @classmethod
    def of(cls, file: GGUFFile, config: DecoderConfig | MambaConfig) -> Facts:
        views = file.tensors
        output = views["output.weight" if "output.weight" in views else "token_embd.weight"]
        table = views["token_embd.weight"]
        size = sum(view.nbytes for view in views.values())
        parameters = sum(view.n_elements for view in views.values())
        matrices = sum(view.n_elements for view in views.values() if len(view.shape) > 1)
        looked_up = table.nbytes if output is not table else 0  # a row of it is nothing
        inside = matrices - output.n_elements - (table.n_elements if output is not table else 0)
        experts, share = [], 1.0
        if isinstance(config, DecoderConfig) and isinstance(config.feed_forward, Experts):
            experts = [view for name, view in views.items() if name.endswith("_exps.weight")]
            share = config.feed_forward.used / config.feed_forward.count
        expert_bytes = sum(view.nbytes for view in experts)
        idle = sum(view.n_elements for view in experts) * (1 - share)
        return cls(
            filename=file.path,
            description=f"{config.architecture} {_shortened(parameters)} {_file_type(file)}",
            size=size,
            parameters=parameters,
            read_bytes=size - looked_up - round(expert_bytes * (1 - share)),
            products=inside - round(idle),
            output_products=output.n_elements,
            config=config,
            expert_bytes=expert_bytes,
            expert_share=share,
        )

    def cache_bytes(self, positions: int, type_k: str, type_v: str) -> float:
        """Of keys and values that a token sees behind `positions` tokens; of states, which it reads and writes."""
        c = self.config
        if isinstance(c, MambaConfig):
            return 2.0 * 4 * c.block_count * (c.inner_size * c.state_size + (c.conv_kernel - 1) * c.conv_length)
        bits = [FORMATS[GGMLType[name.upper()]].bits_per_weight for name in (type_k, type_v)]
        per_position = c.head_count_kv * (c.key_length * bits[0] + c.value_length * bits[1]) / 8
        return per_position * self._seen(positions)

    def operations(self, positions: int) -> float:
        """For one token behind `positions` tokens, the output projection apart; a product and a sum count as two."""
        c = self.config
        if isinstance(c, MambaConfig):  # the state fades, is added to and is read
            return 2.0 * self.products + 5.0 * c.block_count * c.inner_size * c.state_size
        return 2.0 * (self.products + c.head_count * (c.key_length + c.value_length) * self._seen(positions))

    def weight_bytes(self, tokens: int) -> float:
        """Read once for so many tokens, if they go to experts by chance."""
        missed = (1 - self.expert_share) ** tokens
        return self.read_bytes + self.expert_bytes * (1 - self.expert_share - missed)

    def _seen(self, positions: int) -> int:
        """Positions seen by a token, added up over layers."""
        assert isinstance(self.config, DecoderConfig)
        return sum(min(positions, window or positions) for window in self.config.windows)

    def least_seconds(self, case: Case, limits: Limits) -> float:
        """The time of a test at the machine's limits: of a prompt the greater of reading the weights once a chunk and
        of multiplying, of each generated token that of reading weights and cache and of multiplying."""
        s = case.setting
        precision, spent, position = s.precision, 0.0, case.n_depth
        chunk = min(s.n_batch, s.n_ubatch)
        for start in range(0, case.n_prompt, chunk):
            tokens = range(start, min(start + chunk, case.n_prompt))
            operations = sum(self.operations(position + i + 1) for i in tokens)
            spent += limits.least_seconds(self.weight_bytes(len(tokens)), operations, precision)
        position = max(position + case.n_prompt, 1)
        for i in range(case.n_gen):
            nbytes = self.read_bytes + self.cache_bytes(position + i + 1, s.type_k, s.type_v)
            operations = self.operations(position + i + 1) + 2 * self.output_products
            spent += limits.least_seconds(nbytes, operations, precision)
        return spent


@dataclass(frozen=True)
class Result:
    """A test's times, in nanoseconds, and the limits measured beside it (None: not asked for)."""

    case: Case
    facts: Facts
    n_threads: int
    test_time: str
    samples_ns: list[int]
    limits: Limits | None = None

    @property
    def samples_ts(self) -> list[float]:
        return [1e9 * self.case.n_tokens / ns for ns in self.samples_ns]

    @property
    def avg_ns(self) -> float:
        return statistics.fmean(self.samples_ns)

    @property
    def avg_ts(self) -> float:
        return statistics.fmean(self.samples_ts)

    @property
    def stddev_ns(self) -> float:
        return _deviation(self.samples_ns)

    @property
    def stddev_ts(self) -> float:
        return _deviation(self.samples_ts)

    @property
    def limit_ts(self) -> float | None:
        """Tokens a second at the machine's limits."""
        if self.limits is None:
            return None
        return self.case.n_tokens / self.facts.least_seconds(self.case, self.limits)

    @property
    def share_of_limit(self) -> float | None:
        limit = self.limit_ts
        return None if limit is None else self.avg_ts / limit


def context_for(cases: Sequence[Case]) -> int:
    """One context for all tests: they share programs then."""
    most = max(case.positions for case in cases)
    return -(-most // CONTEXT_STEP) * CONTEXT_STEP


def make_engine(model: Decoder, setting: Setting, ctx_size: int) -> Engine:
    """
    Raises:
        GGUFJaxError: as `Engine`.
    """
    return Engine(
        model,
        ctx_size=ctx_size,
        batch_size=min(setting.n_batch, setting.n_ubatch),
        cache_type=(setting.type_k, setting.type_v),
        precision=setting.precision,
    )


def samples(
    engine: Engine,
    case: Case,
    *,
    repetitions: int,
    warmup: bool = True,
    seed: int = 0,
    on_step: Callable[[str], None] = lambda what: None,
) -> Iterator[int]:
    """Nanoseconds of each repetition.

    A prompt's time is that from handing it over to the first token. That of generating runs from the first token to
    the last: `n_gen` steps of one token each, of which the first one follows the prompt, at depth 0 a single token.
    The cache keeps what stands before a prompt (`n_depth`), so it is filled once.

    Args:
        warmup: run a short repetition first, and once more what still had to compile.
        on_step: called with what is about to run.
    """
    rng = np.random.default_rng(seed)
    vocabulary = engine.config.vocab_size
    if case.positions > engine.ctx_size:
        raise GGUFJaxError(f"{case.name}: expected a context of at least {case.positions}, found {engine.ctx_size}")
    before = rng.integers(vocabulary, size=case.n_depth).tolist()
    if before and case.n_prompt:
        on_step("filling the cache")
        _run(engine, before, 0)
    last = -1

    def prompt() -> list[int]:
        """Another one each time, in its first token too, or the engine would take it from its cache."""
        nonlocal last
        tokens = rng.integers(vocabulary, size=max(case.n_prompt, 1)).tolist()
        if tokens[0] == last:
            tokens[0] = (last + 1) % vocabulary
        last = tokens[0]
        return before + tokens if case.n_prompt or not before else before

    if warmup:
        on_step("warming up")
        _run(engine, prompt(), min(case.n_gen, 2))
    for i in range(repetitions):
        on_step(f"repetition {i + 1} of {repetitions}")
        timings = _run(engine, prompt(), case.n_gen)
        if warmup and timings.compile_s:  # a longer stretch of the cache has a program of its own
            timings = _run(engine, prompt(), case.n_gen)
        spent = (timings.prefill_s if case.n_prompt else 0.0) + (timings.decode_s if case.n_gen else 0.0)
        yield max(1, round(1e9 * spent))


def _run(engine: Engine, prompt: Sequence[int], n_gen: int) -> Timings:
    timings = Timings()
    for _ in engine.generate([prompt], [SamplingParams(temperature=0.0)], max_tokens=n_gen + 1, timings=timings):
        pass
    return timings


def cpu_name() -> str:
    """The processor's own name for itself, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        return platform.processor() or platform.machine()


def gpu_name() -> str:
    return "" if jax.default_backend() == "cpu" else ", ".join(device.device_kind for device in jax.devices())


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _shortened(n: int) -> str:
    return f"{n / 1e9:.2f}B" if n >= 1e9 else f"{n / 1e6:.2f}M"


def _file_type(file: GGUFFile) -> str:
    """What most of the weights are."""
    try:
        return FileType(file.metadata["general.file_type"]).name
    except (KeyError, ValueError):
        weights: dict[str, int] = {}
        for view in file.tensors.values():
            weights[view.type.name] = weights.get(view.type.name, 0) + view.n_elements
        return max(weights, key=weights.__getitem__)

"""`Engine`: drives the compiled steps from the host. It speaks token ids; text is `generation.text`'s."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import steps
from gguf_jax.generation.request import Request
from gguf_jax.generation.sampling import Sampler, SamplerPlan, SamplingParams, make_sampler, plan_for, with_prompt
from gguf_jax.generation.setting import Setting
from gguf_jax.generation.speculation import Drafter, Speculation, propose
from gguf_jax.generation.timings import Stopwatch, Timings
from gguf_jax.models import Decoder
from gguf_jax.nn import Cache
from gguf_jax.nn.kv_cache import CacheType
from gguf_jax.ops import Precision


class Engine(Setting):
    """Generates tokens for a fixed batch of prompts at a time, keeping the cache between calls.

    Args:
        model, ctx_size, batch_size, cache_type, dtype, precision: see `Setting`.
        on_prefill: called with (tokens done, tokens in all) after each chunk of a prompt.
        speculation: how to guess what follows, see `generation.speculation`; None: not at all.
    """

    def __init__(
        self,
        model: Decoder,
        *,
        ctx_size: int | None = None,
        batch_size: int = 512,
        cache_type: CacheType | tuple[CacheType, CacheType] | None = None,
        dtype: jax.typing.DTypeLike = jnp.float32,
        precision: Precision = "fast",
        on_prefill: Callable[[int, int], None] | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        super().__init__(
            model,
            ctx_size=ctx_size,
            batch_size=batch_size,
            cache_type=cache_type,
            dtype=dtype,
            precision=precision,
        )
        self.on_prefill = on_prefill
        self.speculation = speculation
        self._drafter: tuple[int, Drafter] | None = None  # made for so many slots
        self._run: object = None  # the generation that may touch the cache: the last one begun
        self._cache: Cache | None = None
        self._held: list[list[int]] = []
        """For each slot, the tokens whose keys and values the cache holds."""

    def refresh(self) -> None:
        """As `Setting.refresh`. What the cache holds is of the model as it was, and forgotten."""
        super().refresh()
        self._run, self._held, self._drafter = None, [[] for _ in self._held], None

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: Sequence[SamplingParams],
        *,
        max_tokens: int | None = None,
        timings: Timings | None = None,
    ) -> Iterator[list[int]]:
        """Yield the next token id of every prompt, `[B]`, until `max_tokens` or every context is full; -1 stands for a
        slot whose context is full while others go on.

        The caller stops the iteration when it has what it wants. A slot's tokens depend on its own prompt, parameters
        and seed, not on the other slots. Where a prompt begins with what the slot's cache holds already (the last
        turn of a chat), that part is not run again.

        Raises:
            PromptTooLong: a prompt leaves no room for one more token; both lengths are named.
            GGUFJaxError: there is no prompt, an empty one, or one with an id outside the vocabulary.
        """
        self._check(prompts, params, max_tokens)
        self._run = run = object()
        timings = timings if timings is not None else Timings()
        watch = Stopwatch(timings)
        lengths = [len(prompt) for prompt in prompts]
        room = [self.ctx_size - length for length in lengths]
        count = max(room) if max_tokens is None else min(max_tokens, max(room))
        plan = plan_for(params, self.config.vocab_size)
        starts, sampler, logits = watch.call(self._prepare, prompts, params)
        logits = self._prefill(prompts, starts, logits, watch)
        tokens, sampler, _ = watch.call(steps.choose, logits, sampler, plan=plan)
        tokens.block_until_ready()
        timings.prefill_s += watch.lap()
        if self.speculation is not None:
            yield from self._speculate(self.speculation, prompts, params, tokens, sampler, plan, count, watch)
            return
        positions = jnp.asarray(lengths, jnp.int32)
        try:
            for i in range(count):
                if self._run is not run:
                    raise GGUFJaxError("engine: another generation has begun on this engine; give each its own")
                following = tokens
                if i + 1 < count:  # dispatched before this token is read, so that the device does not wait for the host
                    state = tokens, positions, sampler
                    following, positions, sampler = self._decode(*state, plan, self.span(max(lengths) + i + 1), watch)
                ids = [int(t) for t in np.asarray(tokens)]
                if i > 0:
                    timings.decode_s += watch.lap()
                    timings.decode_tokens += len(ids)
                if i + 1 < count:
                    for held, token in zip(self._held, ids, strict=True):
                        held.append(token)
                tokens = following
                yield [token if i < left else -1 for token, left in zip(ids, room, strict=True)]
        finally:
            # a step may still be running when the caller has had enough: its cache is not free before it ends
            if not sys.is_finalizing():
                jax.block_until_ready(self._cache)

    def _decode(
        self, tokens: jax.Array, positions: jax.Array, sampler: Sampler, plan: SamplerPlan, span: int, watch: Stopwatch
    ) -> tuple[jax.Array, jax.Array, Sampler]:
        """Dispatch one step; the next tokens and positions `[B]`."""
        cache, self._cache = self._cache, None  # donated: until the call returns nobody may read it
        tokens, positions, self._cache, sampler, _ = watch.call(
            steps.decode, self.leaves, tokens, positions, cache, sampler, spec=self.spec, plan=plan, span=span
        )
        return tokens, positions, sampler

    def _speculate(
        self,
        speculation: Speculation,
        prompts: Sequence[Sequence[int]],
        params: Sequence[SamplingParams],
        tokens: jax.Array,
        sampler: Sampler,
        plan: SamplerPlan,
        count: int,
        watch: Stopwatch,
    ) -> Iterator[list[int]]:
        """What `generate` yields from the first tokens `[B]` on, several to a step where they are guessed."""
        run, slots = self._run, len(prompts)
        assert self._cache is not None
        if not self._cache.rewinds:
            raise GGUFJaxError("speculation: expected a model that keeps keys and values, found one that keeps states")
        if self._drafter is None or self._drafter[0] != slots:
            self._drafter = slots, speculation.drafter(self, slots)
        requests = [
            Request(b, list(prompt), each, min(count, self.ctx_size - len(prompt)), frozenset(), tokens=[int(first)])
            for b, (prompt, each, first) in enumerate(zip(prompts, params, np.asarray(tokens), strict=True))
        ]
        for i in range(count):
            if self._run is not run:
                raise GGUFJaxError("engine: another generation has begun on this engine; give each its own")
            if any(len(request.tokens) <= i < request.max_tokens for request in requests):
                going = {b: request for b, request in enumerate(requests) if len(request.tokens) < request.max_tokens}
                drafts = watch.call(propose, self._drafter[1], going, slots, sampler, plan)
                positions = np.full(slots, -1, np.int32)
                for b, request in going.items():
                    positions[b] = len(request.prompt) + len(request.tokens) - 1
                drafts = np.full((slots, 0), -1, np.int32) if drafts is None else drafts
                cache, self._cache = self._cache, None
                found, tokens, self._cache, sampler, _ = watch.call(
                    steps.verify,
                    self.leaves,
                    tokens,
                    drafts,
                    positions,
                    cache,
                    sampler,
                    spec=self.spec,
                    plan=plan,
                    span=self.span(int(positions.max()) + 1 + drafts.shape[1]),
                )
                rows = np.asarray(found).tolist()
                for b, request in going.items():
                    new = [token for token in rows[b] if token >= 0]
                    request.tokens += new
                    request.check(len(new) - 1)
                    self._held[b] = request.prompt + request.tokens[:-1]
                timings = watch.timings
                timings.guessed_tokens = sum(request.guessed for request in requests)
                timings.accepted_tokens = sum(request.accepted for request in requests)
            if i > 0:
                watch.timings.decode_s += watch.lap()
                watch.timings.decode_tokens += slots
            yield [request.tokens[i] if i < request.max_tokens else -1 for request in requests]

    def _check(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams], max_tokens: int | None
    ) -> None:
        if not len(prompts) or len(prompts) != len(params):
            raise GGUFJaxError(f"prompts: expected at least one and as many parameters, found {len(prompts)}")
        if max_tokens is not None and max_tokens < 1:
            raise GGUFJaxError(f"max_tokens: expected at least 1, found {max_tokens}")
        for prompt in prompts:
            self.check_prompt(prompt)

    def _reuse(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """How many tokens of each prompt the cache holds already; the last one is always run, for its logits."""
        if self._cache is None or len(self._held) != len(prompts):
            self._cache = self.new_cache(len(prompts))
            self._held = [[] for _ in prompts]
        starts = []
        for held, prompt in zip(self._held, prompts, strict=True):
            same = next((i for i, (a, b) in enumerate(zip(held, prompt, strict=False)) if a != b), None)
            starts.append(min(len(held), len(prompt)) if same is None else same)
        return self._cache.kept([min(start, len(prompt) - 1) for start, prompt in zip(starts, prompts, strict=True)])

    def _prepare(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
    ) -> tuple[list[int], Sampler, jax.Array]:
        """What runs before the first program: where each prompt starts, the sampler, and room for the logits `[B, V]`.
        (The first time, making these arrays compiles a few small programs too.)"""
        vocab = self.config.vocab_size
        sampler = with_prompt(make_sampler(params, vocab, context_length=self.ctx_size), prompts)
        return self._reuse(prompts), sampler, jnp.zeros((len(prompts), vocab), jnp.float32)

    def _prefill(
        self, prompts: Sequence[Sequence[int]], starts: Sequence[int], logits: jax.Array, watch: Stopwatch
    ) -> jax.Array:
        """Run what the cache does not hold; the logits after each prompt's last token, `[B, V]`."""
        rest = [len(prompt) - start for prompt, start in zip(prompts, starts, strict=True)]
        watch.timings.prefill_tokens += sum(rest)
        watch.timings.reused_tokens += sum(starts)
        # kept in step with the cache chunk by chunk, so that an interrupted prefill leaves no claim that is not true
        self._held = [list(prompt[:start]) for prompt, start in zip(prompts, starts, strict=True)]
        done = 0
        while done < max(rest):
            length = self.chunk_length(max(rest) - done)
            tokens = np.zeros((len(prompts), length), np.int32)
            positions = np.full((len(prompts), length), -1, np.int32)
            last = np.full(len(prompts), -1, np.int32)
            for b, (prompt, start) in enumerate(zip(prompts, starts, strict=True)):
                chunk = prompt[start + done : start + done + length]
                tokens[b, : len(chunk)] = chunk
                positions[b, : len(chunk)] = np.arange(start + done, start + done + len(chunk))
                if done < rest[b] <= done + length:
                    last[b] = rest[b] - done - 1
            cache, self._cache = self._cache, None
            logits, self._cache = watch.call(
                steps.prefill,
                self.leaves,
                tokens,
                positions,
                last,
                logits,
                cache,
                spec=self.spec,
                span=self.span(int(positions.max()) + 1),
            )
            done += length
            self._held = [list(prompt[: start + done]) for prompt, start in zip(prompts, starts, strict=True)]
            if self.on_prefill is not None:
                logits.block_until_ready()
                self.on_prefill(min(done, max(rest)), max(rest))
        return logits

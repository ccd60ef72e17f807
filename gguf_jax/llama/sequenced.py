"""`Sequenced`: a loaded model and the one sequence of tokens that it has seen, as `Llama` shows it."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from gguf_jax.errors import GGUFError
from gguf_jax.generation.constraint import Constraint
from gguf_jax.generation.request import common
from gguf_jax.generation.sampling import SamplingParams
from gguf_jax.gguf.text import shown
from gguf_jax.llama.checked import checked_seed, ids_of
from gguf_jax.llama.drawing import sampling_params
from gguf_jax.llama.grammar import LlamaGrammar
from gguf_jax.llama.loaded import LLAMA_DEFAULT_SEED, Loaded
from gguf_jax.llama.processors import LogitsProcessorList, StoppingCriteriaList
from gguf_jax.llama.state import BaseLlamaCache, LlamaState


class Sequenced(Loaded):
    """What can be done with the sequence: look at it, evaluate, sample, generate, save and load."""

    @property
    def n_tokens(self) -> int:
        """Tokens that have been evaluated. Set to less, it forgets those behind."""
        return self.context.n_tokens

    @n_tokens.setter
    def n_tokens(self, count: int) -> None:
        self.context.truncate(count)

    @property
    def input_ids(self) -> np.ndarray:
        """int32 `[n_ctx]`, of which the first `n_tokens` have been evaluated."""
        return self.context.input_ids

    @property
    def _input_ids(self) -> np.ndarray:
        return self.context.input_ids[: self.n_tokens]

    @property
    def scores(self) -> np.ndarray:
        """The logits behind the tokens, float32 `[n_tokens, n_vocab]`: with `logits_all` of all; otherwise of the last
        token of each `eval` and of the last of all, and zeros elsewhere."""
        context = self.context
        if context.n_tokens and not context.scores.has(context.n_tokens - 1):
            context.logits()
        return context.scores.dense(context.n_tokens)

    @property
    def _scores(self) -> np.ndarray:
        return self.scores

    @property
    def eval_tokens(self) -> deque[int]:
        return deque(self._input_ids.tolist(), maxlen=self.n_ctx())

    @property
    def eval_logits(self) -> deque[list[float]]:
        """`scores` as lists; without `logits_all` only the last."""
        rows = self.scores if self.context.all_scores else self.scores[-1:]
        return deque(rows.tolist(), maxlen=self.n_ctx() if self.context.all_scores else 1)

    def set_seed(self, seed: int) -> None:
        self._seed = checked_seed(seed)

    def set_cache(self, cache: BaseLlamaCache | None) -> None:
        """States of completions, which those that begin alike go on from."""
        self.cache = cache

    def reset(self) -> None:
        """Forgets the sequence."""
        self.context.truncate(0)

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluates tokens behind those that are there.

        Raises:
            ContextFull: there is no room for them.
            GGUFJaxError: an id is not in the vocabulary.
        """
        self.context.eval(ids_of(tokens))

    def sample(
        self,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        temp: float = 0.80,
        repeat_penalty: float = 1.0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_eta: float = 0.1,
        mirostat_tau: float = 5.0,
        penalize_nl: bool = True,
        logits_processor: LogitsProcessorList | None = None,
        grammar: LlamaGrammar | None = None,
        idx: int | None = None,
    ) -> int:
        """A token that may follow the evaluated ones (those up to index `idx`), whose logits it is drawn from.

        With a seed it is a function of that and of the number of tokens. Penalties count the evaluated tokens.
        `grammar` is one of a whole answer, of which this is the first token.
        """
        params = self._params(locals())
        constraint = self._constraint(grammar)
        return self.context.sample(params, index=idx, processor=logits_processor, constraint=constraint)

    def generate(
        self,
        tokens: Sequence[int],
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        temp: float = 0.80,
        repeat_penalty: float = 1.0,
        reset: bool = True,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        penalize_nl: bool = True,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        grammar: LlamaGrammar | None = None,
    ) -> Generator[int, Sequence[int] | None, None]:
        """Tokens that follow `tokens`, for as long as they are asked for; ids that are sent to the generator are put
        behind the last one.

        Args:
            reset: put `tokens` in place of the sequence (what both begin with is not run again), and not behind it.
            temp: 0 takes the best token; less than 0 draws from what the model says, without any filter.
            others: see `create_completion`.

        Raises:
            ContextFull: there is no room for the next token.
            Unsupported: tail-free sampling or mirostat are asked for.
        """
        params = self._params(locals())
        return self._run(ids_of(tokens), params, reset, logits_processor, stopping_criteria, grammar)

    def run(
        self, tokens: Sequence[int], *, most: int, from_scores: bool, **drawing: Any
    ) -> Generator[int, Sequence[int] | None, None]:
        """`generate`, for who knows how many tokens will be asked for, and whether their logits will be."""
        looks = (drawing.get(name) for name in ("logits_processor", "stopping_criteria", "grammar"))
        params = self._params(drawing)
        return self._run(list(tokens), params, True, *looks, most=most, from_scores=from_scores)

    def _run(
        self,
        tokens: list[int],
        params: SamplingParams,
        reset: bool,
        processor: LogitsProcessorList | None,
        criteria: StoppingCriteriaList | None,
        grammar: LlamaGrammar | None,
        **more: Any,
    ) -> Generator[int, Sequence[int] | None, None]:
        context = self.context
        constraint = self._constraint(grammar)
        if reset:
            same = common(self._input_ids.tolist(), tokens)
            if not (same == len(tokens) == context.n_tokens and context.known):
                same = min(same, len(tokens) - 1)  # the last one is run, for its logits
            if same > 0:
                self.say(f"{same} of {len(tokens)} tokens of the prompt are there already")
            context.truncate(max(same, 0))
            tokens = tokens[max(same, 0) :]
        context.eval(tokens, prompt=True)
        yield from context.generate(
            params, processor=processor, criteria=criteria, constraint=constraint, draft=self._guess, **more
        )

    def _constraint(self, grammar: LlamaGrammar | None) -> Constraint | None:
        if grammar is None:
            return None
        if not isinstance(grammar, LlamaGrammar):
            raise GGUFError(f"grammar: expected a LlamaGrammar, found {shown(grammar)}")
        return grammar.constraint(self.model.tokenizer)

    def _params(self, asked: Mapping[str, Any]) -> SamplingParams:
        seed = secrets.randbits(64) if self._seed in (LLAMA_DEFAULT_SEED, -1) else self._seed % 2**64
        return sampling_params(asked, seed, self.last_n_tokens_size)

    # ---- states ----

    def save_state(self) -> LlamaState:
        """The sequence with all that the model keeps of it; what follows `load_state` is what would follow now."""
        context = self.context
        at, rows = context.scores.known(context.n_tokens)
        return LlamaState(self._input_ids.copy(), at, rows, context.save(), self._seed)

    def load_state(self, state: LlamaState) -> None:
        """Puts what was saved in place of the sequence.

        Raises:
            GGUFJaxError: it is of another model or context; nothing is changed then.
        """
        self.context.load(state.input_ids.tolist(), state.llama_state, state.scored, state.rows)
        self._seed = state.seed

    def recall(self, tokens: Sequence[int]) -> None:
        """Loads the cached state that begins like `tokens`, if that is longer than what the sequence does."""
        if self.cache is None or tokens not in self.cache:
            return
        state = self.cache[tokens]
        if common(state.input_ids.tolist(), tokens) > common(self._input_ids.tolist(), tokens):
            seed = self._seed
            self.load_state(state)
            self._seed = seed
            self.say("a cached state is gone on from")

    def remember(self, tokens: Sequence[int]) -> None:
        if self.cache is not None:
            self.cache[tokens] = self.save_state()

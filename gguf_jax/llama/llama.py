"""`Llama`: a GGUF file behind the interface of llama-cpp-python's class of that name."""

from __future__ import annotations

import random
import secrets
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np

from gguf_jax import embeddings, gguf
from gguf_jax.api import load
from gguf_jax.errors import GGUFError, GGUFJaxError, Unsupported
from gguf_jax.formats import GGMLType
from gguf_jax.generation.request import common
from gguf_jax.generation.sampling import SamplingParams
from gguf_jax.gguf.text import shown
from gguf_jax.llama import log_probs, options, pretrained
from gguf_jax.llama.chat import ChatAnswer, LlamaChatCompletionHandler
from gguf_jax.llama.chat_handlers import handler_for
from gguf_jax.llama.completion import Asked, Prompt, Run
from gguf_jax.llama.context import Context
from gguf_jax.llama.grammar import LlamaGrammar
from gguf_jax.llama.metadata_texts import metadata_texts
from gguf_jax.llama.processors import LogitsProcessorList, StoppingCriteriaList
from gguf_jax.llama.speculative import LlamaDraftModel
from gguf_jax.llama.state import BaseLlamaCache, LlamaState
from gguf_jax.llama.tokenizers import BaseLlamaTokenizer, LlamaTokenizer
from gguf_jax.llama.types import CreateCompletionResponse, CreateEmbeddingResponse
from gguf_jax.models import Encoder, T5Encoder
from gguf_jax.ops import Precision
from gguf_jax.tokenizers.from_file import tokenizer as tokenizer_of

LLAMA_DEFAULT_SEED = 0xFFFFFFFF
"""Stands for a seed drawn anew each time."""

POOLING = {-1: None, 0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}
"""`enum llama_pooling_type` and what `embed` calls it; None: as the file says."""


class _TokenizerOnly:
    """Stands for a model of which only the vocabulary was loaded."""

    def __init__(self, file: gguf.GGUFFile) -> None:
        self.tokenizer = tokenizer_of(file)
        self.metadata = file.metadata


class Llama:
    """A model, and one sequence of tokens that it has seen.

        llm = Llama("model.gguf", n_ctx=2048)
        llm("Q: Name the planets in the solar system? A: ", max_tokens=32, stop=["Q:", "\\n"], echo=True)

    Names, defaults and the dicts that are returned are llama-cpp-python's. Options that have no meaning here are said
    to have none, once, in a warning; those that would change a result and cannot are refused. Not for several threads
    at once: `generation.Scheduler` and `gguf-jax serve` answer many requests together.

    Args:
        model_path: a GGUF file, or the first of a split one.
        vocab_only: only the tokenizer.
        kv_overrides: metadata that take the place of the file's.
        seed: of what is drawn; -1 for a random one.
        n_ctx: tokens of prompt and answer; 0: what the model was trained for.
        n_batch: longest chunk of a prompt that is run at once, rounded up to a power of two.
        rope_freq_base, rope_freq_scale, rope_scaling_type, yarn_ext_factor, yarn_attn_factor, yarn_beta_fast,
            yarn_beta_slow, yarn_orig_ctx: in place of what the file says of RoPE.
        pooling_type: of embeddings; -1: what the file says, else none, which is a vector for each token.
        logits_all: keep the logits behind every token in `scores`, for log-probabilities of prompts; slower.
        embedding: for `embed` and `create_embedding`.
        last_n_tokens_size: how many tokens of an answer penalties look at.
        lora_path, lora_scale: a LoRA adapter in GGUF.
        chat_format: of conversations, a name of `chat_formats.CHAT_FORMATS` or "chatml-function-calling"; default: the
            file's template, else "llama-2".
        chat_handler: a callable that makes chat completions, in place of a format.
        draft_model: what guesses the tokens that follow; answers are the same with and without.
        tokenizer: in place of the file's.
        type_k, type_v: ids of the ggml types that keys and values are kept as: F32, F16, BF16, Q8_0 or Q4_0.
        spm_infill: put the suffix before the prefix where text is filled in.
        verbose: say on stderr what format conversations have, and what is reused.
        precision: of products and attention, see `ops.Precision`.

    Raises:
        GGUFError: there is no such file, or it is malformed.
        GGUFJaxError: an option is wrong.
    """

    def __init__(
        self,
        model_path: str,
        *,
        n_gpu_layers: int = 0,
        split_mode: int = 1,
        main_gpu: int = 0,
        tensor_split: list[float] | None = None,
        vocab_only: bool = False,
        use_mmap: bool = True,
        use_mlock: bool = False,
        kv_overrides: dict[str, bool | int | float | str] | None = None,
        seed: int = LLAMA_DEFAULT_SEED,
        n_ctx: int = 512,
        n_batch: int = 512,
        n_ubatch: int = 512,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        rope_scaling_type: int | None = -1,
        pooling_type: int = -1,
        attention_type: int = -1,
        rope_freq_base: float = 0.0,
        rope_freq_scale: float = 0.0,
        yarn_ext_factor: float = -1.0,
        yarn_attn_factor: float = 1.0,
        yarn_beta_fast: float = 32.0,
        yarn_beta_slow: float = 1.0,
        yarn_orig_ctx: int = 0,
        logits_all: bool = False,
        embedding: bool = False,
        offload_kqv: bool = True,
        flash_attn: bool = False,
        op_offload: bool | None = None,
        swa_full: bool | None = None,
        no_perf: bool = False,
        last_n_tokens_size: int = 64,
        lora_base: str | None = None,
        lora_scale: float = 1.0,
        lora_path: str | None = None,
        numa: bool | int = False,
        chat_format: str | None = None,
        chat_handler: LlamaChatCompletionHandler | None = None,
        draft_model: LlamaDraftModel | Callable[[np.ndarray], np.ndarray] | None = None,
        tokenizer: BaseLlamaTokenizer | None = None,
        type_k: int | None = None,
        type_v: int | None = None,
        spm_infill: bool = False,
        verbose: bool = True,
        precision: Precision = "fast",
        **unknown: Any,
    ) -> None:
        given = dict(locals())
        self._given = {name: given[name] for name in given if name not in ("self", "unknown", "__class__")} | unknown
        options.check(given, unknown)
        if n_ctx < 0 or n_batch < 1:
            raise GGUFError(f"n_ctx, n_batch: expected at least 0 and 1, found {shown(n_ctx)} and {shown(n_batch)}")
        if pooling_type not in POOLING:
            raise GGUFError(f"pooling_type: expected from -1 to 4, found {shown(pooling_type)}")
        self.model_path = model_path
        self.verbose = verbose
        self.chat_format = chat_format
        self.chat_handler = chat_handler
        self.draft_model = draft_model
        self.last_n_tokens_size = last_n_tokens_size
        self.spm_infill = spm_infill
        self.cache: BaseLlamaCache | None = None
        self._handler: LlamaChatCompletionHandler | None = None
        self._seed = secrets.randbits(32) if seed == -1 else seed
        self._embedding, self._pooling = embedding, POOLING[pooling_type]
        self._model, self._context = self._load(given)
        self.tokenizer_ = tokenizer or LlamaTokenizer(self)
        self.metadata = metadata_texts(self.model.metadata)
        if chat_handler is None:
            self.chat_format = chat_format or self._usual_format()
            if self._context is not None:
                self._handler = handler_for(self, self.chat_format)
            self._say(f"chat format: {self.chat_format}")

    def _load(self, given: Mapping[str, Any]) -> tuple[Any, Context | None]:
        with gguf.read(given["model_path"]) as file:
            architecture = str(file.metadata.get("general.architecture"))
            file = replace(file, metadata=file.metadata.updated(options.overrides(given, architecture)))
            if given["vocab_only"]:
                return _TokenizerOnly(file), None
            adapter = [] if given["lora_path"] is None else [(given["lora_path"], given["lora_scale"])]
            model = load(file, cache_type=options.cache_type(given), adapters=adapter)
        self._n_batch = min(given["n_ctx"] or model.config.context_length, given["n_batch"])
        if isinstance(model, (Encoder, T5Encoder)):
            return model, None
        return model, Context(
            model,
            all_scores=given["logits_all"],
            ctx_size=given["n_ctx"] or model.config.context_length,
            batch_size=self._n_batch,
            precision=given["precision"],
        )

    def _usual_format(self) -> str:
        return "chat_template.default" if self.model.tokenizer.chat_template is not None else "llama-2"

    def _say(self, line: str) -> None:
        if self.verbose:
            print(f"llama: {line}", file=sys.stderr)

    # ---- what it is made of ----

    @property
    def model(self) -> Any:
        """What `gguf_jax.load` gave. Raises GGUFJaxError after `close`."""
        if self._model is None:
            raise self._cannot_generate()
        return self._model

    @property
    def context(self) -> Context:
        """The sequence. Raises GGUFJaxError where the model has none."""
        if self._context is None:
            raise self._cannot_generate()
        return self._context

    def _cannot_generate(self) -> GGUFJaxError:
        if self._model is None:
            return GGUFJaxError("Llama: expected an open model, found a closed one")
        found = "an encoder, which only embeds" if self._embeds else "only a vocabulary"
        return GGUFJaxError(f"Llama: expected a model that generates, found {found}")

    @property
    def _embeds(self) -> bool:
        return not isinstance(self._model, _TokenizerOnly)

    def close(self) -> None:
        """Lets the model and its cache go."""
        self._model = self._context = self._handler = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """What it was made with: an unpickled one loads the file again."""
        return self._given | {"seed": self._seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str | None,
        additional_files: list[str] | None = None,
        local_dir: str | None = None,
        local_dir_use_symlinks: bool | str = "auto",
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """The model of a file in a repository of the Hugging Face Hub, downloaded once.

        Args:
            filename, additional_files: names or patterns of names, of one file each; those of a split model's other
                shards are found without.
            local_dir, cache_dir: where it is kept.
            kwargs: as `Llama` takes them.

        Raises:
            GGUFError: no file of the repository has such a name, or several have.
            GGUFJaxError: the repository cannot be read.
        """
        if local_dir_use_symlinks != "auto":
            options.say_once({"local_dir_use_symlinks": "huggingface_hub decides it"})
        path = pretrained.download(repo_id, filename, additional_files or (), local_dir, cache_dir)
        return cls(model_path=path, **kwargs)

    # ---- tokens ----

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """The ids of a text in UTF-8; `special` recognises control tokens that are written in it."""
        if not isinstance(text, (bytes, bytearray)):
            raise GGUFError(f"text: expected bytes, found {shown(text)}; text.encode() makes them")
        return self.tokenizer_.tokenize(bytes(text), add_bos, special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """The text of ids; `special`: with the names of control tokens."""
        before = None if prev_tokens is None else list(prev_tokens)
        return self.tokenizer_.detokenize(list(tokens), prev_tokens=before, special=special)

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text of ids, without bytes that are no UTF-8."""
        return self.detokenize(tokens).decode("utf-8", "ignore")

    def tokenizer(self) -> LlamaTokenizer:
        """The file's tokenizer."""
        return LlamaTokenizer(self)

    def token_bos(self) -> int:
        """The beginning of a text; -1: there is no such token."""
        return -1 if (found := self.model.tokenizer.bos_id) is None else found

    def token_eos(self) -> int:
        """The end of a text; -1: there is no such token."""
        return -1 if (found := self.model.tokenizer.eos_id) is None else found

    def token_nl(self) -> int:
        """The end of a line; -1: there is no such token."""
        return next(reversed(self.model.tokenizer.encode("\n", add_special=False)), -1)

    @property
    def eog_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return self.model.tokenizer.eog_ids

    @property
    def fim_ids(self) -> dict[str, int | None]:
        """Tokens around what is filled in."""
        return self.model.tokenizer.fim_ids

    @property
    def around(self) -> tuple[list[int], list[int]]:
        """What the file asks for at a text's beginning and end."""
        tokenizer = self.model.tokenizer
        marks = (tokenizer.add_bos, tokenizer.bos_id), (tokenizer.add_eos, tokenizer.end_id)
        first, last = ([token] if add and token is not None else [] for add, token in marks)
        return first, last

    def n_vocab(self) -> int:
        return self.model.config.vocab_size if self._embeds else self.model.tokenizer.vocab_size

    def n_ctx(self) -> int:
        """Tokens that the context holds."""
        return self.context.ctx_size if self._context is not None else self.model.config.context_length

    def n_embd(self) -> int:
        """The length of an embedding."""
        return self.model.config.embedding_length

    @property
    def n_batch(self) -> int:
        """Tokens of a prompt that are run at once."""
        return self._n_batch

    def pooling_type(self) -> int:
        """Of embeddings, a value of `enum llama_pooling_type`."""
        return next(number for number, name in POOLING.items() if name == self._pooled())

    # ---- the sequence ----

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
        self._seed = seed

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
        self.context.eval(tokens)

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
        constraint = None if grammar is None else grammar.constraint(self.model.tokenizer)
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
        return self._run(list(tokens), params, reset, logits_processor, stopping_criteria, grammar)

    def run(
        self, tokens: Sequence[int], *, most: int, from_scores: bool, **drawing: Any
    ) -> Generator[int, Sequence[int] | None, None]:
        """`generate`, for who knows how many tokens will be asked for, and whether their logits will be."""
        drawing = _GENERATE_DEFAULTS | drawing
        processor, criteria, grammar = (
            drawing.pop(name) for name in ("logits_processor", "stopping_criteria", "grammar")
        )
        bias = drawing.pop("logit_bias", None)
        params = self._params(drawing | {"logit_bias": bias})
        return self._run(list(tokens), params, True, processor, criteria, grammar, most=most, from_scores=from_scores)

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
        constraint = None if grammar is None else grammar.constraint(self.model.tokenizer)
        if reset:
            same = common(self._input_ids.tolist(), tokens)
            if not (same == len(tokens) == context.n_tokens and context.known):
                same = min(same, len(tokens) - 1)  # the last one is run, for its logits
            if same > 0:
                self._say(f"{same} of {len(tokens)} tokens of the prompt are there already")
            context.truncate(max(same, 0))
            tokens = tokens[max(same, 0) :]
        context.eval(tokens, prompt=True)
        yield from context.generate(
            params, processor=processor, criteria=criteria, constraint=constraint, draft=self.draft_model, **more
        )

    def _params(self, asked: Mapping[str, Any]) -> SamplingParams:
        """How tokens are drawn, from the arguments of `generate`.

        Raises:
            Unsupported: tail-free sampling or mirostat are asked for.
            GGUFJaxError: a number is out of range.
        """
        if asked["tfs_z"] != 1.0:
            raise Unsupported(f"tfs_z: expected 1.0, as there is no tail-free sampling, found {shown(asked['tfs_z'])}")
        if asked["mirostat_mode"]:
            found = shown(asked["mirostat_mode"])
            raise Unsupported(f"mirostat_mode: expected 0, as there is no mirostat, found {found}")
        if not asked["penalize_nl"]:
            options.say_once({"penalize_nl": "the end of a line is a token like others"})
        seed = secrets.randbits(64) if self._seed == LLAMA_DEFAULT_SEED else self._seed % 2**64
        common_to_all: dict[str, Any] = dict(
            seed=seed,
            repeat_penalty=asked["repeat_penalty"],
            frequency_penalty=asked["frequency_penalty"],
            presence_penalty=asked["presence_penalty"],
            penalty_last_n=self.last_n_tokens_size,
            logit_bias=_biases(asked.get("logit_bias")),
        )
        if asked["temp"] < 0:
            return SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0, **common_to_all)
        shares = {name: min(max(asked[name], 0.0), 1.0) for name in ("top_p", "min_p", "typical_p")}
        return SamplingParams(temperature=asked["temp"], top_k=max(asked["top_k"], 0), **shares, **common_to_all)

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
            self._say("a cached state is gone on from")

    def remember(self, tokens: Sequence[int]) -> None:
        if self.cache is not None:
            self.cache[tokens] = self.save_state()

    # ---- completions ----

    def create_completion(
        self,
        prompt: Prompt,
        suffix: str | None = None,
        max_tokens: int | None = 16,
        temperature: float = 0.8,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        logprobs: int | None = None,
        echo: bool = False,
        stop: str | Sequence[str] | None = None,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        top_k: int = 40,
        stream: bool = False,
        seed: int | None = None,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        model: str | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        logits_processor: LogitsProcessorList | None = None,
        grammar: LlamaGrammar | None = None,
        logit_bias: Mapping[int, float] | None = None,
    ) -> CreateCompletionResponse | Iterator[CreateCompletionResponse]:
        """Goes on with a prompt.

        Args:
            prompt: a text, or token ids.
            suffix: what stands behind the answer. The model sees it where the file names tokens for that.
            max_tokens: longest answer; None or less than 1: as far as the context reaches.
            temperature: 0 takes the best token; less than 0 draws from what the model says, without any filter.
            top_k, top_p, min_p, typical_p: filters, see `SamplingParams`; top_k of at most 0 keeps all.
            logprobs: give the log-probability of every token, and of so many of the best beside it.
            echo: put the prompt before the answer; its log-probabilities need `logits_all=True`.
            stop: texts that end the answer; they are not part of it.
            frequency_penalty, presence_penalty, repeat_penalty: make tokens that the answer has less likely.
            stream: give chunks as they come; the last one says why the answer ended.
            seed: of what is drawn; default: one that follows from the model's own.
            model: what the answer says it is from; default: the file.
            stopping_criteria, logits_processor: called with ids and logits, see `llama.processors`.
            grammar: what the answer must look like.
            logit_bias: token id -> number added to its logit.

        Raises:
            PromptTooLong: the prompt leaves no room for a token; both lengths are named.
            GGUFJaxError: there is no token in it, or a parameter is wrong.
        """
        # a stream's parameters are checked now as well, and not when its first chunk is asked for
        self._seed = random.Random(self._seed).randint(0, 2**32) if seed is None else seed
        drawing = dict(
            temp=temperature,
            top_p=top_p,
            min_p=min_p,
            typical_p=typical_p,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            repeat_penalty=repeat_penalty,
            top_k=top_k,
            tfs_z=tfs_z,
            mirostat_mode=mirostat_mode,
            stopping_criteria=stopping_criteria,
            logits_processor=logits_processor,
            grammar=grammar,
            logit_bias=logit_bias,
        )
        self._params(_GENERATE_DEFAULTS | drawing)
        run = Run(self, Asked(prompt, suffix, max_tokens, logprobs, echo, stop, model, drawing))
        return run.chunks() if stream else run.whole()

    def __call__(self, prompt: Prompt, *args: Any, **kwargs: Any) -> Any:
        """As `create_completion`."""
        return self.create_completion(prompt, *args, **kwargs)

    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        functions: list[Any] | None = None,
        function_call: Any = None,
        tools: list[Any] | None = None,
        tool_choice: Any = None,
        temperature: float = 0.2,
        top_p: float = 0.95,
        top_k: int = 40,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        stream: bool = False,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        response_format: Any = None,
        max_tokens: int | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        model: str | None = None,
        logits_processor: LogitsProcessorList | None = None,
        grammar: LlamaGrammar | None = None,
        logit_bias: Mapping[int, float] | None = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
    ) -> ChatAnswer:
        """The assistant's next message in a conversation.

        Args:
            messages: `{"role": ..., "content": ...}` each.
            tools, tool_choice: a named choice holds the answer to that tool's parameters; otherwise the chat format
                decides what becomes of them. (`functions`, `function_call`: their former names.)
            response_format: `{"type": "json_object"}`, also with a `"schema"`, or `json_schema` as OpenAI has it.
            logprobs, top_logprobs: whether log-probabilities are given, and of how many of the best tokens.
            others: see `create_completion`.

        Raises:
            GGUFJaxError: the conversation cannot be written in the chat format, or as `create_completion`.
        """
        arguments = {name: value for name, value in locals().items() if name != "self"}
        handler = self.chat_handler or self._handler
        if handler is None:
            raise self._cannot_generate()
        return handler(llama=self, **arguments)

    def create_chat_completion_openai_v1(self, *args: Any, **kwargs: Any) -> Any:
        """`create_chat_completion`, its answers as objects of the package openai."""
        try:
            from openai.types.chat import ChatCompletion, ChatCompletionChunk
        except ImportError as error:
            raise ImportError("create_chat_completion_openai_v1: expected the package openai, found none") from error
        answer = self.create_chat_completion(*args, **kwargs)
        if isinstance(answer, Mapping):
            return ChatCompletion(**answer)  # pyright: ignore
        return (ChatCompletionChunk(**chunk) for chunk in answer)  # pyright: ignore

    # ---- embeddings ----

    def create_embedding(self, input: str | list[str], model: str | None = None) -> CreateEmbeddingResponse:
        """Embeddings of texts, see `embed`."""
        found, count = self.embed([input] if isinstance(input, str) else input, return_count=True)
        return {
            "object": "list",
            "data": [{"object": "embedding", "embedding": each, "index": i} for i, each in enumerate(found)],
            "model": self.model_path if model is None else model,
            "usage": {"prompt_tokens": count, "total_tokens": count},
        }

    def embed(
        self, input: str | list[str], normalize: bool = False, truncate: bool = True, return_count: bool = False
    ) -> Any:
        """A vector of each text, a list of `n_embd` numbers; with pooling none one of each token.

        Args:
            normalize: divide by the Euclidean length.
            truncate: leave out what of a text is beyond `n_batch` tokens; otherwise that is an error.
            return_count: give also how many tokens there were.

        Raises:
            GGUFJaxError: the model was not made with `embedding=True`; a text has too many tokens, or none.
        """
        if not self._embedding or not self._embeds:
            raise EmbeddingOff("embed: expected a model made with embedding=True, found one without")
        texts = [input] if isinstance(input, str) else list(input)
        last = self.around[1]
        encoded = []
        for number, text in enumerate(texts):
            ids = self.tokenize(text.encode("utf-8", "replace"))
            if len(ids) > self.n_batch:
                if not truncate:
                    most = f"at most {self.n_batch} tokens (n_batch)"
                    raise GGUFError(f"input[{number}]: expected {most}, found {len(ids)}")
                ids = [*ids[: self.n_batch - len(last)], *last]
            encoded.append(ids)
        pooling = self._pooled()
        found = embeddings.embed(
            self.model,
            encoded,
            pooling=pooling,  # pyright: ignore
            normalize=normalize,
            batch_tokens=self.n_batch,
            precision=self._given["precision"],
        )
        vectors: Any = [each.tolist() for each in found]
        vectors = vectors[0] if isinstance(input, str) else vectors
        return (vectors, sum(map(len, encoded))) if return_count else vectors

    def _pooled(self) -> str:
        return self._pooling or embeddings.pooling_of(self.model.metadata) or "none"

    # ---- arithmetic that others call ----

    @staticmethod
    def logits_to_logprobs(logits: np.ndarray | list[Any], axis: int = -1) -> np.ndarray:
        """Log-probabilities of logits, float32."""
        return log_probs.log_softmax(np.asarray(logits), axis)

    @staticmethod
    def longest_token_prefix(a: Sequence[int], b: Sequence[int]) -> int:
        """How many tokens both begin with."""
        return common(a, b)


class EmbeddingOff(GGUFJaxError, RuntimeError):
    """Embeddings are asked of a model that was not made for them."""


_GENERATE_DEFAULTS: dict[str, Any] = dict(
    penalize_nl=True, tfs_z=1.0, mirostat_mode=0, logits_processor=None, stopping_criteria=None, grammar=None
)


def _biases(given: Mapping[Any, Any] | None) -> dict[int, float]:
    """Token ids, also as texts (as JSON has them), and numbers."""
    try:
        return {int(token): float(value) for token, value in (given or {}).items()}
    except (TypeError, ValueError):
        raise GGUFError(f"logit_bias: expected token ids and numbers, found {shown(given)}") from None


__all__ = ["GGMLType", "Llama"]

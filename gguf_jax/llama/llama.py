"""`Llama`: a GGUF file behind the interface of llama-cpp-python's class of that name."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

from gguf_jax import embeddings
from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.generation.request import common
from gguf_jax.llama import log_probs, options, pretrained
from gguf_jax.llama.chat import ChatAnswer
from gguf_jax.llama.checked import checked_seed
from gguf_jax.llama.completion import Asked, Prompt, Run
from gguf_jax.llama.grammar import LlamaGrammar
from gguf_jax.llama.processors import LogitsProcessorList, StoppingCriteriaList
from gguf_jax.llama.sequenced import Sequenced
from gguf_jax.llama.types import CreateCompletionResponse, CreateEmbeddingResponse


class Llama(Sequenced):
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
        draft_model: what guesses the tokens that follow: a `LlamaDraftModel`, or `PromptLookup` or `DraftModel` of
            `gguf_jax.generation`. Answers are the same with and without.
        tokenizer: in place of the file's.
        type_k, type_v: ids of the ggml types that keys and values are kept as: F32, F16, BF16, Q8_0 or Q4_0.
        spm_infill: put the suffix before the prefix where text is filled in.
        verbose: say on stderr what format conversations have, and what is reused.
        precision: of products and attention, see `ops.Precision`.

    Raises:
        GGUFError: there is no such file, or it is malformed.
        GGUFJaxError: an option is wrong.
    """

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
        asked = {name: value for name, value in locals().items() if name != "self"}
        return self.complete(**asked)

    def complete(
        self,
        prompt: Prompt,
        *,
        temperature: float = 0.8,
        stream: bool = False,
        seed: int | None = None,
        shown: Collection[int] = (),
        **asked: Any,
    ) -> CreateCompletionResponse | Iterator[CreateCompletionResponse]:
        """`create_completion`, with control tokens that are `shown` in its text."""
        self._seed = random.Random(self._seed).randint(0, 2**32) if seed is None else checked_seed(seed)
        names = Asked.__dataclass_fields__.keys() & asked.keys()
        drawing = {"temp": temperature} | {name: value for name, value in asked.items() if name not in names}
        # a stream's parameters are checked now as well, and not when its first chunk is asked for
        self._params(drawing)
        what = Asked(prompt, shown=frozenset(shown), drawing=drawing, **{name: asked[name] for name in names})
        run = Run(self, what)
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
        encoded = [self._to_embed(text, number, truncate) for number, text in enumerate(texts)]
        found = embeddings.embed(
            self.model,
            encoded,
            pooling=self._pooled(),  # pyright: ignore
            normalize=normalize,
            batch_tokens=self.n_batch,
            precision=self._given["precision"],
        )
        vectors: Any = [each.tolist() for each in found]
        vectors = vectors[0] if isinstance(input, str) else vectors
        return (vectors, sum(map(len, encoded))) if return_count else vectors

    def _to_embed(self, text: str, number: int, truncate: bool) -> list[int]:
        ids = self.tokenize(text.encode("utf-8", "replace"))
        if len(ids) <= self.n_batch:
            return ids
        if not truncate:
            most = f"at most {self.n_batch} tokens (n_batch)"
            raise GGUFError(f"input[{number}]: expected {most}, found {len(ids)}")
        last = self.around[1]  # what ends every text ends this one as well
        return [*ids[: self.n_batch - len(last)], *last]

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

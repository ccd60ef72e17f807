"""`Loaded`: a file as `Llama` holds it, and what does not change while it is used: options, tokens, sizes."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from gguf_jax import embeddings, gguf
from gguf_jax.api import load
from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.gguf.text import shown
from gguf_jax.llama import options
from gguf_jax.llama.chat import LlamaChatCompletionHandler
from gguf_jax.llama.chat_handlers import DEFAULT, handler_for
from gguf_jax.llama.context import Context
from gguf_jax.llama.drafts import AnyDraft, Guess, guess_of
from gguf_jax.llama.metadata_texts import metadata_texts
from gguf_jax.llama.state import BaseLlamaCache
from gguf_jax.llama.tokenizers import BaseLlamaTokenizer, LlamaTokenizer
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


class Loaded:
    """A model with its options, its tokens and its context. `Llama` says what the options mean."""

    def __init__(
        self,
        model_path: str | os.PathLike[str],
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
        draft_model: AnyDraft | None = None,
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
        self.model_path = os.fsdecode(model_path)
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
        self._guess: Guess | None = None
        if draft_model is not None and self._context is not None:
            self._guess = guess_of(draft_model, self._context)
        self.tokenizer_ = tokenizer or LlamaTokenizer(self)
        self.metadata = metadata_texts(self.model.metadata)
        if chat_handler is None:
            self.chat_format = chat_format or self._usual_format()
            if self._context is not None:
                self._handler = handler_for(self.chat_format, self.model.tokenizer)
            self.say(f"chat format: {self.chat_format}")

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
        return DEFAULT if self.model.tokenizer.chat_template is not None else "llama-2"

    def say(self, line: str) -> None:
        """Writes a line to stderr, if `verbose`."""
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
        return self.tokenizer_.detokenize(tokens, prev_tokens=prev_tokens, special=special)

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

    def _pooled(self) -> str:
        return self._pooling or embeddings.pooling_of(self.model.metadata) or "none"

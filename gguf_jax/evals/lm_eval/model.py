"""`GGUFLM`: a GGUF file as a model of lm_eval."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]  # an optional package
from lm_eval.utils import (  # pyright: ignore[reportMissingImports]
    get_rolling_token_windows,
    make_disjoint_window,
    simple_parse_args_string,
)
from tqdm import tqdm

from gguf_jax import gguf
from gguf_jax.api import load
from gguf_jax.bundled import bundled_model
from gguf_jax.errors import GGUFJaxError
from gguf_jax.evals.continuations import Pair, Score, scored_continuations
from gguf_jax.evals.lm_eval.requests import Generation, fitted, generation, parted, prompt_room, up_to_message
from gguf_jax.evals.windows import BATCH_TOKENS, bos_of
from gguf_jax.generation import Engine, pieces
from gguf_jax.generation.setting import DEFAULT_CONTEXT
from gguf_jax.gguf.text import shown
from gguf_jax.models import Decoder
from gguf_jax.nn.kv_cache import CacheType, cache_types
from gguf_jax.ops import Precision

log = logging.getLogger("lm_eval.gguf_jax")  # under lm_eval's, which decides what is shown and how

AUTO_BATCH = 8
"""Prompts answered at once for `batch_size=auto`."""

Answer = tuple[float, bool]
"""The log-probability of a continuation, in nats, and whether each of its tokens was the most likely one."""


class GGUFLM(TemplateLM):
    """A GGUF file as lm_eval sees a model; the arguments are those of `--model_args`, as `name=value,...`.

    Texts are encoded as the file's tokenizer does it: with BOS where it adds one and the text does not begin with it,
    never with EOS, and with control tokens that are written in the text. What does not fit the context is cut from the
    left, and how often is logged.

    Args:
        path: GGUF file, any shard of a split one; or a model; default: the bundled one.
        ctx_size: tokens that the model can look at; default: what it was trained for, at most `DEFAULT_CONTEXT`.
        precision: see `ops.Precision`.
        batch_size: prompts that are answered at once, or auto.
        max_batch_size: what auto stands for.
        batch_tokens: tokens that are scored at once, see `score_continuations`.
        max_gen_toks: longest answer, where a task does not say.
        cache_type: what keys and values are kept as while an answer is generated; default: as `gguf_jax.load`.
        seed: of drawn answers; each request has its own, so that repeats of one differ.
        enable_thinking: a variable of this name for the chat template.
        unused: what lm_eval passes to every model, `device` (JAX decides) and `trust_remote_code`.

    Raises:
        GGUFJaxError: the file cannot be read, has no usable tokenizer, or an argument is not known or out of range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Decoder | None = None,
        *,
        ctx_size: int | None = None,
        precision: Precision = "exact",
        batch_size: int | str = 1,
        max_batch_size: int = AUTO_BATCH,
        batch_tokens: int = BATCH_TOKENS,
        max_gen_toks: int = 256,
        cache_type: CacheType | None = None,
        seed: int = 1234,
        enable_thinking: bool | None = None,
        **unused: Any,
    ) -> None:
        super().__init__()
        if unknown := sorted(set(unused) - {"device", "trust_remote_code"}):
            known = GGUFLM.__init__.__kwdefaults__ or ()
            raise GGUFJaxError(f"model_args: expected path, {', '.join(known)}, found {shown(unknown[0])}")
        if precision not in get_args(Precision):
            raise GGUFJaxError(f"precision: expected one of {', '.join(get_args(Precision))}, found {shown(precision)}")
        if cache_type is not None:
            cache_types(cache_type)
        if isinstance(batch_size, str) and batch_size.isdecimal():  # as it comes from the command line
            batch_size = int(batch_size)
        at_once = max_batch_size if str(batch_size).split(":")[0] == "auto" else batch_size
        self.batch_size = _at_least(1, "batch_size", at_once, "auto or ")
        self.batch_tokens = _at_least(1, "batch_tokens", batch_tokens)
        self.max_gen_toks = _at_least(1, "max_gen_toks", max_gen_toks)
        self.seed = _at_least(0, "seed", seed)
        if ctx_size is not None:
            _at_least(2, "ctx_size", ctx_size)
        self.model = path if isinstance(path, Decoder) else _loaded(path)
        if self.model.tokenizer is None:
            raise GGUFJaxError("tokenizer: expected a model with a tokenizer, found none")
        self.tokenizer: Any = self.model.tokenizer
        self.tokenizer.eog_ids  # noqa: B018 - one that could not be made says so now, not after the tasks are there
        self.ctx_size = ctx_size or min(self.model.config.context_length, DEFAULT_CONTEXT)
        self.precision: Precision = precision
        self._cache_type = cache_type
        self._template = ""
        self._template_variables = {} if enable_thinking is None else {"enable_thinking": enable_thinking}

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Mapping[str, Any] | None = None) -> GGUFLM:
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None = None
    ) -> GGUFLM:
        """`arg_dict` comes first: lm_eval's command line passes a batch size and a device that nobody asked for."""
        given = {name: value for name, value in (additional_config or {}).items() if value is not None}
        return cls(**{**given, **arg_dict})

    @property
    def max_length(self) -> int:
        return self.ctx_size

    @property
    def eot_token_id(self) -> int | None:  # pyright: ignore[reportIncompatibleMethodOverride]  # a file may have none
        return self.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What an empty context stands for: BOS, else EOS."""
        found = self.tokenizer.eos_id if self.tokenizer.bos_id is None else self.tokenizer.bos_id
        if found is None:
            raise GGUFJaxError("tokenizer: expected a BOS or EOS token to stand for an empty context, found neither")
        return found

    def get_model_info(self) -> dict[str, Any]:
        """What lm_eval writes beside the results: the defaults that its own record of `model_args` lacks."""
        return {"ctx_size": self.ctx_size, "precision": self.precision}

    # Texts and tokens

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text; `add_special_tokens` is whether BOS stands before it."""
        ids = self.tokenizer.encode(string, add_special=False, parse_special=True)
        bos = bos_of(self.tokenizer) if add_special_tokens is None else self.tokenizer.bos_id
        if bos is None or add_special_tokens is False or (add_special_tokens is None and ids[:1] == [bos]):
            return ids
        return [bos, *ids]

    @property
    def tokenizer_name(self) -> str:
        """What lm_eval keeps rendered prompts under: all that a chat template writes depends on."""
        ids = self.tokenizer.bos_id, self.tokenizer.eos_id
        facts = self.tokenizer.chat_templates.get(self._template), self._template_variables
        facts += tuple(None if i is None else self.tokenizer.token_text(i) for i in ids)
        return f"{type(self).__name__}-{hashlib.sha256(repr(facts).encode('utf-8', 'replace')).hexdigest()[:16]}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that `--apply_chat_template` means: the default one, or one of the file's by name. It is
        the one that is used from then on.

        Raises:
            GGUFJaxError: there is none.
        """
        if chat_template is False or chat_template is None:
            return None
        name = chat_template if isinstance(chat_template, str) and chat_template != "default" else ""
        if name not in self.tokenizer.chat_templates:
            names = ", ".join(each or "default" for each in self.tokenizer.chat_templates) or "none"
            raise GGUFJaxError(f"chat template: expected one of the file's ({names}), found {shown(name or 'default')}")
        self._template = name
        return self.tokenizer.chat_templates[name]

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
        """The prompt for a conversation; without `add_generation_prompt` its last message is the beginning of the
        answer. A template that refuses the conversation is asked again without its system message."""
        try:
            return self._rendered(chat_history, add_generation_prompt)
        except GGUFJaxError as error:
            rest = [message for message in chat_history if message["role"] != "system"]
            if len(rest) == len(chat_history):
                raise
            log.warning("%s; trying without the system message", error)
            return self._rendered(rest, add_generation_prompt)

    def _rendered(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool) -> str:
        prompt = self.tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=add_generation_prompt,
            template=self._template or None,
            **self._template_variables,
        )
        return prompt if add_generation_prompt else up_to_message(prompt, messages[-1]["content"])

    # Scores

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """As `TemplateLM` does it. Where that leaves nothing to score, since the end of the context and the
        continuation are one token, that token is scored; nothing is left of a continuation that has no tokens."""
        context_ids, continuation_ids = super()._encode_pair(context, continuation)
        if continuation_ids:
            return context_ids, continuation_ids
        return parted(context_ids, self.tok_encode(context + continuation))

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], Sequence[int], Sequence[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[Answer]:
        """Of each request, its texts and the tokens of its context and continuation, as `_encode_pair` gives them. A
        continuation without tokens is certain."""
        found: dict[int, Answer] = {
            i: (0.0, True) for i, (_, _, continuation) in enumerate(requests) if not continuation
        }
        numbers = [i for i in range(len(requests)) if i not in found]
        pairs: list[Pair] = []
        cut = 0
        for texts, context, continuation in (requests[i] for i in numbers):
            whole = context or [self.prefix_token_id]
            try:
                kept = fitted(whole, continuation, self.ctx_size)
            except GGUFJaxError as error:
                raise GGUFJaxError(f"request {shown(texts[1])}: {error}") from error
            cut += len(kept) < len(whole)
            pairs.append((kept, continuation))
        self._say_cut(cut, len(requests))
        for at, score in self._scored(pairs, "Running loglikelihood requests", disable_tqdm):
            i = numbers[at]
            found[i] = _log_probability(score), bool(score.greedy.all())
            self.cache_hook.add_partial("loglikelihood", requests[i][0], found[i])
        return [found[i] for i in range(len(requests))]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each text after the prefix token, in windows as long as the context has room for, each
        token scored once. BOS is no token of a text. (lm_eval's `hf` scores the BOS that a tokenizer adds, after
        another one; with `add_bos_token=False` it does as we do.)"""
        texts = [request.args[0] for request in requests]
        pairs: list[Pair] = []
        owners: list[int] = []
        for owner, text in enumerate(texts):
            ids = self.tok_encode(text, add_special_tokens=False)
            windows = [*get_rolling_token_windows(ids, self.prefix_token_id, self.ctx_size, 1)]
            pairs += map(make_disjoint_window, windows)
            owners += [owner] * len(windows)
        totals, left = np.zeros(len(texts)), np.bincount(np.asarray(owners, int), minlength=len(texts))
        for i, score in self._scored(pairs, "Running loglikelihood_rolling requests", disable_tqdm):
            owner = owners[i]
            totals[owner] += _log_probability(score)
            left[owner] -= 1
            if not left[owner]:
                self.cache_hook.add_partial("loglikelihood_rolling", (texts[owner],), float(totals[owner]))
        return totals.tolist()

    def _scored(self, pairs: Sequence[Pair], title: str, disable_tqdm: bool) -> Iterator[tuple[int, Score]]:
        scores = scored_continuations(self.model, pairs, precision=self.precision, batch_tokens=self.batch_tokens)
        return iter(tqdm(scores, total=len(pairs), desc=title, disable=disable_tqdm))

    def _say_cut(self, cut: int, count: int) -> None:
        if cut:
            log.warning("%d of %d contexts were cut from the left to fit ctx_size=%d", cut, count, self.ctx_size)

    # Answers

    @cached_property
    def _engine(self) -> Engine:
        return Engine(self.model, ctx_size=self.ctx_size, cache_type=self._cache_type, precision=self.precision)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answer to each prompt, without what ended it: one of the request's texts, an end-of-generation token, or
        the text of EOS, which some models spell out. See `requests.generation`. The space before an answer's first
        word is part of it (with SentencePiece, lm_eval's `hf` drops it)."""
        prompts: list[list[int]] = []
        alike: dict[Generation, list[int]] = {}
        cut = 0
        for i, request in enumerate(requests):
            text, asked = request.args
            how = generation(asked, self.max_gen_toks)
            room = prompt_room(how.max_tokens, self.ctx_size)
            ids = self.tok_encode(text) or [self.prefix_token_id]
            cut += len(ids) > room
            prompts.append(ids[-room:])
            alike.setdefault(how, []).append(i)
        self._say_cut(cut, len(prompts))
        answers = [""] * len(prompts)
        with tqdm(total=len(prompts), desc="Running generate_until requests", disable=disable_tqdm) as bar:
            for how, members in alike.items():
                members.sort(key=lambda i: -len(prompts[i]))
                size = min(self.batch_size, len(members))
                for batch in (members[at : at + size] for at in range(0, len(members), size)):
                    for i, answer in zip(batch, self._answers(how, batch, prompts, size), strict=True):
                        answers[i] = answer
                        self.cache_hook.add_partial("generate_until", requests[i].args, answer)
                    bar.update(len(batch))
        return answers

    def _answers(self, how: Generation, batch: Sequence[int], prompts: Sequence[list[int]], size: int) -> list[str]:
        """Answers to the prompts whose numbers are in `batch`. The last one fills a batch of `size` up, for which the
        programs are compiled."""
        slots = [*batch, *[batch[-1]] * (size - len(batch))]
        params = [how.params if how.params.is_greedy else replace(how.params, seed=self.seed + i) for i in slots]
        answers = [""] * size
        end = self.tokenizer.eos_id
        stop = how.stop if end is None else (*how.stop, self.tokenizer.token_text(end))
        options: dict[str, Any] = dict(max_tokens=how.max_tokens, stop=stop)
        for piece in pieces(self._engine, self.tokenizer, [prompts[i] for i in slots], params, **options):
            answers[piece.index] += piece.text
        return answers[: len(batch)]


def _log_probability(score: Score) -> float:
    """Of a continuation, in nats; added up in float64."""
    return -float(score.nlls.sum(dtype=np.float64))


def _at_least(least: int, name: str, value: Any, instead: str = "") -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise GGUFJaxError(f"{name}: expected {instead}at least {least}, found {shown(value)}")
    return value


def _loaded(path: Any) -> Decoder:
    if path is not None and not isinstance(path, (str, os.PathLike)):
        raise GGUFJaxError(f"path: expected that of a GGUF file, found {shown(path)}")
    with gguf.read(bundled_model() if path is None else path) as file:
        total = sum(view.nbytes for view in file.tensors.values())
        with tqdm(total=total, desc="Loading", unit="B", unit_scale=True, delay=1.0) as bar:
            return load(file, on_tensor=lambda _, nbytes: bar.update(nbytes))

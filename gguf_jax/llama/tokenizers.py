"""Tokenizers as llama-cpp-python has them: bytes to ids and back."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gguf_jax.errors import Unsupported
from gguf_jax.tokenizers.from_file import tokenizer as tokenizer_of

if TYPE_CHECKING:
    from gguf_jax.llama.llama import Llama


class BaseLlamaTokenizer(abc.ABC):
    """What `Llama(tokenizer=...)` takes."""

    @abc.abstractmethod
    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        """The ids of a text in UTF-8.

        Args:
            add_bos: add what the file asks for at a text's beginning and end.
            special: recognise control tokens that are written in the text.
        """

    @abc.abstractmethod
    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """The text of ids; `special`: with the names of control tokens. `prev_tokens`: those that stand before."""


class LlamaTokenizer(BaseLlamaTokenizer):
    """The tokenizer of a file."""

    def __init__(self, llama: Llama | Any) -> None:
        self._tokenizer: Any = llama.model.tokenizer

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        """As the base class says. Bytes that are no UTF-8 count as U+FFFD."""
        return self._tokenizer.encode(text.decode("utf-8", "replace"), add_special=add_bos, parse_special=special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """As the base class says. A space at the beginning stays, unless BOS stands before it."""
        found = self._tokenizer.decode_bytes(tokens, skip_special=not special, at_start=False)
        begins = len(tokens) > 0 and tokens[0] == self._tokenizer.bos_id
        return found.removeprefix(b" ") if begins else found

    def encode(self, text: str, add_bos: bool = True, special: bool = True) -> list[int]:
        return self.tokenize(text.encode("utf-8", "ignore"), add_bos=add_bos, special=special)

    def decode(self, tokens: list[int]) -> str:
        return self.detokenize(tokens).decode("utf-8", "ignore")

    @classmethod
    def from_ggml_file(cls, path: str) -> LlamaTokenizer:
        """The tokenizer of a GGUF file, without its weights."""
        found = cls.__new__(cls)
        found._tokenizer = tokenizer_of(path)
        return found


class LlamaHFTokenizer(BaseLlamaTokenizer):
    """A tokenizer of the package transformers."""

    def __init__(self, hf_tokenizer: Any) -> None:
        self.hf_tokenizer = hf_tokenizer

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        """The ids; `special` says whether those that stand around a text are added, as llama-cpp-python has it."""
        return self.hf_tokenizer.encode(text.decode("utf-8", "ignore"), add_special_tokens=special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        before = list(prev_tokens or ())

        def text(ids: Sequence[int]) -> bytes:
            return self.hf_tokenizer.decode(ids, skip_special_tokens=not special).encode("utf-8", "ignore")

        return text([*before, *tokens])[len(text(before)) if before else 0 :]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str) -> LlamaHFTokenizer:
        try:
            from transformers import AutoTokenizer  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise Unsupported("LlamaHFTokenizer: expected the package transformers, found none") from error
        return cls(AutoTokenizer.from_pretrained(pretrained_model_name_or_path))

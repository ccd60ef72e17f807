"""llama-cpp-python's interface: `import gguf_jax.llama as llama_cpp`, or `from gguf_jax import Llama`."""

from typing import Any

from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.llama.chat import ChatFormatterResponse, Jinja2ChatFormatter, LlamaChatCompletionHandler
from gguf_jax.llama.context import ContextFull
from gguf_jax.llama.grammar import LlamaGrammar
from gguf_jax.llama.llama import LLAMA_DEFAULT_SEED, Llama
from gguf_jax.llama.processors import (
    LogitsProcessor,
    LogitsProcessorList,
    MinTokensLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)
from gguf_jax.llama.speculative import LlamaDraftModel, LlamaPromptLookupDecoding
from gguf_jax.llama.state import BaseLlamaCache, LlamaCache, LlamaDiskCache, LlamaRAMCache, LlamaState
from gguf_jax.llama.tokenizers import BaseLlamaTokenizer, LlamaHFTokenizer, LlamaTokenizer
from gguf_jax.llama.types import (
    CreateChatCompletionResponse,
    CreateChatCompletionStreamResponse,
    CreateCompletionResponse,
    CreateEmbeddingResponse,
)

_CONSTANTS = {
    "LLAMA_POOLING_TYPE": {"UNSPECIFIED": -1, "NONE": 0, "MEAN": 1, "CLS": 2, "LAST": 3, "RANK": 4},
    "LLAMA_ROPE_SCALING_TYPE": {"UNSPECIFIED": -1, "NONE": 0, "LINEAR": 1, "YARN": 2, "LONGROPE": 3},
    "LLAMA_SPLIT_MODE": {"NONE": 0, "LAYER": 1, "ROW": 2},
    "LLAMA_ATTENTION_TYPE": {"UNSPECIFIED": -1, "CAUSAL": 0, "NON_CAUSAL": 1},
    "GGML_TYPE": {type.name: int(type) for type in GGMLType},
}
"""The constants that options take, by what their names begin with."""


def __getattr__(name: str) -> Any:
    for prefix, values in _CONSTANTS.items():
        if name.startswith(f"{prefix}_") and (rest := name.removeprefix(f"{prefix}_")) in values:
            return values[rest]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "LLAMA_DEFAULT_SEED",
    "BaseLlamaCache",
    "BaseLlamaTokenizer",
    "ChatFormatterResponse",
    "ContextFull",
    "CreateChatCompletionResponse",
    "CreateChatCompletionStreamResponse",
    "CreateCompletionResponse",
    "CreateEmbeddingResponse",
    "Jinja2ChatFormatter",
    "Llama",
    "LlamaCache",
    "LlamaChatCompletionHandler",
    "LlamaDiskCache",
    "LlamaDraftModel",
    "LlamaGrammar",
    "LlamaHFTokenizer",
    "LlamaPromptLookupDecoding",
    "LlamaRAMCache",
    "LlamaState",
    "LlamaTokenizer",
    "LogitsProcessor",
    "LogitsProcessorList",
    "MinTokensLogitsProcessor",
    "StoppingCriteria",
    "StoppingCriteriaList",
]

"""llama-cpp-python's interface: `import gguf_jax.llama as llama_cpp`, or `from gguf_jax import Llama`.

Compared with version 0.3.36, whose answers the tests hold. What is otherwise, on purpose:

| what | there | here |
|---|---|---|
| `suffix` | token 0 stands around prompt and suffix | the file's tokens for that, or behind the answer, as documented |
| an empty prompt | BOS counts as a token of the answer | it does not |
| `logprobs` | need `logits_all=True` | only those of an echoed prompt do |
| stop strings that end with one token | the first of the list | the one that begins first |
| ids sent to `generate` | are dropped unless they are what would have been drawn | stand behind the last token |
| `sample` with penalties | have no effect | count the evaluated tokens |
| embeddings of several texts, token by token | the second's are read from within the first's | each text's own |
| a template of the file, and `tools` | answers are text | calls are found, and enforced where `tool_choice` says so |
| a text with a character that the vocabulary cannot spell | may end the process | is the unknown token |
| formats "intel" and "snoozy" | write no system message, or half of it | as their models were trained |
| `n_ctx` | rounded up to a multiple of 256 | as it is |
| what is drawn with a seed | by C++'s generator of random numbers | by JAX's |
| tail-free sampling, mirostat, images, "functionary" | ignored, or there | refused |
"""

from typing import Any

from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.llama.chat import ChatFormatterResponse, Jinja2ChatFormatter, LlamaChatCompletionHandler
from gguf_jax.llama.evaluated import ContextFull
from gguf_jax.llama.grammar import LlamaGrammar
from gguf_jax.llama.llama import Llama
from gguf_jax.llama.loaded import LLAMA_DEFAULT_SEED
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

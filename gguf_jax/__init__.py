"""GGUF files as flax parameter trees whose weights stay packed.

    import gguf_jax as gj
    model = gj.load("model.gguf")
    for piece in gj.generate(model, "Once upon a time", stream=True): ...
    f = gj.read("model.gguf")          # does not import JAX

Names are imported when they are first used, so that reading a file costs no import of JAX.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf_jax.api import load
    from gguf_jax.bundled import bundled_model
    from gguf_jax.checkpoint import save
    from gguf_jax.convert.export import export_folder
    from gguf_jax.convert.file import convert_folder
    from gguf_jax.convert.pretrained import from_pretrained
    from gguf_jax.embeddings import embed
    from gguf_jax.errors import GGUFError, GGUFJaxError, Unsupported
    from gguf_jax.evals.imatrix import collect_imatrix
    from gguf_jax.evals.kl_divergence import kl_divergence
    from gguf_jax.evals.multiple_choice import multiple_choice
    from gguf_jax.evals.perplexity import perplexity
    from gguf_jax.evals.sensitivity import sensitivity
    from gguf_jax.formats import FORMATS, BlockFormat, FileType, GGMLType
    from gguf_jax.generation import Completion, Engine, SamplingParams, generate
    from gguf_jax.gguf import GGUFFile, Metadata, TensorView, Typed, read, write
    from gguf_jax.llama import Llama, LlamaGrammar
    from gguf_jax.models import ARCHITECTURES, Decoder, DecoderConfig, Encoder, EncoderConfig
    from gguf_jax.nn import PackedParam
    from gguf_jax.quantization.array import QuantizationError, quantization_error, quantize
    from gguf_jax.quantization.file import quantize_file
    from gguf_jax.quantized_array import QuantizedArray
    from gguf_jax.tokenizers import Tokenizer
    from gguf_jax.tokenizers.from_file import tokenizer

_HOME = {
    "api": ["load"],
    "bundled": ["bundled_model"],
    "checkpoint": ["save"],
    "convert.export": ["export_folder"],
    "convert.file": ["convert_folder"],
    "convert.pretrained": ["from_pretrained"],
    "embeddings": ["embed"],
    "errors": ["GGUFError", "GGUFJaxError", "Unsupported"],
    "evals.imatrix": ["collect_imatrix"],
    "evals.kl_divergence": ["kl_divergence"],
    "evals.multiple_choice": ["multiple_choice"],
    "evals.perplexity": ["perplexity"],
    "evals.sensitivity": ["sensitivity"],
    "formats": ["FORMATS", "BlockFormat", "FileType", "GGMLType"],
    "generation": ["Completion", "Engine", "SamplingParams", "generate"],
    "gguf": ["GGUFFile", "Metadata", "TensorView", "Typed", "read", "write"],
    "llama": ["Llama", "LlamaGrammar"],
    "models": ["ARCHITECTURES", "Decoder", "DecoderConfig", "Encoder", "EncoderConfig"],
    "nn": ["PackedParam"],
    "quantization.file": ["quantize_file"],
    "quantization.array": ["QuantizationError", "quantization_error", "quantize"],
    "quantized_array": ["QuantizedArray"],
    "tokenizers": ["Tokenizer"],
    "tokenizers.from_file": ["tokenizer"],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [  # noqa: RUF022 - by subject, as the documentation has them
    "load", "from_pretrained", "save", "generate", "embed", "tokenizer", "bundled_model",
    "read", "write", "GGUFFile", "TensorView", "Metadata", "Typed",
    "QuantizedArray", "PackedParam", "GGMLType", "FileType", "BlockFormat", "FORMATS",
    "convert_folder", "export_folder", "quantize", "quantize_file", "quantization_error", "QuantizationError",
    "collect_imatrix", "perplexity", "kl_divergence", "sensitivity", "multiple_choice",
    "Decoder", "DecoderConfig", "Encoder", "EncoderConfig", "ARCHITECTURES",
    "Engine", "SamplingParams", "Completion", "Tokenizer", "Llama", "LlamaGrammar",
    "GGUFJaxError", "GGUFError", "Unsupported",
]  # fmt: skip


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # takes longer than everything else here

    try:
        return version("gguf_jax")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

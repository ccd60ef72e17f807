"""GGUF files: reading, writing, describing. Needs NumPy only; importing it does not import JAX."""

from gguf_jax.gguf.metadata import Metadata
from gguf_jax.gguf.reader import GGUFFile, read
from gguf_jax.gguf.string_array import StringArray
from gguf_jax.gguf.tensor_view import TensorView
from gguf_jax.gguf.value_type import ArrayOf, ValueType
from gguf_jax.gguf.values import Typed
from gguf_jax.gguf.writer import write

__all__ = ["ArrayOf", "GGUFFile", "Metadata", "StringArray", "TensorView", "Typed", "ValueType", "read", "write"]

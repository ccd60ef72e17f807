"""The records that a plan is made from and made of."""

from __future__ import annotations

from dataclasses import dataclass

from gguf_jax.formats import GGMLType


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of the input: `shape` in NumPy order, `[out, in]`, and the type it has."""

    name: str
    shape: tuple[int, ...]
    type: GGMLType


@dataclass(frozen=True)
class Options:
    """What llama-quantize's options of these names say.

    Attributes:
        pure: the file type's own type for every tensor that may be quantized.
        tensor_types: pattern and type; the first pattern that is found in a tensor's name decides. Like llama-quantize,
            file types of floats (F32, F16, BF16) do not ask them.
        prune_layers: layers to leave out; those behind them move up.
        copy: change no tensor, whatever the file type.
    """

    pure: bool = False
    output_tensor_type: GGMLType | None = None
    token_embedding_type: GGMLType | None = None
    leave_output_tensor: bool = False
    tensor_types: tuple[tuple[str, GGMLType], ...] = ()
    prune_layers: frozenset[int] = frozenset()
    allow_requantize: bool = False
    copy: bool = False


DEFAULTS = Options()


@dataclass(frozen=True)
class Step:
    """What becomes of one tensor.

    Attributes:
        source: its name in the input, and in an importance matrix.
        name: its name in the output, another one if layers before it are pruned.
        found, type: its type in the input and in the output; if they are equal, it is copied as it is.
        reason: for people: which rule, and what it falls back to.
        needs_imatrix: it is not to be made without importances.
    """

    source: str
    name: str
    shape: tuple[int, ...]
    found: GGMLType
    type: GGMLType
    reason: str
    needs_imatrix: bool

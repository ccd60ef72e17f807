"""`open_model`: a Hugging Face folder as the GGUF file that it would be, of which nothing is made until it is read.

Everything that takes an open GGUF file takes this: `gj.load` runs it, `quantize_file` writes it in any type.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import ml_dtypes
import numpy as np

from gguf_jax.convert.about import general_metadata
from gguf_jax.convert.config import Config
from gguf_jax.convert.encoders import pooling_metadata
from gguf_jax.convert.families import family_of
from gguf_jax.convert.family import BUFFERS, Family, Made, Names
from gguf_jax.convert.keys import MOST_BLOCKS
from gguf_jax.convert.rows import MXFP4, Array, Mapped, Rows
from gguf_jax.convert.safetensors import StoredTensor
from gguf_jax.convert.source import CONFIG, HFFolder, open_folder
from gguf_jax.convert.tokenizer import tokenizer_metadata
from gguf_jax.errors import GGUFError, GGUFJaxError, Unsupported
from gguf_jax.formats import GGMLType
from gguf_jax.gguf import GGUFFile, Metadata, TensorView
from gguf_jax.gguf.parse import DEFAULT_ALIGNMENT, MAX_NAME_BYTES
from gguf_jax.gguf.source import Source
from gguf_jax.gguf.text import listed, printable, shown

TYPES = {np.dtype("<f4"): GGMLType.F32, np.dtype("<f2"): GGMLType.F16, np.dtype(ml_dtypes.bfloat16): GGMLType.BF16}

ALWAYS_F32 = ("*_norm.weight", "*.ffn_gate_inp.weight", "*.ffn_gate_inp_shexp.weight", "position_embd.weight",
              "token_types.weight", "*.bias", "*attn_sinks.weight", "*.attn_rel_b.weight")  # fmt: skip
"""Tensors that are F32 in every file, as vectors are: what readers expect."""


@dataclass(eq=False)
class RowSource:
    """The bytes of a tensor that is made row by row, for `TensorView`."""

    name: str
    size: int
    tensor: Rows

    @property
    def row_bytes(self) -> int:
        return (self.tensor.shape[-1] if self.tensor.shape else 1) * self.tensor.dtype.itemsize

    def view(self, offset: int, nbytes: int) -> memoryview:
        if not nbytes:
            return memoryview(b"")
        row = self.row_bytes
        first, last = offset // row, -(-(offset + nbytes) // row)
        made = np.ascontiguousarray(self.tensor.rows(first, last)).view(np.uint8).reshape(-1)
        start = offset - first * row
        return made[start : start + nbytes].data.toreadonly()

    def release(self, offset: int, nbytes: int) -> None:
        self.tensor.release(offset // self.row_bytes, (offset + nbytes) // self.row_bytes)

    def close(self) -> None:
        pass  # the folder's files are closed by what opened them


@dataclass(eq=False)
class _Files:
    """Closes the folder's files with the file that they are made into."""

    folder: HFFolder

    name: str = "folder"
    size: int = 0

    def view(self, offset: int, nbytes: int) -> memoryview:
        return memoryview(b"")

    def release(self, offset: int, nbytes: int) -> None:
        pass

    def close(self) -> None:
        self.folder.close()


def open_model(
    path: str | os.PathLike[str],
    *,
    ignore: Sequence[str] = (),
    pre: str | None = None,
    name: str | None = None,
) -> GGUFFile:
    """Opens a Hugging Face folder as a GGUF file. Weights have the types they are stored in; vectors, norms and what
    else is F32 in every file is F32.

    Args:
        path: a folder with config.json, `.safetensors` and a tokenizer.
        ignore: patterns of tensors and of keys of config.json that are unknown and may be left out.
        pre: for `tokenizer.ggml.pre`, where tokenizer.json's own patterns are not known.
        name: for `general.name`.

    Raises:
        Unsupported: of a class of models that is not known.
        GGUFError: a file is malformed; a tensor is missing, unknown or of the wrong shape; a key is unknown.
    """
    folder = open_folder(path)
    try:
        return _opened(folder, ignore, pre, name)
    except GGUFJaxError as error:
        folder.close()
        named = printable(folder.path)
        raise error if str(error).startswith(named) else type(error)(f"{named}: {error}") from None
    except BaseException:
        folder.close()
        raise


def _opened(folder: HFFolder, ignore: Sequence[str], pre: str | None, name: str | None) -> GGUFFile:
    where = printable(folder.file(CONFIG))
    family = family_of(folder.config, where)
    config = Config(folder.config, family.defaults, where)
    quantized = config.section("quantization_config")
    if quantized and quantized.get("quant_method") not in family.quantized:
        raise Unsupported(
            f"{where}: quantization_config: expected a model that is not quantized, found {shown(quantized)}"
        )
    values = family.metadata(config) | pooling_metadata(folder)
    own = {f"{family.architecture}.{key}": value for key, value in values.items()}
    names = Names(family, family.transforms(config))
    tensors = made_tensors(folder, family, names, config, ignore)
    config.check_all_known(ignore)
    shapes = {name: logical(tensor) for name, tensor in tensors.items()}
    metadata = {
        "general.architecture": family.architecture,
        **general_metadata(folder, shapes, name),
        **own,
        **tokenizer_metadata(folder, _vocab_size(config, shapes), family.architecture, pre),
    }
    views = {name: _view(folder, name, tensor) for name, tensor in tensors.items()}
    check_against_architecture(folder, names, metadata, shapes)
    size = sum(view.nbytes for view in views.values())
    return GGUFFile(
        paths=(*folder.paths, folder.file(CONFIG)),
        version=3,
        byte_order="little",
        alignment=DEFAULT_ALIGNMENT,
        data_offset=0,
        metadata=Metadata(metadata),
        tensors=views,
        size=size,
        _sources=(_Files(folder),),
    )


def _vocab_size(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many tokens there are: as many as rows of the embedding, which a config.json may not go beyond."""
    rows = shapes.get("token_embd.weight", (0,))[0]
    config.integer("vocab_size", default=rows, high=rows)
    return rows


def made_tensors(
    folder: HFFolder, family: Family, names: Names, config: Config, ignore: Sequence[str]
) -> dict[str, Rows]:
    """GGUF name -> tensor.

    Raises:
        GGUFError: a tensor is unknown, of a type that is no weight's, or does not fit its transformation.
    """
    skip = (*BUFFERS, *family.skip)
    stored = {full_name(name, family): tensor for name, tensor in folder.tensors.items()}
    stored = {name: tensor for name, tensor in stored.items() if not any(fnmatchcase(name, p) for p in skip)}
    embedding = next(hf for hf, to in family.modules.items() if to == "token_embd") + ".weight"
    head = next((hf for hf, to in family.modules.items() if to == "output"), "lm_head") + ".weight"
    if head in stored and config.get("tie_word_embeddings", False):
        tied = stored.pop(head)  # one matrix, stored under either name or under both
        stored.setdefault(embedding, tied)
    stored = with_packed(folder, stored)
    stored = {name: tensor for name, tensor in stored.items() if not is_behind(name, config)}
    mades, unknown = names.made(list(stored))
    unknown = [name for name in unknown if not any(fnmatchcase(name, pattern) for pattern in ignore)]
    if unknown:
        raise GGUFError(
            f"{printable(folder.path)}: expected only tensors that {family.classes[0]} knows, found "
            f"{listed(unknown, 8)}; --ignore leaves out tensors and keys by name"
        )
    found: dict[str, Rows] = {}
    for made in mades:
        for name, tensor in zip(made.gguf, forward(folder, made, stored), strict=True):
            if name in found:
                raise GGUFError(f"{printable(folder.path)}: {made.hf[0]}: expected {name} to be made once, found twice")
            found[name] = tensor
    return found | {name: Array(values) for name, values in family.tensors(config).items()}


BLOCKS, SCALES, PACKED = "_blocks", "_scales", "_packed"


def with_packed(folder: HFFolder, stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor | MXFP4]:
    """MXFP4, of which transformers' files have blocks and scales apart, as one tensor `..._packed`."""
    found: dict[str, StoredTensor | MXFP4] = dict(stored)
    for name, blocks in stored.items():
        scales = stored.get(name.removesuffix(BLOCKS) + SCALES)
        if not name.endswith(BLOCKS) or scales is None:
            continue
        if blocks.shape != (*scales.shape, 16) or {blocks.dtype_name, scales.dtype_name} != {"U8"}:
            raise GGUFError(
                f"{printable(folder.path)}: {name}: expected U8 {[*scales.shape, 16]} as its scales have it, found "
                f"{blocks.dtype_name} {list(blocks.shape)}"
            )
        del found[name], found[scales.name]
        found[name.removesuffix(BLOCKS) + PACKED] = MXFP4(blocks, scales)
    return found


def is_behind(name: str, config: Config) -> bool:
    """Whether a tensor is of a block behind the model's, which predicts further tokens and is not part of the file."""
    if not config.found.get("num_nextn_predict_layers"):
        return False
    block = re.search(r"\.layers\.(\d{1,6})\.", name)
    return block is not None and int(block[1]) >= config.integer("num_hidden_layers", high=MOST_BLOCKS)


def full_name(name: str, family: Family) -> str:
    """A tensor's name in the class with a head: those of the bare model lack the prefix, those of a model with other
    parts beside its text have another."""
    for outer in ("model.language_model.", "language_model.model."):
        if name.startswith(outer):
            return family.prefix + name.removeprefix(outer)
    name = name.removeprefix("language_model.")
    heads = {hf.split(".")[0] for hf in family.modules}
    if name.split(".")[0] in heads or any(fnmatchcase(name, pattern) for pattern in family.skip):
        return name
    return family.prefix + name


def forward(folder: HFFolder, made: Made, stored: Mapping[str, StoredTensor | MXFP4]) -> list[Rows]:
    given = [stored[name] for name in made.hf]
    tensors = [tensor for tensor in given if isinstance(tensor, StoredTensor)]
    for tensor in tensors:
        if not tensor.shape:
            raise GGUFError(f"{tensor.source.name}: {tensor.name}: expected at least one dimension, found none")
        if tensor.dtype not in TYPES:
            raise GGUFError(
                f"{tensor.source.name}: {tensor.name}: expected F32, F16 or BF16, found {tensor.dtype_name}"
            )
    if len({tensor.dtype for tensor in tensors}) > 1:
        found = " and ".join(sorted({tensor.dtype_name for tensor in tensors}))
        raise GGUFError(f"{printable(folder.path)}: {made.hf[0]}: expected one type for {made.gguf[0]}, found {found}")
    try:
        return made.transform.forward(given)
    except ValueError as error:
        raise GGUFError(f"{printable(folder.path)}: {made.hf[0]}: {error}") from None


def _identity(values: np.ndarray) -> np.ndarray:
    return values


def is_f32(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) < 2 or any(fnmatchcase(name, pattern) for pattern in ALWAYS_F32)


def logical(tensor: Rows) -> tuple[int, ...]:
    """A tensor's shape in weights: of MXFP4's bytes, 32 for every 17."""
    *lead, columns = tensor.shape
    return (*lead, columns // 17 * 32) if tensor.dtype == np.uint8 else tensor.shape


def _view(folder: HFFolder, name: str, tensor: Rows) -> TensorView:
    if len(name.encode()) > MAX_NAME_BYTES:
        raise GGUFError(f"{printable(folder.path)}: {name}: expected a name of at most {MAX_NAME_BYTES} bytes")
    if is_f32(name, tensor.shape) and tensor.dtype in TYPES and tensor.dtype != np.float32:
        tensor = Mapped(tensor, _identity)
    nbytes = math.prod(tensor.shape) * tensor.dtype.itemsize
    kind, shape = TYPES.get(tensor.dtype, GGMLType.MXFP4), logical(tensor)
    if isinstance(tensor, StoredTensor):  # as it is, straight from the mapped file
        return TensorView(name, kind, shape, tensor.offset, nbytes, "little", tensor.source)
    source: Source = RowSource(printable(folder.path), nbytes, tensor)
    return TensorView(name, kind, shape, 0, nbytes, "little", source)


def check_against_architecture(
    folder: HFFolder, names: Names, metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """GGUFError unless the tensors are those of the architecture, in its shapes: what loading the file would say, in
    the names of the folder's tensors."""
    from flax import nnx  # imports JAX

    from gguf_jax.checkpoint import slots
    from gguf_jax.models import architecture_of, config_of

    plain = Metadata(metadata)
    config = config_of(plain, shapes)
    model = nnx.eval_shape(lambda: architecture_of(plain).model(config, rngs=None))
    expected = {name: shape for name, (_, _, shape) in slots(model)}
    where = printable(folder.path)
    missing = [names.sources(name) for name in expected if name not in shapes]
    if missing:
        raise GGUFError(f"{where}: expected the tensor {listed(missing, 8)}, found no such tensor")
    extra = [names.sources(name) for name in shapes if name not in expected]
    if extra:
        raise GGUFError(
            f"{where}: expected only tensors that a model of this config.json has, found {listed(extra, 8)}"
        )
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise GGUFError(
                f"{where}: {names.sources(name)}: expected the shape {list(shape)} (as {name}), "
                f"found {list(shapes[name])}"
            )


def stored_type(file: GGUFFile) -> str:
    """The type that most weights of an open model are stored in: F32, F16 or BF16."""
    sizes: dict[str, int] = {}
    for view in file.tensors.values():
        if len(view.shape) > 1 and not is_f32(view.name, view.shape):
            sizes[view.type.name] = sizes.get(view.type.name, 0) + view.n_elements
    return max(sizes, key=lambda name: sizes[name], default="F32")

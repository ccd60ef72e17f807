"""What a config of kind "models" may say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments.reader import Location, Reader
from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import FileType, GGMLType
from gguf_jax.quantization import recipe

VIEWS = ("types", "calibration", "precision")
PRECISIONS = ("exact", "fast")
BASES = ("base", "itself")


@dataclass(frozen=True)
class Text:
    """A file, or a part of it: from one share of its characters to another."""

    path: Location
    part: tuple[float, float]


@dataclass(frozen=True)
class Calibration:
    """An importance matrix that is collected here, on the base.

    Attributes:
        text: name of the text.
        chunks: how many windows of it, all if None.
        seed: they are drawn by this seed; None: the first ones.
    """

    text: str
    chunks: int | None
    seed: int | None


@dataclass(frozen=True)
class Recipe:
    """A file type with other types for some tensors, as `gguf-jax quantize --tensor-type` takes them."""

    file_type: str
    tensors: tuple[tuple[str, GGMLType], ...]


@dataclass(frozen=True)
class Settings:
    """
    Attributes:
        base: an F16 model; None: the bundled one, of which what is quantized is quantized again.
        types: names of file types, and of `recipes`, which are ones that the config makes up.
        without_imatrix: quantize without an importance matrix too.
        imatrices: by name: a file, or how one is collected.
        files: quantized by others, by file type: where one is equal to one of ours, that is said and nothing measured.
        texts: by name. measured: those of them that divergences are measured on.
        chunks: windows of `ctx_size` of each.
        precisions: of the quantized models; the base always is exact.
        bases: what models are compared with: the base, or the exact one of themselves.
        errors: compare tensors with the base's.
        weigh_by: the importance matrix that weighs their errors.
        heat_maps: file types to draw a heat map for.
        view: which tables and plots.
    """

    base: Location | None
    types: tuple[str, ...]
    recipes: dict[str, Recipe]
    without_imatrix: bool
    imatrices: dict[str, Location | Calibration]
    files: dict[str, Location]
    texts: dict[str, Text]
    measured: tuple[str, ...]
    ctx_size: int
    chunks: int
    precisions: tuple[str, ...]
    bases: tuple[str, ...]
    errors: bool
    weigh_by: str | None
    heat_maps: tuple[str, ...]
    view: str


def file_types() -> tuple[str, ...]:
    """All that can be written, each by one name."""
    found: dict[FileType, str] = {}
    for name in recipe.file_type_names():
        found.setdefault(recipe.file_type(name), name)
    return tuple(found.values())


def settings(reader: Reader) -> Settings:
    known = file_types()
    texts = {name: _text(table) for name, table in reader.tables("texts").items()}
    imatrices: dict[str, Location | Calibration] = {}
    for name, table in reader.tables("imatrices").items():
        imatrices |= _imatrices(name, table, texts)
    recipes = {name: _recipe(table, known) for name, table in reader.tables("recipes").items()}
    types = reader.choices("types", ("all", *known, *recipes))
    weigh_by = reader.choice("weigh_by", tuple(imatrices), None)
    return Settings(
        base=reader.path("base", None),
        types=(*known, *recipes) if "all" in types else types,
        recipes=recipes,
        without_imatrix=reader.take("without_imatrix", bool, True),
        imatrices=imatrices,
        files=_files(reader, known),
        texts=texts,
        measured=reader.choices("measured", tuple(texts)),
        ctx_size=_positive(reader, "ctx_size", 512),
        chunks=_positive(reader, "chunks"),
        precisions=reader.choices("precisions", PRECISIONS, ("exact",)),
        bases=reader.choices("against", BASES, ("base",)),
        errors=reader.take("errors", bool, weigh_by is not None),
        weigh_by=weigh_by,
        heat_maps=reader.choices("heat_maps", (*known, *recipes), ()),
        view=reader.choice("view", VIEWS),
    )


def _positive(reader: Reader, key: str, default: Any = ...) -> int:
    value = reader.take(key, int) if default is ... else reader.take(key, int, default)
    if value is not None and value < 1:
        raise reader.problem(key, "at least 1", value)
    return value


def _text(reader: Reader) -> Text:
    part = reader.several("part", float, (0.0, 1.0))
    if len(part) != 2 or not 0 <= part[0] < part[1] <= 1:
        raise reader.problem("part", "two shares of the text, from 0.0 to 1.0, the smaller one first", list(part))
    text = Text(reader.path("file"), (part[0], part[1]))
    reader.end()
    return text


def _recipe(reader: Reader, known: tuple[str, ...]) -> Recipe:
    file_type = reader.choice("file_type", known)
    try:
        tensors = tuple(recipe.tensor_type(text) for text in reader.several("tensors", str))
    except GGUFJaxError as error:
        raise GGUFJaxError(f"{reader.where}: tensors: {error}") from error
    reader.end()
    return Recipe(file_type, tensors)


def _imatrices(name: str, reader: Reader, texts: dict[str, Text]) -> dict[str, Location | Calibration]:
    """One for a file; for a text one for every number of chunks and every seed."""
    file = reader.path("file", None)
    if file is not None:
        reader.end()
        return {name: file}
    text = reader.choice("text", tuple(texts))
    chunks = reader.several("chunks", int, (None,))
    seeds = reader.several("seeds", int, (None,))
    reader.end()
    if any(n is not None and n < 1 for n in chunks):
        raise reader.problem("chunks", "at least 1", list(chunks))
    found: dict[str, Location | Calibration] = {}
    for n in chunks:
        for seed in seeds:
            label = name + ("" if n is None else f" {n}") + ("" if seed is None else f" #{seed}")
            found[label] = Calibration(text, n, seed)
    return found


def _files(reader: Reader, known: tuple[str, ...]) -> dict[str, Location]:
    table = reader.take("files", dict, {})
    inner = Reader(f"{reader.where}: files", table)
    found = {}
    for name in table:
        if name not in known:
            raise reader.problem("files", f"file types, such as {known[0]}", name)
        found[name] = inner.path(name)
    return found

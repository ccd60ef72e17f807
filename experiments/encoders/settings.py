"""What a config of kind "encoders" may say, and its cases."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.reader import Location, Reader
from gguf_jax.formats import FORMATS

IMPORTANCE = {"without": "plain", "with": "imatrix"}
"""How rows are encoded -> what the vectors call it."""


@dataclass(frozen=True)
class Settings:
    """
    Attributes:
        vectors: an .npz file.
        sets: of rows in it.
        plotted: the set whose errors are shown.
        types: of weights.
        expected: the least share of blocks that has to be equal.
    """

    vectors: Location
    sets: tuple[str, ...]
    plotted: str
    types: tuple[str, ...]
    expected: float


@dataclass(frozen=True)
class Case:
    """A type, encoded "with" importance or "without"."""

    type: str
    importance: str

    def __str__(self) -> str:
        return f"{self.type}, {self.importance} importance"


def settings(reader: Reader) -> Settings:
    known = tuple(form.name for form in FORMATS.values() if form.encode is not None and form.is_quantized)
    types = reader.choices("types", ("all", *known))
    sets = reader.several("sets", str)
    return Settings(
        vectors=reader.path("vectors"),
        sets=sets,
        plotted=reader.choice("plotted", sets),
        types=known if "all" in types else types,
        expected=reader.take("equal_blocks", float),
    )


def cases(settings: Settings) -> list[Case]:
    return [Case(type, importance) for type in settings.types for importance in IMPORTANCE]

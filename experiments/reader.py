"""Reading a config: every key is taken by somebody, of the type that it must have, and what nobody takes is refused."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import printable, shown

ROOT = Path(__file__).resolve().parent.parent
"""The repository, which paths in a config are relative to."""

VARIABLE = re.compile(r"\$\{(\w+)\}")
MISSING: Any = object()
NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}

T = TypeVar("T")


class Reader:
    """A table of a config. `take` takes a key out of it, `end` says that there should be no others.

    Every method raises GGUFJaxError where the config is not as it must be: one line with the file, the key, what was
    expected and what was found.
    """

    def __init__(self, where: str, table: dict[str, Any]) -> None:
        self.where, self._table, self._known = where, table, []

    @classmethod
    def open(cls, path: Path) -> Reader:
        where = printable(str(path))
        try:
            return cls(where, tomllib.loads(path.read_text("utf-8")))
        except OSError as error:
            raise GGUFJaxError(f"{where}: cannot be read: {error.strerror or error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise GGUFJaxError(f"{where}: expected TOML, found {printable(str(error))}") from error

    def problem(self, key: str, expected: str, found: object) -> GGUFJaxError:
        return GGUFJaxError(f"{self.where}: {key}: expected {expected}, found {shown(found)}")

    def take(self, key: str, kind: type[T], default: Any = MISSING) -> T:
        """The value of a key; without a default it has to be there."""
        self._known.append(key)
        value = self._table.get(key, MISSING)
        if value is MISSING:
            if default is MISSING:
                raise GGUFJaxError(f"{self.where}: {key}: expected {NAMES[kind]}, found no such key")
            return default
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise self.problem(key, NAMES[kind], value)
        return value

    def several(self, key: str, kind: type[T], default: Any = MISSING) -> tuple[T, ...]:
        """The values of a key: a list of them, or one alone."""
        value = self._table.get(key, MISSING)
        if type(value) is not list:
            one = self.take(key, kind, default)
            return one if one is default else (one,)  # pyright: ignore[reportReturnType]
        self._known.append(key)
        values = [float(each) if kind is float and type(each) is int else each for each in value]
        wrong = next((each for each in values if type(each) is not kind), MISSING)
        if wrong is not MISSING or not values:
            raise self.problem(key, f"{NAMES[kind]}, or a list of them", value if wrong is MISSING else wrong)
        return tuple(values)  # pyright: ignore[reportReturnType]

    def choices(self, key: str, known: Sequence[str], default: Any = MISSING) -> tuple[str, ...]:
        """As `several`, each of them one of `known`."""
        found = self.several(key, str, default)
        for each in found:
            if each not in known:
                raise self.problem(key, f"one of {', '.join(known)}", each)
        return found

    def choice(self, key: str, known: Sequence[str], default: Any = MISSING) -> str:
        value = self.take(key, str, default)
        if value is not default and value not in known:
            raise self.problem(key, f"one of {', '.join(known)}", value)
        return value

    def path(self, key: str, default: Any = MISSING) -> Location:
        value = self.take(key, str, default)
        return value if value is default else Location(f"{self.where}: {key}", value)  # pyright: ignore

    def tables(self, key: str) -> dict[str, Reader]:
        """The tables within a table, by name."""
        found = self.take(key, dict, {})
        for name, value in found.items():
            if type(value) is not dict:
                raise self.problem(f"{key}.{name}", NAMES[dict], value)
        return {name: Reader(f"{self.where}: {key}.{name}", value) for name, value in found.items()}

    def end(self) -> None:
        """Refuse the keys that nobody took."""
        unknown = [key for key in self._table if key not in self._known]
        if unknown:
            known = ", ".join(dict.fromkeys(self._known))
            raise GGUFJaxError(f"{self.where}: expected keys among {known}; found {shown(unknown[0])}")


class Location:
    """A path as a config has it. `resolve` says which file that is here, and needs the variables in it to be set; a
    report needs no file."""

    def __init__(self, where: str, written: str) -> None:
        self.where, self.written = where, written

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and self.written == other.written

    def __hash__(self) -> int:
        return hash(self.written)

    def resolve(self) -> Path:
        """
        Raises:
            GGUFJaxError: a variable is not set, or there is no such file.
        """
        for name in VARIABLE.findall(self.written):
            if not os.environ.get(name):
                raise GGUFJaxError(f"{self.where}: expected the environment variable {name} to be set for "
                                   f"{shown(self.written)}, found it unset")  # fmt: skip
        path = ROOT / VARIABLE.sub(lambda found: os.environ[found[1]], self.written)
        if not path.is_file():
            raise GGUFJaxError(f"{self.where}: expected a file, found none at {printable(self.written)}")
        return path

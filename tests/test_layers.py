"""Imports point downward only, and what reads files needs no JAX: see "Layers" in ARCHITECTURE.md."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the bottom up. A module may import its own unit, units in rows above this one, and units to the left in its row.
LAYERS = (
    ("errors", "bundled", "formats.ggml_type"),
    ("formats", "gguf"),
    ("quantized_array", "ops"),
    ("nn",),
    ("models",),
    ("tokenizers", "checkpoint", "adapters"),
    ("generation", "embeddings", "grammars", "chat"),
    ("quantization", "api", "convert", "bench", "evals", "llama"),
    ("server", "cli", "__main__"),
)
ORDER = [unit for row in LAYERS for unit in row]

# Below, and yet not to be imported: generation touches a tokenizer only through the object it is handed.
APART = {("generation", "tokenizers")}


def unit_of(module: str) -> str | None:
    """The unit that `gguf_jax.a.b` belongs to: the longest one that is a prefix of `a.b`."""
    name = module.removeprefix("gguf_jax").removeprefix(".")
    return max((u for u in ORDER if f"{name}.".startswith(f"{u}.")), key=len, default=None)


def imports(module: str, source: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full name of everything in gguf_jax that `source` imports, in functions too, type checking apart."""
    tree = ast.parse(source)
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = []
            if node.level:
                parts = module.split(".")
                base = parts[: len(parts) - node.level + is_package]
            base += [node.module] if node.module else []
            names = [".".join([*base, alias.name]) for alias in node.names]
        for name in names:
            if id(node) not in guarded and name.split(".")[0] == "gguf_jax":
                yield node.lineno, name


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    unit = unit_of(module)
    if unit is None:
        return [f"{module} is in no layer: add it to ARCHITECTURE.md and to LAYERS"]
    found = []
    for line, name in imports(module, source, is_package):
        target = unit_of(name) or "api"  # the package's own names are the public API
        if ORDER.index(target) > ORDER.index(unit) or (unit, target) in APART:
            found.append(f"{module}:{line} ({unit}) imports {name} ({target})")
    return found


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / "gguf_jax").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name != "gguf_jax":  # its names are resolved lazily: the subprocess below looks at what it loads
            yield name, path


def test_imports_point_downward():
    found = [
        violation
        for name, path in modules()
        for violation in violations(name, path.read_text("utf-8"), path.stem == "__init__")
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gguf_jax.gguf.reader", "from gguf_jax.ops import linear"),
        ("gguf_jax.gguf.reader", "import gguf_jax.models.config"),
        ("gguf_jax.gguf.reader", "def f():\n    from gguf_jax import checkpoint"),
        ("gguf_jax.gguf.reader", "if True:\n    from ..nn import linear"),
        ("gguf_jax.formats.bits", "from gguf_jax.gguf import read"),
        ("gguf_jax.formats.ggml_type", "from .block_format import BlockFormat"),
        ("gguf_jax.models.decoder", "from gguf_jax import load"),
        ("gguf_jax.generation.steps", "from gguf_jax.tokenizers import from_metadata"),
        ("gguf_jax.generation.steps", "if TYPE_CHECKING:\n    pass\nelse:\n    import gguf_jax.cli"),
        ("gguf_jax.not_in_a_layer", ""),
    ],
)
def test_a_planted_violation_is_found(module, source):
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gguf_jax.gguf.reader", "from gguf_jax.errors import GGUFError\nfrom gguf_jax.formats import FORMATS"),
        ("gguf_jax.gguf.reader", "from .writer import write\nfrom ..formats import ggml_type\nimport numpy"),
        ("gguf_jax.formats.q8_0", "from gguf_jax.formats.ggml_type import GGMLType"),
        ("gguf_jax.ops.linear", "from gguf_jax.quantized_array import QuantizedArray"),
        ("gguf_jax.nn.linear", "if TYPE_CHECKING:\n    from gguf_jax.models import Decoder"),
        ("gguf_jax.cli.main", "import gguf_jax\nfrom gguf_jax import __version__"),
    ],
)
def test_a_downward_import_is_allowed(module, source):
    assert violations(module, source) == []


def test_a_package_resolves_its_relative_imports_from_itself():
    assert list(imports("gguf_jax.ops", "from .linear import linear", is_package=True)) == [
        (1, "gguf_jax.ops.linear.linear")
    ]


def test_layers_are_those_of_the_architecture():
    rows = dict(re.findall(r"^(\d)  (.*)$", (ROOT / "ARCHITECTURE.md").read_text("utf-8"), re.MULTILINE))
    assert len(rows) == len(LAYERS)
    for number, row in enumerate(LAYERS):
        for unit in row:
            if unit != "__main__":
                assert re.search(rf"\b{unit.replace('.', '/')}\b", rows[str(number)]), unit


@pytest.mark.parametrize("module", ["gguf_jax", "gguf_jax.formats", "gguf_jax.gguf", "gguf_jax.tokenizers"])
def test_imports_without_jax(module):
    code = f"import sys, {module}; sys.exit(', '.join({{'jax', 'jaxlib', 'flax'}} & set(sys.modules)) or 0)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")

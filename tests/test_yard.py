"""What the repository promises about itself: commands, extras, size, paths, version."""

import importlib.metadata
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

import gguf_jax

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PAGES = ("README.md", "CONTRIBUTING.md", "Makefile", ".ci/run", ".github/workflows/ci.yml")


def pages() -> str:
    return "\n".join((ROOT / page).read_text("utf-8") for page in PAGES)


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files that git tracks."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout (an sdist, or no git): nothing says which files are tracked")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    paths = [ROOT / name.decode() for name in listed.split(b"\0") if name]
    return [path for path in paths if path.is_file()]  # one that is deleted and not yet committed is still listed


def test_every_make_command_in_the_pages_exists():
    readme = (ROOT / "README.md").read_text("utf-8")
    command = re.compile(r"(?:^[ $]*|`|run: )make ([a-z]+(?: [a-z]+)*)", re.MULTILINE)  # at a line's start, or quoted
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {"run", "test"} <= set(command.findall(readme))
    assert {target for targets_named in command.findall(pages()) for target in targets_named.split()} <= targets


def test_every_extra_in_the_pages_exists():
    extras = PYPROJECT["project"]["optional-dependencies"]
    pattern = r"(?:gguf[_-]jax|[\"' ]\.)\[([a-z,]+)\]|:= \[([a-z,]+)\]"
    requirements = "\n".join(requirement for extra in extras.values() for requirement in extra)
    found = re.findall(pattern, pages() + "\n" + requirements)
    named = {extra for groups in found for extra in ",".join(groups).split(",") if extra}
    assert {"test", "dev"} <= named <= set(extras)


def test_tracked_files_stay_small(tracked):
    assert sum(path.stat().st_size for path in tracked) < 40e6


def test_no_page_names_a_folder_of_one_machine(tracked):
    # The lookbehind keeps URLs and relative paths apart; the pattern must not match its own source.
    pattern = re.compile(rb"(?<![\w.~)}-])/(?:work|root)/")
    found = []
    for path in tracked:
        content = path.read_bytes()
        if b"\0" not in content:
            found += [f"{path.relative_to(ROOT)}: {match.group().decode()}" for match in pattern.finditer(content)]
    assert not found, "\n".join(found)


def test_changelog_has_the_version():
    assert f"## [{PYPROJECT['project']['version']}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_installed_version_is_that_of_pyproject():
    if not list(importlib.metadata.distributions(name="gguf_jax")):
        pytest.skip("run from a source tree that is not installed; `make test` installs it")
    assert gguf_jax.__version__ == PYPROJECT["project"]["version"]


def test_the_readmes_table_of_types_is_the_codes():
    from gguf_jax.formats import FORMATS

    readme = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| ([A-Z0-9_]+) \| (\d+) \| (\d+) \| (\d+) \| ([\d.]+) \|$", readme, re.MULTILINE)
    expected = [
        (type.name, str(int(type)), str(f.block_size), str(f.bytes_per_block), f"{f.bits_per_weight:g}")
        for type, f in FORMATS.items()
    ]
    assert rows == expected

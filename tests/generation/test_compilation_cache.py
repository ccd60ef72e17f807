"""The compilation cache: where it is, when it stays off, and that a second process compiles nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import compilation_cache

GENERATE = """
import json, jax, gguf_jax as gj
before = jax.config.jax_compilation_cache_dir
timings = gj.generate(gj.load(), "It was", max_tokens=3, temperature=0).timings
print(json.dumps([timings.compiled, before, jax.config.jax_compilation_cache_dir]))
"""


def environment(**variables):
    of_jax = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(of_jax)}
    return {**kept, **{name: str(value) for name, value in variables.items()}}


def generate(**variables):
    """Programs compiled, and the cache's folder before and after, of a process with these variables."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", GENERATE],
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture
def no_cache():
    """As if JAX had been told of none."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def unset(monkeypatch):
    monkeypatch.delenv("GGUF_JAX_COMPILATION_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return monkeypatch


def test_a_second_process_compiles_nothing_and_mends_what_a_killed_one_left(tmp_path):
    compiled, before, folder = generate(GGUF_JAX_COMPILATION_CACHE=tmp_path)
    assert compiled > 0
    assert before is None
    assert Path(folder).parent == tmp_path
    entries = sorted(Path(folder).glob("*-cache"))
    assert len(entries) >= compiled
    assert generate(GGUF_JAX_COMPILATION_CACHE=tmp_path)[0] == 0
    # as if killed while writing: half an entry, without its time
    entries[0].write_bytes(entries[0].read_bytes()[:10])
    entries[0].with_name(entries[0].name.removesuffix("-cache") + "-atime").unlink()
    assert generate(GGUF_JAX_COMPILATION_CACHE=tmp_path)[0] <= 1
    assert entries[0].stat().st_size > 10


def test_what_the_user_has_set_up_stays(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    _, before, after = generate(GGUF_JAX_COMPILATION_CACHE=ours, JAX_COMPILATION_CACHE_DIR=theirs)
    assert before == after == str(theirs)
    assert not ours.exists()


def test_it_is_in_the_users_cache_folder(unset, tmp_path):
    unset.setenv("HOME", str(tmp_path))
    assert compilation_cache.folder().parent == tmp_path / ".cache/gguf_jax/xla"
    unset.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert compilation_cache.folder().parent == tmp_path / "caches/gguf_jax/xla"


def test_it_can_be_switched_off():
    assert os.environ["GGUF_JAX_COMPILATION_CACHE"] == "off"
    assert compilation_cache.folder() is None
    assert compilation_cache.enable() is None


def test_a_home_that_cannot_be_written_is_done_without(unset, no_cache, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    unset.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compilation_cache.enable() is None
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize(("value", "message"), [("of", "expected off or an absolute path"), ("/dev/null/x", "written")])
def test_a_folder_that_was_named_and_cannot_be_had_is_an_error(monkeypatch, no_cache, value, message):
    monkeypatch.setenv("GGUF_JAX_COMPILATION_CACHE", value)
    with pytest.raises(GGUFJaxError, match=message):
        compilation_cache.enable()

"""The data file of the codebooks is what its tool makes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gguf_jax.formats import codebooks
from gguf_jax.formats.codebooks import codebook

ROOT = Path(__file__).resolve().parents[2]


def test_the_tool_makes_the_file_byte_for_byte(tmp_path):
    pytest.importorskip("gguf", reason="the development dependency gguf is not installed")
    command = [sys.executable, str(ROOT / "tools" / "make_codebooks.py"), str(tmp_path / "codebooks.npz")]
    subprocess.run(command, check=True)
    assert (tmp_path / "codebooks.npz").read_bytes() == Path(codebooks.__file__).with_suffix(".npz").read_bytes()


def test_a_codebook_is_loaded_once_and_cannot_be_written():
    table = codebook("iq1_s")
    assert codebook("iq1_s") is table
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 0


@pytest.mark.parametrize("name", ["iq1_s", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"])
def test_the_vectors_of_a_grid_differ(name):
    assert len(np.unique(codebook(name), axis=0)) == len(codebook(name))

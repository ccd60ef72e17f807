"""Exact: whole files are those of llama-quantize, byte for byte, for every file type and option, and nothing is written
where it refuses. Its digests are in reference.json (`make_reference`)."""

import hashlib
import json

import pytest

from gguf_jax.cli.app import app
from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf import read
from gguf_jax.ops.native.library import available
from gguf_jax.quantization import chunks
from gguf_jax.quantization.file import quantize_file
from tests.quantization.make_reference import CASES, REFERENCE, digests, make_inputs

DIGESTS = json.loads(REFERENCE.read_text())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    if not available():
        pytest.skip("the native library is not built, or is switched off; XLA would compile for minutes")
    folder = tmp_path_factory.mktemp("reference")
    make_inputs(folder)
    found = hashlib.sha256(b"".join((folder / f"{name}.gguf").read_bytes() for name in ("in", "m"))).hexdigest()
    assert found == DIGESTS["inputs"], "NumPy makes other random numbers: run tests.quantization.make_reference"
    return folder


@pytest.mark.parametrize("case", CASES)
def test_files_are_those_of_llama_quantize(inputs, case, monkeypatch):
    monkeypatch.chdir(inputs)
    expected = DIGESTS["outputs"][case]
    try:
        if expected:
            app(["quantize", *CASES[case], "--quiet"], standalone_mode=False)
        else:
            with pytest.raises(GGUFJaxError):
                app(["quantize", *CASES[case], "--quiet"], standalone_mode=False)
        assert digests(inputs) == expected
    finally:
        for path in inputs.glob("out*.gguf*"):
            path.unlink()


@pytest.mark.parametrize("file_type", ["Q4_K_M", "IQ3_XXS", "TQ2_0", "MXFP4_MOE"])
def test_chunks_and_workers_change_no_byte(inputs, tmp_path, file_type, monkeypatch):
    def made(workers):
        target = tmp_path / "out.gguf"
        quantize_file(inputs / "in.gguf", target, file_type, imatrix=inputs / "m.gguf", workers=workers, force=True)
        return target.read_bytes()

    expected = made(1)
    for weights, workers in ((256, 3), (7 * 256, 2), (1 << 30, 5)):
        monkeypatch.setattr(chunks.Task.chunks, "__defaults__", (weights,))
        assert made(workers) == expected


def test_the_bundled_model_is_what_this_program_makes_of_its_weights(shared, bundled, tmp_path):
    if not available():
        pytest.skip("the native library is not built, or is switched off")
    folder = shared / "models" / "prose-23m"
    quantize_file(folder / "prose-23m-F16.gguf", tmp_path / "out.gguf", "Q4_K_M")
    assert (tmp_path / "out.gguf").read_bytes() == bundled.read_bytes()
    matrix = shared / "imatrix" / "prose-23m.gguf"
    quantize_file(folder / "prose-23m-F16.gguf", tmp_path / "out.gguf", "IQ2_XS", imatrix=matrix, force=True)
    with read(tmp_path / "out.gguf") as ours, read(folder / "prose-23m-IQ2_XS.gguf") as theirs:
        assert list(ours.metadata) == list(theirs.metadata)
        assert list(ours.tensors) == list(theirs.tensors)
        for a, b in zip(ours.tensors.values(), theirs.tensors.values(), strict=True):
            assert (a.type, a.data) == (b.type, b.data)

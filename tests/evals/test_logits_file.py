"""Files of log-probabilities: their bytes, and what is hostile or damaged in one."""

import os
import struct

import numpy as np
import pytest

from gguf_jax.errors import GGUFError
from gguf_jax.evals import programs
from gguf_jax.evals.logits_file import LogitsFile, is_logits_file, logits_writer
from gguf_jax.evals.programs import Quantized
from gguf_jax.evals.windows import Windows
from gguf_jax.generation import steps
from tests.evals.reference import EPS
from tests.support import small_model

CTX, VOCAB, COUNT = 8, 5, 3
SCORED = CTX - 1 - CTX // 2
ROW = 2 * (4 + VOCAB + 1)
DATA = 20 + 4 * CTX * COUNT


def rows(seed):
    """One window's log-probabilities."""
    rng = np.random.default_rng(seed)
    scale = np.float32(rng.uniform(1e-5, 2e-4, SCORED))
    codes = rng.integers(0, 65536, (SCORED, VOCAB)).astype(np.uint16)
    return Quantized(codes, scale, np.float32(-65535 * scale - rng.uniform(0.1, 2, SCORED)))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "base.kld"
    windows = Windows.of(np.arange(CTX * COUNT + 3) % VOCAB, CTX)
    with logits_writer(path, windows, VOCAB) as writer:
        for i in range(COUNT):
            writer.window(rows(i))
    return path


def changed(path, at, data):
    found = bytearray(path.read_bytes())
    found[at : at + len(data)] = data
    path.write_bytes(found)


def test_exact_bytes(path):
    expected = b"_logits_" + struct.pack("<3i", CTX, VOCAB, COUNT)
    expected += (np.arange(CTX * COUNT) % VOCAB).astype("<i4").tobytes()
    for i in range(COUNT):
        for codes, scale, low in zip(*rows(i), strict=True):
            expected += struct.pack("<2f", scale, low) + codes.astype("<u2").tobytes() + b"\0\0"
    assert path.read_bytes() == expected


def test_property_read_as_written(path):
    assert is_logits_file(path)
    with LogitsFile(path) as file:
        assert (file.vocab_size, file.windows.ctx_size, len(file.windows)) == (VOCAB, CTX, COUNT)
        assert file.windows.tokens.tolist() == [i % VOCAB for i in range(CTX * COUNT)]
        for i in (2, 0, 1):
            for found, expected in zip(file.window(i), rows(i), strict=True):
                assert (found == expected).all()


def test_contract_codes_are_the_nearest(monkeypatch):
    """Of every logit within 16 of the best; the others have code 0."""
    model = small_model(stddev=2.0)
    spec, leaves = steps.split(model)
    hidden = np.float32(np.random.default_rng(0).standard_normal((6, 32)))
    logits = np.asarray(model.logits(hidden), np.float64)
    assert (logits.max(-1) - logits.min(-1) > 16).any()
    codes, scale, low = (np.asarray(each) for each in programs.quantized_log_probabilities(leaves, hidden, spec=spec))
    assert codes.dtype == np.uint16
    high = logits.max(-1, keepdims=True)
    log = logits - high - np.log(np.exp(logits - high).sum(-1, keepdims=True))
    kept = logits > high - 16
    found = scale[:, None].astype(np.float64) * codes + low[:, None]
    rounding = 32 * EPS * np.abs(logits).max()
    assert np.abs(found - log)[kept].max() < 0.5 * scale.max() + rounding
    assert (codes[~kept] == 0).all()
    assert codes.max() == 65535
    assert scale.max() <= 16 / 65535 * (1 + 4 * EPS)


def test_exact_codes_where_all_logits_are_the_same():
    model = small_model()
    spec, leaves = steps.split(model)
    codes, scale, low = programs.quantized_log_probabilities(leaves, np.zeros((1, 32), np.float32), spec=spec)
    assert (np.asarray(codes) == 0).all()
    assert float(scale[0]) == 0
    assert float(low[0]) == pytest.approx(-np.log(97), rel=4 * EPS)


FULL = DATA + COUNT * SCORED * ROW


@pytest.mark.parametrize("size", [FULL - 1, DATA + SCORED * ROW, DATA - 1, 20])
def test_a_file_that_was_cut_off(path, size):
    path.write_bytes(path.read_bytes()[:size])
    whole = max(0, size - DATA) // (SCORED * ROW)
    expected = f"expected {FULL} bytes, 3 windows of n_ctx 8 and n_vocab 5, found {size} bytes, {whole} whole windows"
    with pytest.raises(GGUFError) as error:
        LogitsFile(path)
    assert str(error.value) == f"{path}: {expected}"
    if whole:  # what is there can be asked for
        with LogitsFile(path, chunks=whole) as file:
            assert len(file.windows) == whole
            file.window(whole - 1)


@pytest.mark.parametrize("size", [0, 3, 8, 12, 19])
def test_less_than_a_header(path, size):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(GGUFError, match="magic: expected" if size < 8 else f"header: expected 20 bytes, found {size}"):
        LogitsFile(path)


@pytest.mark.parametrize(
    ("at", "data", "message"),
    [
        (0, b"GGUF", "magic: expected b'_logits_', found b'GGUFits_'"),
        (8, struct.pack("<i", 2), "n_ctx: expected at least 3, found 2"),
        (8, struct.pack("<i", -1), "n_ctx: expected at least 3, found -1"),
        (8, struct.pack("<i", 2**31 - 1), "expected .* bytes, 3 windows of n_ctx 2147483647 and n_vocab 5, found"),
        (12, struct.pack("<i", 0), "n_vocab: expected at least 1, found 0"),
        (12, struct.pack("<i", 2**31 - 1), "expected .* bytes, 3 windows of n_ctx 8 and n_vocab 2147483647, found"),
        (16, struct.pack("<i", -5), "n_chunk: expected at least 1, found -5"),
        (16, struct.pack("<i", 2**31 - 1), "expected .* bytes, 2147483647 windows of n_ctx 8"),
        (20, struct.pack("<i", 5), "tokens: expected ids from 0 to 4, found 5"),
        (20, struct.pack("<i", -7), "tokens: expected ids from 0 to 4, found -7"),
    ],
)
def test_hostile_headers_and_tokens(path, at, data, message):
    changed(path, at, data)
    with pytest.raises(GGUFError, match=message):
        LogitsFile(path)


@pytest.mark.parametrize(
    ("scale", "low"),
    [(np.nan, -1.0), (1e-4, np.nan), (np.inf, -1.0), (-1e-4, -1.0), (1e-4, np.inf), (1e30, -1.0), (1e-4, 3.0)],
)
def test_hostile_scales(path, scale, low):
    changed(path, DATA + SCORED * ROW + ROW, struct.pack("<2f", scale, low))
    with LogitsFile(path) as file:
        file.window(0)
        with pytest.raises(GGUFError, match="window 2, row 1: expected log-probabilities of at most 0, found"):
            file.window(1)


def test_a_file_that_shrinks_while_it_is_read(path):
    vocab = 2**16  # more than Python reads ahead
    with logits_writer(path, Windows.of(np.arange(CTX), CTX), vocab) as writer:
        writer.window(Quantized(np.zeros((SCORED, vocab), np.uint16), np.zeros(SCORED), -np.ones(SCORED)))
    with LogitsFile(path) as file:
        os.truncate(path, 20 + 4 * CTX + 100_000)
        with pytest.raises(GGUFError, match=f"window 1: expected {SCORED * (8 + 2 * vocab)} bytes, found 100000"):
            file.window(0)


def test_no_file(tmp_path):
    assert not is_logits_file(tmp_path / "absent")
    assert not is_logits_file(tmp_path)
    for path, reason in ((tmp_path / "absent", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(GGUFError, match=f"cannot be read: {reason}"):
            LogitsFile(path)


def test_windows_that_overlap_have_no_file(tmp_path):
    windows = Windows.of(np.arange(20), 8, stride=2)
    with pytest.raises(GGUFError, match="expected windows without a stride, found 2"), \
            logits_writer(tmp_path / "x", windows, 20):  # fmt: skip
        pass

"""`gguf-jax embed`, as a user runs it."""

import io
import json

import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.checkpoint import tensors_of
from gguf_jax.cli.app import app
from gguf_jax.embeddings import normalized, similarities
from gguf_jax.errors import GGUFJaxError
from tests.models.encoder_families import ENCODERS, small_encoder
from tests.tokenizers.vocabularies import metadata

TEXTS = ["the lamp", "a", "the stairs, the wind"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models of embeddings and of scores, with the tiny vocabulary."""
    folder = tmp_path_factory.mktemp("models")
    words = metadata("tiny_bert")
    for name, family in (("bert", "bert"), ("rank", "bert, two layers of scores")):
        config = ENCODERS[family].make(vocab_size=len(words["tokenizer.ggml.tokens"]))
        keys = ENCODERS[family].metadata(config) | words
        gj.write(folder / f"{name}.gguf", keys, tensors_of(small_encoder(config)))
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    def run(model, *arguments, stdin=""):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        app(["embed", str(folder / f"{model}.gguf"), *map(str, arguments)], standalone_mode=False)
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def expected(folder):
    return gj.embed(gj.load(folder / "bert.gguf"), TEXTS, normalize=False)


def test_table(run, expected):
    lines = run("bert", stdin="\n".join(TEXTS) + "\n").splitlines()
    for i, row in enumerate(normalized(expected)):
        assert lines[i] == f"embedding {i}: " + " ".join(f"{x:9.6f}" for x in row[:16])
    assert lines[3:7] == ["", "cosine similarity matrix:", "", "the la      a the st"]
    cosines = [[float(x) for x in line.split()[:3]] for line in lines[7:]]
    assert np.abs(similarities(expected) - cosines).max() <= 0.005 + 1e-6
    assert lines[9].endswith(" the stairs")
    alone = run("bert", "-p", TEXTS[0]).splitlines()
    assert alone == ["embedding 0: " + " ".join(f"{x:9.6f}" for x in normalized(expected)[0])]


def test_prompts_and_a_file_are_put_together(run, tmp_path, expected):
    (tmp_path / "texts").write_text(TEXTS[2] + "\n")
    made = run("bert", "-p", "the lamp\na", "-f", tmp_path / "texts", "--output-format", "raw", "--normalize", -1)
    found = [[float(x) for x in line.split()] for line in made.splitlines()]
    assert np.abs(np.array(found) - expected).max() <= 1e-7
    other = run("bert", "-p", "the lamp|a", "--embd-separator", "|", "--output-format", "raw", "--normalize", -1)
    assert other.splitlines() == made.splitlines()[:2]


def test_json(run, expected):
    found = json.loads(run("bert", *(x for text in TEXTS for x in ("-p", text)), "--output-format", "json+"))
    assert found["object"] == "list"
    assert [each["index"] for each in found["data"]] == [0, 1, 2]
    vectors = np.array([each["embedding"] for each in found["data"]])
    assert np.abs(vectors - normalized(expected)).max() <= 1e-7
    assert np.abs(np.array(found["cosineSimilarity"]) - similarities(expected)).max() <= 0.005 + 1e-6
    array = json.loads(run("bert", "-p", "a", "--output-format", "array", "--embd-normalize", 0))
    assert np.abs(np.array(array)[0]).max() == 32760
    assert all(x == int(x) for x in array[0])
    assert "cosineSimilarity" not in json.loads(run("bert", "-p", "a", "--output-format", "json"))


def test_npy(run, tmp_path, folder, expected):
    arguments = [x for text in TEXTS for x in ("-p", text)]
    assert run("bert", *arguments, "--output-format", "npy", "-o", tmp_path / "out.npy") == ""
    assert (np.load(tmp_path / "out.npy") == normalized(expected)).all()
    run("bert", *arguments, "--pooling", "none", "--output-format", "npy", "-o", tmp_path / "out.npy")
    states = gj.embed(gj.load(folder / "bert.gguf"), TEXTS, pooling="none")
    assert (np.load(tmp_path / "out.npy") == np.concatenate(states)).all()


def test_tokens(run):
    lines = run("bert", "-p", "a", "--pooling", "none").splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"embedding {i}: ") and " ...  " in line for i, line in enumerate(lines))


def test_scores(run, folder):
    lines = run("rank", "-p", "the lamp\ta", "-p", "a").splitlines()
    scores = gj.embed(gj.load(folder / "rank.gguf"), [("the lamp", "a"), "a"])
    assert lines == [f"rerank score {i}: {x:8.3f} [{j}]" for i, row in enumerate(scores) for j, x in enumerate(row)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output-format", "csv"], "--output-format: expected one of table, array, .* found 'csv'"),
        (["--output-format", "npy"], "--output: expected a file with --output-format npy, .* but it is missing"),
        (["-o", "x"], "--output: expected a file with --output-format npy, .* but the format is table"),
        (["--embd-normalize", -2], "--embd-normalize: expected -1 or above, found -2"),
        (["--embd-separator", ""], "expected at least one character, found none"),
        (["--pooling", "max"], "pooling: expected one of none, mean, cls, last, rank, found 'max'"),
        (["--pooling", "rank"], "pooling rank: expected a model with scores"),
        (["-p", "a " * 50], "text 1: expected at most 40 tokens, the model's context, found 52"),
        (["-f", "absent"], "--file absent: cannot be read"),
    ],
)
def test_errors(run, arguments, message):
    with pytest.raises(GGUFJaxError, match=message):
        run("bert", "-p", "a", *arguments)


def test_commands_for_decoders_say_what_they_found(folder, tmp_path):
    text = tmp_path / "text"
    text.write_text("the lamp on the stairs " * 40)
    model = str(folder / "bert.gguf")
    for command in (["run", model, "-p", "a"], ["perplexity", model, "-f", str(text), "-c", "32"]):
        with pytest.raises(GGUFJaxError, match=r"expected a decoder, which has logits, found an encoder \(bert\)"):
            app(command, standalone_mode=False)

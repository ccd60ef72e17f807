"""What llama-cpp-python 0.3.36 answers: ids, dicts, greedy texts, log-probabilities (tools/make_llama_goldens.py)."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.llama.chat_formats import CHAT_FORMATS, NOT_HERE
from tests.conftest import DATA
from tests.support import EPS

TOOL = Path(__file__).resolve().parents[2] / "tools" / "make_llama_goldens.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("make_llama_goldens", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(name):
    return json.loads((DATA / "llama" / f"{name}.json").read_text("utf-8"))


@pytest.fixture(scope="module", params=["stories260K", "prose-23m"])
def pair(request, shared, tool):
    """What was recorded, and a `Llama` to ask the same."""
    name = request.param
    golden = read(name)
    options = dict(precision="exact", n_batch=16, verbose=False, **golden["options"])
    llama = gj.Llama(str(shared / tool.MODELS[name][0]), logits_all=True, embedding=True, **options)
    llama.model_path = name
    yield golden, llama
    llama.close()


def noise(llama):
    """Twice the rounding of a logit: each of the layers' sums rounds as many times as its vectors are long, errors of
    either sign, relative to the largest logit; log-probabilities are differences of two."""
    config = llama.model.config
    products = config.block_count * (config.embedding_length + config.feed_forward_length)
    return 4 * EPS * np.sqrt(products) * np.abs(llama.scores).max()


def compare(expected, found, bound, where=""):
    """Equal but for floats, which differ by the noise of the scores at most."""
    if isinstance(expected, float) and isinstance(found, float):
        assert abs(expected - found) <= bound, where
    elif isinstance(expected, dict):
        assert expected.keys() == found.keys(), where
        for key in expected:
            compare(expected[key], found[key], bound, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(expected) == len(found), where
        for i, each in enumerate(expected):
            compare(each, found[i], bound, f"{where}[{i}]")
    else:
        assert expected == found, where


def test_exact_tokens_and_metadata(pair, tool):
    golden, llama = pair
    ids = [llama.tokenize(text.encode(), *flags) for text in tool.TEXTS for flags in tool.FLAGS]
    assert ids == golden["tokenize"]
    assert golden["detokenize"] == [[llama.detokenize(i, special=s).hex() for s in (False, True)] for i in ids]
    assert llama.metadata == golden["metadata"]
    assert {"bos": llama.token_bos(), "eos": llama.token_eos(), "nl": llama.token_nl()} == golden["tokens"]
    assert {name: getattr(llama, name)() for name in golden["sizes"]} == golden["sizes"]


def test_scores(pair):
    golden, llama = pair
    llama.reset()
    llama.eval(golden["tokenize"][4])
    compare(golden["scores"], llama.scores[:, :8].tolist(), noise(llama))


def test_exact_answers(pair, tool):
    golden, llama = pair
    for method in ("completions", "chats"):
        call = "create_completion" if method == "completions" else "create_chat_completion"
        for asked, expected in golden[method]:
            if llama.model_path == "prose-23m" and PLANS & asked.keys():
                continue  # one model is enough, for the time of compiling
            found = tool.answer(llama, call, asked)
            if asked.get("stream"):  # where a text is empty it may be left out
                expected, found = with_text(expected), with_text(found)
            compare(expected, found, noise(llama), str(asked))


PLANS = {"repeat_penalty", "frequency_penalty", "logit_bias", "top_k"}
"""What makes another program."""


def with_text(chunks):
    return [
        chunk
        for chunk in chunks
        if chunk["choices"][0].get("text") or chunk["choices"][0]["finish_reason"] or "delta" in chunk["choices"][0]
    ]


def test_embeddings(pair, tool):
    golden, llama = pair
    for text, expected in golden["embeddings"]:
        found = tool.without_chance(tool.shortened(llama.create_embedding(text)))
        compare(expected, found, noise(llama))


# Written otherwise on purpose: llama-cpp-python puts the name of a variable in place of the system message of "intel",
# and leaves out what stands before that of "snoozy".
RIGHTED = {"intel", "snoozy"}


def test_exact_chat_formats():
    golden = read("chat_formats")
    assert golden["formats"].keys() == CHAT_FORMATS.keys() | {n for n in NOT_HERE if not n.startswith("functionary")}
    for name, rows in golden["formats"].items():
        if name in NOT_HERE or name in RIGHTED:
            continue
        form = CHAT_FORMATS[name]
        for messages, row in zip(golden["conversations"], rows, strict=True):
            assert form.prompt(messages) == row["prompt"], name
            assert [form.stop] * (form.stop is not None) == row["stop"]


def test_formats_that_are_righted():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    assert CHAT_FORMATS["intel"].prompt(messages) == "### System:\nBe brief.\n### User:: Hi\n### Assistant::"
    assert CHAT_FORMATS["snoozy"].prompt(messages) == ("### Instruction:\nBe brief.\n### Prompt: Hi\n### Response:")

"""lm_eval's requests are answered as the model answers them; skipped where lm_eval is needed and not installed."""

import json
import logging
import random
import string
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.errors import GGUFJaxError
from gguf_jax.evals.continuations import score_continuations
from gguf_jax.evals.lm_eval import NAME, register, run, with_model
from gguf_jax.evals.lm_eval.requests import fitted, generation, parted, prompt_room, up_to_message
from gguf_jax.generation import Engine, SamplingParams
from gguf_jax.tokenizers import from_metadata
from tests.evals.reference import log_probabilities, noise
from tests.support import small_model

CONTEXT = 64
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system message here') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.mark.parametrize(
    ("asked", "stop", "max_tokens", "params"),
    [
        ({}, (), 9, SamplingParams(temperature=0, top_k=0, top_p=1, min_p=0, penalty_last_n=-1)),
        ({"until": "\n", "do_sample": False, "temperature": 0.7}, ("\n",), 9, dict(temperature=0)),
        ({"until": ["a", "", "b"], "max_gen_toks": 3, "max_tokens": 4}, ("a", "b"), 3, dict(temperature=0)),
        ({"temperature": 0.7, "max_new_tokens": 5}, (), 5, dict(temperature=0.7)),
        ({"do_sample": True}, (), 9, dict(temperature=1)),
        ({"do_sample": True, "temperature": 0.0, "top_k": -1}, (), 9, dict(temperature=0)),
        ({"do_sample": True, "top_k": 5, "top_p": 0.9, "until": None}, (), 9, dict(temperature=1, top_k=5, top_p=0.9)),
        ({"repetition_penalty": 1.2, "num_beams": 1}, (), 9, dict(temperature=0, repeat_penalty=1.2)),
    ],
)
def test_what_a_request_means(asked, stop, max_tokens, params):
    found = generation(asked, 9)
    if isinstance(params, dict):
        params = SamplingParams(**(dict(top_k=0, top_p=1, min_p=0, penalty_last_n=-1) | params))
    assert (found.stop, found.max_tokens, found.params) == (stop, max_tokens, params)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"beams": 4}, r"generation_kwargs: expected until, .*, found 'beams'"),
        ({"num_beams": 4}, "num_beams: expected 1, found 4"),
        ({"max_gen_toks": 0}, "max_gen_toks: expected at least 1 token, found 0"),
        ({"max_gen_toks": "many"}, "max_gen_toks: expected at least 1 token, found 'many'"),
        ({"until": [1]}, r"until: expected a text or a list of them, found \[1\]"),
        ({"do_sample": True, "top_p": 2}, "generation_kwargs: top_p: expected a number from 0 to 1, found 2"),
    ],
)
def test_a_request_that_means_nothing(asked, message):
    with pytest.raises(GGUFJaxError, match=message):
        generation(asked, 9)


def test_a_context_is_cut_to_what_the_model_can_look_at():
    context, continuation = list(range(10)), [20, 21, 22]
    for size in range(3, 20):
        kept = fitted(context, continuation, size)
        shown = [*kept, *continuation[:-1]]  # the last token is only predicted
        assert kept == context[len(context) - len(kept) :]
        assert len(shown) == min(size, 12)
    with pytest.raises(GGUFJaxError, match="continuation: expected at most ctx_size=2 tokens, found 3"):
        fitted(context, continuation, 2)
    assert prompt_room(5, 8) == 3
    with pytest.raises(GGUFJaxError, match="max_gen_toks: expected less than ctx_size=8, found 8"):
        prompt_room(8, 8)


@pytest.mark.parametrize(
    ("context", "whole", "same"),
    [([1, 2, 3], [1, 2, 9], 2), ([1, 2, 3], [1, 9], 1), ([1, 2], [1, 2], 2), ([1], [9], 0), ([1, 2], [1, 2, 3], 2)],
)
def test_where_a_continuation_begins_in_a_token_of_its_context(context, whole, same):
    assert parted(context, whole) == (whole[:same], whole[same:])


@pytest.mark.parametrize(
    ("prompt", "message", "expected"),
    [
        ("<a>so so</a>\n", "so", "<a>so so"),
        ("<a> so </a>", " so ", "<a> so "),
        ("<a>so</a>", " so ", "<a>so"),
    ],
)
def test_a_begun_answer_ends_the_prompt(prompt, message, expected):
    assert up_to_message(prompt, message) == expected


def test_a_template_that_changes_the_answer():
    with pytest.raises(GGUFJaxError, match="expected the last message in what it writes, found no 'so'"):
        up_to_message("<a>SO</a>", "so")


@pytest.mark.parametrize(
    ("arguments", "added"),
    [
        (["--tasks", "x"], True),
        (["run", "--tasks", "x", "--model_args", "path=a"], True),
        (["--model", "hf"], False),
        (["run", "--model=hf"], False),
        (["-M", "hf"], False),
        (["--config", "run.yaml"], False),
        (["ls", "tasks"], False),
        ([], False),
    ],
)
def test_the_model_that_is_meant(arguments, added):
    assert with_model(arguments) == [*arguments, *(["--model", NAME] if added else [])]


def test_without_lm_eval(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.models", None)
    with pytest.raises(GGUFJaxError, match=r"lm_eval: expected the package that the extra gguf_jax\[lm-eval\]"):
        run(["--tasks", "x"])


# With lm_eval


@pytest.fixture(scope="module")
def lm_eval():
    return pytest.importorskip("lm_eval", reason="the extra lm-eval, too big for every test run, is not installed")


def with_tokenizer(bundled, **metadata):
    """A small model that speaks the bundled model's tokens."""
    with gj.read(bundled) as file:
        tokenizer = from_metadata({**file.metadata, **metadata})
    model = small_model(vocab_size=tokenizer.vocab_size, context_length=CONTEXT)
    model.tokenizer = tokenizer
    return model


@pytest.fixture(scope="module")
def model(bundled):
    return with_tokenizer(bundled)


@pytest.fixture
def lm(lm_eval, model):
    from gguf_jax.evals.lm_eval.model import GGUFLM

    return GGUFLM(model, batch_size=3)


class Kept:
    """What lm_eval would write to its cache."""

    def __init__(self):
        self.found = {}

    def add_partial(self, kind, request, answer):
        self.found[kind, json.dumps(request)] = answer


def requests(*arguments):
    return [SimpleNamespace(args=each) for each in arguments]


def texts(count, longest, seed=0):
    rng = random.Random(seed)
    return ["".join(rng.choices(string.ascii_letters + "  .\n", k=rng.randint(1, longest))) for _ in range(count)]


def log_probability(model, context, continuation):
    """Of a continuation's tokens, float64, and whether each is the best."""
    logs = log_probabilities(model, [*context, *continuation])[len(context) - 1 : -1]
    return logs[np.arange(len(continuation)), continuation].sum(), (logs.argmax(-1) == continuation).all()


def test_contract_loglikelihood(lm, model):
    pairs = [*zip(texts(5, 30), texts(5, 20, seed=1), strict=True), ("", "Some words"), ("ends with spaces  ", "so")]
    lm.set_cache_hook(Kept())
    answers = lm.loglikelihood(requests(*pairs), disable_tqdm=True)
    bos, encode = model.tokenizer.bos_id, model.tokenizer.encode
    for (context, continuation), (found, greedy) in zip(pairs, answers, strict=True):
        whole, start = encode(context + continuation), len(encode(context.rstrip()))
        assert whole[0] == bos
        expected, best = log_probability(model, whole[:start], whole[start:])
        assert abs(found - expected) < noise(model) * len(whole[start:])
        assert greedy == best
        assert lm.cache_hook.found["loglikelihood", json.dumps((context, continuation))] == (found, greedy)


def test_contract_greedy_continuations_are_seen(lm, model):
    """What is the best after a context, and the same with its last token changed."""
    context = model.tokenizer.encode("It was a fine morning")
    best = []
    for _ in range(4):
        best.append(int(log_probabilities(model, context + best)[-1].argmax()))
    other = [*best[:-1], (best[-1] + 1) % model.config.vocab_size]
    answers = lm._loglikelihood_tokens([(("a", "b"), context, each) for each in (best, other)], disable_tqdm=True)
    assert [greedy for _, greedy in answers] == [True, False]
    assert answers[0][0] > answers[1][0]


def test_contract_a_continuation_in_the_last_token_of_its_context(lm, model):
    encode = model.tokenizer.encode
    pair = "It was a fine morn", "ing"
    whole = encode("".join(pair))
    assert len(whole) <= len(encode(pair[0]))  # lm_eval's own division leaves nothing
    same = next(i for i, (a, b) in enumerate(zip(encode(pair[0]), whole, strict=False)) if a != b)
    (found, greedy), nothing = lm.loglikelihood(requests(pair, ("It was", "")), disable_tqdm=True)
    expected, best = log_probability(model, whole[:same], whole[same:])
    assert abs(found - expected) < noise(model) * len(whole[same:])
    assert greedy == best
    assert nothing == (0.0, True)


def test_exact_long_contexts_are_cut_and_counted(lm, model, caplog):
    context = np.random.default_rng(0).integers(1, model.config.vocab_size, 3 * CONTEXT).tolist()
    logger = logging.getLogger("lm_eval.gguf_jax")
    logger.addHandler(caplog.handler)  # lm_eval's command line, where it has run, lets nothing through to the root
    try:
        long, short = lm._loglikelihood_tokens(
            [(("", ""), context, [5, 6, 7]), (("", ""), context[2 - CONTEXT :], [5, 6, 7])], disable_tqdm=True
        )
    finally:
        logger.removeHandler(caplog.handler)
    assert long == short
    assert f"1 of 2 contexts were cut from the left to fit ctx_size={CONTEXT}" in caplog.text


@pytest.mark.parametrize("length", [0, 1, CONTEXT, CONTEXT + 1, 2 * CONTEXT + 7])
def test_contract_rolling(lm, model, length):
    tokenizer = model.tokenizer
    text = tokenizer.decode(
        tokenizer.encode("it was a fine morning in April, and so " * 20, add_special=False)[:length]
    )
    ids = tokenizer.encode(text, add_special=False)
    assert len(ids) == length
    expected = 0.0
    for start in range(0, length, CONTEXT):
        block = ids[start : start + CONTEXT]
        # the last window looks back as far as there is room
        before = [tokenizer.bos_id, *ids][: start + 1][-(CONTEXT + 1 - len(block)) :]
        expected += log_probability(model, before, block)[0]
    lm.set_cache_hook(Kept())
    (found, other) = lm.loglikelihood_rolling(requests((text,), ("other",)), disable_tqdm=True)
    assert abs(found - expected) <= noise(model) * length
    kept = {("loglikelihood_rolling", json.dumps([t])): v for t, v in ((text, found), ("other", other)) if t}
    assert lm.cache_hook.found == kept


def test_exact_answers_are_those_of_generate(lm, model):
    """Whatever the order and the batches: five alike make two batches of three, one of them filled up."""
    prompts = texts(5, 60, seed=4)
    asked = {"until": ["e", " t"], "max_gen_toks": 6}
    lm.set_cache_hook(Kept())
    given = requests(*((prompt, asked) for prompt in prompts), (prompts[0], {"max_gen_toks": 9}))
    answers = lm.generate_until(given, disable_tqdm=True)
    engine = Engine(model, precision="exact")
    options = dict(temperature=0, engine=engine)
    alone = [gj.generate(model, prompt, max_tokens=6, stop=["e", " t"], **options) for prompt in prompts]
    alone.append(gj.generate(model, prompts[0], max_tokens=9, **options))
    assert answers == [str(each) for each in alone]
    for request, answer in zip(given, answers, strict=True):
        assert lm.cache_hook.found["generate_until", json.dumps(request.args)] == answer


def test_exact_a_long_prompt_is_cut_so_that_its_answer_fits(lm, model):
    prompt = "it was a fine morning in April, and so " * 20
    (found,) = lm.generate_until(requests((prompt, {"max_gen_toks": 10})), disable_tqdm=True)
    ids = model.tokenizer.encode(prompt)[-(CONTEXT - 10) :]
    engine = Engine(model, precision="exact")
    assert found == str(gj.generate(model, [ids], max_tokens=10, temperature=0, engine=engine)[0])


def test_property_drawn_answers_differ_and_come_again(lm):
    given = requests(*[("it was", {"do_sample": True, "max_gen_toks": 8})] * 4)
    first = lm.generate_until(given, disable_tqdm=True)
    assert len(set(first)) > 1
    assert lm.generate_until(given, disable_tqdm=True) == first


def test_bos_is_not_written_twice(lm, model):
    tokenizer = model.tokenizer
    bos = tokenizer.token_text(tokenizer.bos_id)
    assert lm.tok_encode("so") == lm.tok_encode(bos + "so") == tokenizer.encode("so")
    assert lm.tok_encode("so", add_special_tokens=False) == tokenizer.encode("so", add_special=False)
    assert lm.tok_encode(bos + "so", add_special_tokens=True)[:2] == [tokenizer.bos_id] * 2


def test_chat_templates(lm_eval, bundled):
    from gguf_jax.evals.lm_eval.model import GGUFLM

    more = {"tokenizer.chat_template": TEMPLATE, "tokenizer.chat_template.short": "{{ messages[-1].content }}|"}
    lm = GGUFLM(with_tokenizer(bundled, **more))
    system, user, begun = ({"role": role, "content": role[:2]} for role in ("system", "user", "assistant"))
    name = lm.tokenizer_name
    assert lm.chat_template(True) == TEMPLATE
    assert lm.apply_chat_template([user]) == "[user]us</>[assistant]"
    assert lm.apply_chat_template([system, user]) == "[user]us</>[assistant]"  # which the template refuses
    assert lm.apply_chat_template([user, begun], add_generation_prompt=False) == "[user]us</>[assistant]as"
    assert lm.tokenizer_name == name
    assert lm.chat_template("short") == more["tokenizer.chat_template.short"]
    assert lm.apply_chat_template([user]) == "us|"
    assert lm.tokenizer_name != name
    with pytest.raises(GGUFJaxError, match=r"expected one of the file's \(default, short\), found 'long'"):
        lm.chat_template("long")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("pretrained=x", "model_args: expected path, ctx_size, .*, found 'pretrained'"),
        ("path=absent.gguf", "absent.gguf: cannot be read"),
        ("path=5", "path: expected that of a GGUF file, found 5"),
        ("precision=sloppy", "precision: expected one of exact, fast, found 'sloppy'"),
        ("batch_size=many", "batch_size: expected auto or at least 1, found 'many'"),
        ("ctx_size=1", "ctx_size: expected at least 2, found 1"),
        ("max_gen_toks=0", "max_gen_toks: expected at least 1, found 0"),
        ("cache_type=q9", "cache_type: expected one of f32, "),
    ],
)
def test_wrong_arguments(lm_eval, arguments, message):
    from gguf_jax.evals.lm_eval.model import GGUFLM

    with pytest.raises(GGUFJaxError, match=message):
        GGUFLM.create_from_arg_string(arguments, {"batch_size": 4, "device": "cuda:0", "max_batch_size": None})


def test_arguments_that_lm_eval_adds(lm_eval, model):
    from gguf_jax.evals.lm_eval.model import GGUFLM

    more = {"batch_size": 4, "device": "cuda:0", "max_batch_size": None}
    assert GGUFLM.create_from_arg_obj({"path": model}, more).batch_size == 4
    assert GGUFLM.create_from_arg_obj({"path": model, "batch_size": 2}, more).batch_size == 2
    assert GGUFLM(model, batch_size="5").batch_size == 5
    assert GGUFLM(model, batch_size="auto:3", max_batch_size=6).batch_size == 6


def test_models_without_a_tokenizer(lm_eval):
    from gguf_jax.evals.lm_eval.model import GGUFLM

    with pytest.raises(GGUFJaxError, match="tokenizer: expected a model with a tokenizer, found none"):
        GGUFLM(small_model())


def test_a_task_by_the_registered_name(lm_eval, bundled, tmp_path):
    """Multiple choice from a file of one's own, as lm_eval counts it and as the scores say."""
    from lm_eval.tasks import TaskManager

    questions = [
        {"text": "Once upon a", "choices": [" the", " time there was", " of", " quickly"], "right": 1},
        {"text": "She shook her", "choices": [" head", " the", " was and", " of"], "right": 0},
        {"text": "It was raining, and so they took an", "choices": [" very", " the", " umbrella"], "right": 2},
        {"text": "Good morning, my", "choices": [" of the", " dear sir"], "right": 0},  # wrong on purpose
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)), "utf-8")
    task = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "questions.jsonl")}, "cache_dir": str(tmp_path)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{right}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "own.yaml").write_text(json.dumps(task), "utf-8")
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    register()
    register()  # as often as one likes
    found = lm_eval.simple_evaluate(
        NAME, f"path={bundled}", tasks=["own"], task_manager=tasks, batch_size=1, bootstrap_iters=0
    )
    model = gj.load(bundled)
    encode = model.tokenizer.encode
    pairs = []
    for question in questions:
        start = len(encode(question["text"]))
        whole = (encode(question["text"] + choice) for choice in question["choices"])
        pairs += [(ids[:start], ids[start:]) for ids in whole]
    scores = iter(score_continuations(model, pairs))  # in the order of lm_eval's requests, so in the same batches
    right = 0
    for question, sample in zip(questions, found["samples"]["own"], strict=True):
        logs = [-float(next(scores).nlls.sum(dtype=np.float64)) for _ in question["choices"]]
        assert [answer[0] for (answer,) in sample["resps"]] == logs
        right += int(np.argmax(logs)) == question["right"]
    assert found["results"]["own"]["acc,none"] == right / len(questions)
    assert found["config"]["ctx_size"] == model.config.context_length

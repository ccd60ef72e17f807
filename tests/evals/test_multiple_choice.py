"""Multiple choice equals its definition in float64, token by token; tasks are read from every kind of file, and what is
wrong with a file is one line that says where."""

import functools
import json
import math
import struct

import numpy as np
import pytest

from gguf_jax.errors import GGUFJaxError
from gguf_jax.evals.multiple_choice import drawn, multiple_choice, multiple_choices, wilson
from gguf_jax.evals.task_files import MAX_CHOICES, Task, TaskFile, cleaned, read_tasks
from tests.evals.reference import WordTokenizer, log_probabilities, noise
from tests.support import small_model

RNG = np.random.default_rng(11)


def words(n):
    return " ".join(map(str, RNG.integers(2, 97, n)))


def with_tokenizer(add_bos):
    model = small_model()
    model.tokenizer = WordTokenizer(add_bos)
    return model


@pytest.fixture(scope="module", params=[False, True], ids=["without BOS", "with BOS"])
def model(request):
    return with_tokenizer(request.param)


def mean_log(model, tokens, start, end):
    """Mean log-probability of the tokens from `start` to before `end`."""
    logs = log_probabilities(model, tokens[: end - 1])
    return math.fsum(logs[at - 1, tokens[at]] for at in range(start, end)) / (end - start)


def ids(model, text):
    return model.tokenizer.encode(text)


# Choices after a context --------------------------------------------------------------------------------------------

CHOICES = [
    Task(words(7) + " ", ("5 6 7", "5 9", "5 6 7 8 3", "11"), (1,)),
    Task(words(20) + " ", ("3", "4"), (0,)),
    Task(words(3) + " ", tuple(words(n) for n in (2, 9, 4)), (0, 2)),
    Task(words(3) + " ", ("8 8", "8 8 8", "8"), (0,)),  # each the beginning of the next
]


def test_contract_choices_equal_the_definition(model):
    found = multiple_choice(model, CHOICES, batch_tokens=64)
    assert [answer.task for answer in found.answers] == [0, 1, 2, 3]
    for task, answer in zip(CHOICES, found.answers, strict=True):
        sequences = [ids(model, text) for text in task.texts]
        shortest = min(map(len, sequences))
        same = [len({sequence[i] for sequence in sequences}) == 1 for i in range(shortest)]
        start = min(same.index(False) if False in same else shortest, shortest - 1)
        for sequence, score in zip(sequences, answer.scores, strict=True):
            assert abs(score - mean_log(model, sequence, start, len(sequence))) < noise(model)
        assert answer.chosen == int(np.argmax(answer.scores))
        assert answer.right == (answer.chosen in task.gold)


# What follows the choice: Winogrande --------------------------------------------------------------------------------


def definition_of_winogrande(model, task):
    """Scores as llama-perplexity's `winogrande_score` has them, but for the token that it takes from the wrong text."""
    a, b = (ids(model, text) for text in task.texts)
    common = next(i for i in range(min(len(a), len(b))) if a[i] != b[i])
    skip = len(a) - common > 3 and len(b) - common > 3
    scores = []
    for tokens, choice in zip((a, b), task.choices, strict=True):
        base = len(ids(model, task.context + choice)) if skip else common
        last = 1 if len(tokens) - base > 1 else 0
        scores.append(mean_log(model, tokens, max(1, base), len(tokens) - last))
    return scores


WINOGRANDE = {
    "long": Task("3 4 5 ", ("6", "7"), (0,), " 8 9 10 11"),
    "choices of two lengths": Task("3 4 5 ", ("6 6", "7"), (0,), " 8 9 10 11"),
    "short": Task("3 4 5 ", ("6", "7"), (1,), " 8 9"),
    "one token": Task("3 4 5 ", ("6", "7"), (1,), " 8"),
    "at the beginning": Task("", ("6", "7"), (1,), " 8 9 10"),
    "nothing behind": Task("3 4 ", ("6", "7"), (1,), ""),
}


@pytest.mark.parametrize("case", WINOGRANDE)
def test_contract_endings_equal_the_definition(model, case):
    task = WINOGRANDE[case]
    (answer,) = multiple_choice(model, [task]).answers
    expected = definition_of_winogrande(model, task)
    assert np.abs(np.array(answer.scores) - expected).max() < noise(model)
    assert answer.chosen == int(np.argmax(answer.scores))


def test_of_equal_scores(model):
    """The first choice, or the second where an ending is scored, as llama-perplexity has it."""
    model = with_tokenizer(True)
    same = dict(context="3 4 ", choices=("5 6", "5 6"), gold=(0,))
    first, second = multiple_choice(model, [Task(**same), Task(**same, ending=" 7")]).answers
    assert (first.scores[0], second.scores[0]) == (first.scores[1], second.scores[1])
    assert (first.chosen, second.chosen) == (0, 1)


# Many tasks ---------------------------------------------------------------------------------------------------------

MANY = [Task(words(n) + " ", (words(3), words(1), words(2)), (n % 3,)) for n in RNG.integers(1, 30, 40)]


def test_property_estimates_grow_to_the_result(model):
    found = list(multiple_choices(model, MANY, batch_tokens=128))
    done = [each.tasks for each in found]
    assert done == sorted(done)
    assert len(done) > 3
    assert [each.complete for each in found] == [False] * (len(found) - 1) + [True]
    last = found[-1]
    by_task = {answer.task: answer for answer in last.answers}
    for each in found:
        assert all(by_task[answer.task] == answer for answer in each.answers)
    right = [answer.right for answer in last.answers]
    p = sum(right) / 40
    eps = np.finfo(np.float64).eps
    assert last.accuracy.value == pytest.approx(p, rel=eps * 40)
    assert last.accuracy.stderr == pytest.approx(math.sqrt(p * (1 - p) / 39), rel=eps * 40)
    assert last.after_each_task()[-1] == last.accuracy.value
    assert last.after_each_task()[9] == sum(right[:10]) / 10


def test_property_a_task_is_answered_the_same_alone(model):
    together = multiple_choice(model, MANY, batch_tokens=256).answers
    for number in (0, 17, 39):
        (alone,) = multiple_choice(model, [MANY[number]]).answers
        assert np.abs(np.subtract(alone.scores, together[number].scores)).max() < 2 * noise(model)


def test_json_and_chance(model):
    found = multiple_choice(model, CHOICES)
    row = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (row["kind"], row["tasks"], row["tasks_planned"]) == ("multiple-choice", 4, 4)
    assert row["correct"] == sum(answer.right for answer in found.answers)
    assert row["chance"] == pytest.approx((1 / 4 + 1 / 2 + 2 / 3 + 1 / 3) / 4, rel=4 * np.finfo(np.float64).eps)
    assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"] or row["accuracy"] in (0, 1)


def test_exact_interval_of_llama_perplexity():
    """As it prints them: 23 of 100, 1 of 3, and 0 of 1."""
    assert [round(100 * bound, 4) for bound in wilson(0.23, 100)] == [15.8433, 32.1544]
    low, high = wilson(0.0, 1)
    assert (low, round(100 * high, 4)) == (0.0, 79.3451)
    assert [round(100 * bound, 4) for bound in wilson(1 / 3, 3)] == [6.1492, 79.2340]


def test_one_task_has_no_error_in_json(model):
    assert multiple_choice(model, CHOICES[:1]).as_dict()["accuracy_stderr"] is None


def test_errors(model):
    with pytest.raises(GGUFJaxError, match="tasks: expected tasks, found none"):
        multiple_choice(model, [])
    with pytest.raises(GGUFJaxError, match="tasks: expected at least 1, found 0"):
        multiple_choice(model, CHOICES, count=0)
    with pytest.raises(GGUFJaxError, match="model: expected one with a tokenizer, found none"):
        multiple_choice(small_model(), CHOICES)
    with pytest.raises(GGUFJaxError, match="tasks: task 2: expected at least 2 tokens in each text, found 1"):
        multiple_choice(with_tokenizer(False), [CHOICES[0], Task("", ("3", "4"), (0,))])


# Which tasks --------------------------------------------------------------------------------------------------------


def test_exact_draws():
    """What llama-perplexity, built with libstdc++, takes; of many, a checksum of the order."""

    def checksum(numbers):
        return functools.reduce(lambda sum, number: (sum * 31 + number) % 1000000007, numbers)

    assert drawn("hellaswag", 1000, 8) == [417, 997, 719, 931, 0, 128, 302, 999]
    assert drawn("winogrande", 1267, 8) == [528, 1262, 911, 1178, 0, 161, 381, 1258]
    assert checksum([0, *drawn("hellaswag", 3000, None)]) == 641760816
    assert checksum([0, *drawn("multiple-choice", 3000, 2999)]) == 565796954
    assert drawn("multiple-choice", 7, None) == list(range(7))
    assert drawn("winogrande", 7, 7) == list(range(7))


@pytest.mark.parametrize("kind", ["hellaswag", "winogrande", "multiple-choice"])
@pytest.mark.parametrize("count", [1, 12, 40, 50, None])
def test_property_draws_are_distinct(kind, count):
    found = drawn(kind, 40, count)
    assert len(found) == len(set(found)) == min(40, count or 40)
    assert set(found) <= set(range(40))


def test_a_file_is_used_in_the_order_of_the_draws(model):
    file = TaskFile("x", "hellaswag", tuple(MANY))
    found = multiple_choice(model, file, count=6)
    assert [answer.task for answer in found.answers] == drawn("hellaswag", 40, 6)
    assert [answer.gold for answer in found.answers] == [MANY[answer.task].gold for answer in found.answers]


# Files --------------------------------------------------------------------------------------------------------------


def in_file(folder, content):
    path = folder / "tasks"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


HELLASWAG = "Skiing: A man is on a hill. he\n1\nsings.\nskis.\nsinks.\nsits.\n"
CSV = "0,Sarah was a better surgeon than Maria so _ got the easier cases.,Sarah,Maria,2\n"


def test_exact_hellaswag_text(tmp_path):
    expected = Task("Skiing: A man is on a hill. he ", ("sings.", "skis.", "sinks.", "sits."), (1,))
    for text in (HELLASWAG, HELLASWAG.removesuffix("\n"), HELLASWAG.replace("\n", "\r\n")):
        found = read_tasks(in_file(tmp_path, text))
        assert (found.kind, found.tasks) == ("hellaswag", (expected,))
    assert expected.texts[1] == "Skiing: A man is on a hill. he skis."
    assert len(read_tasks(in_file(tmp_path, HELLASWAG * 3)).tasks) == 3


@pytest.mark.parametrize(
    ("line", "task"),
    [
        (CSV, Task("Sarah was a better surgeon than Maria so ", ("Sarah", "Maria"), (1,), " got the easier cases.")),
        ('7,"Well, _ said ""no"".",A,B,1', Task("Well, ", ("A", "B"), (0,), ' said "no".')),
        ('7,_ left,"Ann, the cook",B,2', Task("", ("Ann, the cook", "B"), (1,), " left")),
        ("index,sentence,option1,option2,answer\n\n7,a _,b,c,1\n", Task("a ", ("b", "c"), (0,), "")),
    ],
)
def test_exact_winogrande_csv(tmp_path, line, task):
    found = read_tasks(in_file(tmp_path, line))
    assert (found.kind, found.tasks) == ("winogrande", (task,))


def string(text):
    return struct.pack("<I", len(text.encode())) + text.encode()


def answers(texts, labels):
    return struct.pack("<I", len(texts)) + b"".join(map(string, texts)) + struct.pack(f"<{len(labels)}i", *labels)


def binary(*tasks):
    """Of encoded tasks, the file; the positions mean nothing to a reader that takes them all."""
    return struct.pack(f"<I{len(tasks)}I", len(tasks), *range(len(tasks))) + b"".join(tasks)


def test_exact_binary(tmp_path):
    several = string("Is it größer?") + answers(["no", "yes", "surely"], [0, 1, 1]) + answers(["x"], [0])
    single = string("q") + answers(["a", "b"], [1, 0]) + answers([], [])
    found = read_tasks(in_file(tmp_path, binary(several, single)))
    expected = Task("Is it größer? ", ("no", "yes", "surely"), (1, 2)), Task("q ", ("a", "b"), (0,))
    assert (found.kind, found.tasks) == ("multiple-choice", expected)


ROWS = {
    "hellaswag": (
        {"activity_label": "Skiing", "ctx": "A man [step] is up. he", "endings": ["a", " b", "c"], "label": "2"},
        Task("Skiing: A man is up. he ", ("a", "b", "c"), (2,)),
    ),
    "winogrande": (
        {"sentence": "He saw _ go.", "option1": "Al", "option2": "Bo", "answer": "2"},
        Task("He saw ", ("Al", "Bo"), (1,), " go."),
    ),
    "winogrande by options": (
        {"context_options": ["He saw Al", "He saw Bo"], "continuation": "go.", "gold": 1},
        Task("", ("He saw Al", "He saw Bo"), (1,), " go."),
    ),
    "question as query": (
        {"query": "Question: What is up?", "choices": ["a", "b"], "gold": 0},
        Task("Question: What is up?\nAnswer: ", ("a", "b"), (0,)),
    ),
    "query": ({"query": "It is", "choices": ["a", "b"], "gold": 1}, Task("It is ", ("a", "b"), (1,))),
    "ARC": (
        {"question": "Why?", "choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]}, "answerKey": "B"},
        Task("Question: Why?\nAnswer: ", ("x", "y", "z"), (1,)),
    ),
    "MMLU": (
        {"question": "Why?", "subject": "s", "choices": ["x", "y"], "answer": 1},
        Task("Question: Why?\nAnswer: ", ("x", "y"), (1,)),
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_exact_json_lines(tmp_path, case):
    row, expected = ROWS[case]
    text = json.dumps(row)
    assert read_tasks(in_file(tmp_path, f"{text}\n\n{text}\n")).tasks == (expected, expected)


def test_exact_marks_of_hellaswag():
    text = "[header] How to ski [title] Go up. [step] Take  a lift."
    assert cleaned(text) == "How to ski. Go up. Take a lift."
    assert cleaned("[title] Wait. [substeps] Go  ") == "Wait. Go"


def test_the_shared_files(shared):
    counts = {"arc_challenge": 1172, "hellaswag_val_1000": 1000, "winogrande": 1267}
    for name, count in counts.items():
        file = read_tasks(shared / "text" / "eval" / f"{name}.jsonl")
        assert len(file.tasks) == count
        assert all(max(task.gold) < len(task.choices) for task in file.tasks)


def changed(case, **changes):
    """A row with other fields, or without those that are None."""
    row = ROWS[case][0] | changes
    return json.dumps({key: value for key, value in row.items() if value is not None})


HUGE = struct.pack("<I", 2**31)
ERRORS = {
    "empty": ("", None, "expected tasks, found none"),
    "kind": (CSV, "x", "kind: expected one of hellaswag, winogrande, multiple-choice, found 'x'"),
    "not UTF-8": (b"caf\xe9\n1\n", None, "expected UTF-8 text, found an invalid byte at 3"),
    "lines": (HELLASWAG + "a\n", None, "expected 6 lines for each HellaSwag task, found 7 lines"),
    "label": (HELLASWAG.replace("1", "4"), None, "line 2: label: expected a number from 0 to 3, found '4'"),
    "later label": (HELLASWAG * 2 + HELLASWAG.replace("1", "x"), None, "line 14: label: expected a number from 0 to 3"),
    "no gap": ("0,a,b,c,1\n", None, "line 1: sentence: expected a _ in it, found 'a'"),
    "fields": (CSV + "0,a _,b,1\n", None, "line 2: expected index, sentence, two choices and an answer with commas"),
    "answer": (CSV.replace("2", "3"), None, "line 1: answer: expected a number from 1 to 2, found '3'"),
    "prose": ("It was a fine day.\nSo we went.\n", None, "line 1: expected index, sentence, two choices"),
    "text as binary": (CSV, "multiple-choice", "tasks: expected at most "),
    "too many tasks": (HUGE, None, "tasks: expected at most 0, which have room in the file, found 2147483648"),
    "cut": (binary(string("q") + answers(["a"], [1])), None, "task 1: expected 4 more bytes at 26, found 0"),
    "long string": (binary(HUGE), None, "task 1: question: expected at most 0, which have room in the file, found"),
    "many answers": (binary(string("q") + answers(["a"] * (MAX_CHOICES + 1), [1] * (MAX_CHOICES + 1))), None,
                     "task 1: answers: expected at most 100, found 101"),
    "no right one": (binary(string("q") + answers(["a"], [0]) + answers([], [])), None,
                     "task 1: labels: expected a right answer, found none"),
    "empty answer": (binary(string("q") + answers([""], [1]) + answers([], [])), None,
                     "task 1: expected a question and answers, found an empty one"),
    "bytes": (binary(struct.pack("<I", 1) + b"\xff" + bytes(8)), None,
              r"task 1: question: expected UTF-8, found b'\xff'"),
    "JSON": ('{"query": 1', None, "line 1: expected a JSON object, found"),
    "deep": ('{"a": ' + "[" * 100_000, None, "line 1: expected a JSON object, found"),
    "no object": (changed("query") + "\n[1]", None, "line 2: expected one of the fields endings, context_options, "),
    "other fields": ('{"text": "a"}', None, "question, found the fields text"),
    "two kinds": (changed("query") + "\n" + changed("hellaswag"), None,
                  "line 2: expected a multiple-choice task, found the field endings, which is of hellaswag"),
    "asked for another": (changed("query"), "hellaswag", "line 1: expected a hellaswag task, found the field query"),
    "no string": (changed("query", query=3), None, "line 1: query: expected a string, found 3"),
    "nothing": (changed("hellaswag", ctx=None), None, "line 1: ctx: expected a string, found None"),
    "surrogate": (changed("query", query="\ud800"), None, "line 1: query: expected characters, found half of one: "),
    "one choice": (changed("query", choices=["a"]), None, "line 1: choices: expected from 2 to 100 strings, found 1"),
    "no choices": (changed("query", choices=5), None, "line 1: choices: expected from 2 to 100 strings, found 5"),
    "choice": (changed("query", choices=["a", 1]), None, "line 1: choices[1]: expected a string, found 1"),
    "gold": (changed("query", gold=2), None, "line 1: gold: expected a number from 0 to 1, found 2"),
    "truth": (changed("query", gold=True), None, "line 1: gold: expected a number from 0 to 1, found True"),
    "fraction": (changed("MMLU", answer=0.5), None, "line 1: answer: expected a number from 0 to 1, found 0.5"),
    "negative": (changed("MMLU", answer=-1), None, "line 1: answer: expected a number from 0 to 1, found -1"),
    "labels": (changed("ARC", choices={"text": ["x", "y"], "label": ["A", "B", "C"]}), None,
               "line 1: choices: expected a label for each text, found 3 for 2"),
    "key": (changed("ARC", answerKey="E"), None, "line 1: answerKey: expected one of A, B, C, found 'E'"),
    "no text": (changed("ARC", choices={"label": ["A", "B"]}), None, "line 1: choices: text: expected from 2 to 100"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors_of_files(tmp_path, case):
    content, kind, message = ERRORS[case]
    path = in_file(tmp_path, content)
    with pytest.raises(GGUFJaxError) as error:
        read_tasks(path, kind)
    assert message in str(error.value)
    assert str(error.value).startswith("kind: " if case == "kind" else f"{path}: ")
    assert "\n" not in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(GGUFJaxError, match="absent: cannot be read: No such file or directory"):
        read_tasks(tmp_path / "absent")


@pytest.mark.parametrize("seed", range(3))
def test_property_damaged_binary_files_raise_or_are_read(tmp_path, seed):
    rng = np.random.default_rng(seed)
    whole = binary(*(string("question") + answers(["a", "bc"], [1, 0]) + answers(["d"], [1]) for _ in range(3)))
    outcomes = []
    for _ in range(200):
        data = np.frombuffer(whole, np.uint8).copy()
        data[rng.integers(0, len(data), 3)] = rng.integers(0, 256, 3)
        path = in_file(tmp_path, data[: rng.integers(1, 2 * len(data))].tobytes())
        try:
            outcomes.append(len(read_tasks(path, "multiple-choice").tasks))
        except GGUFJaxError as error:
            outcomes.append(str(error).count("\n"))  # none
    assert set(outcomes) == {0, 3}

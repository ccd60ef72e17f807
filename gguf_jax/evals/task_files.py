"""Reading files of multiple-choice tasks: those of llama-perplexity, and JSON lines as data sets have them.

llama-perplexity's own are HellaSwag as text (six lines a task: context, number of the right ending, four endings),
Winogrande as CSV (index, sentence with `_`, two words for it, 1 or 2) and a binary format for everything else. CSV is
read as CSV means it: doubled quotes are one, and words may be quoted, which llama-perplexity leaves as they are.

A file's kind says what it is scored as. In JSON lines it follows from the fields of a row (`ROWS`); otherwise from how
the file begins, unless the caller says it. Everything in a file is taken for hostile.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, get_args

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import listed, shown

Kind = Literal["hellaswag", "winogrande", "multiple-choice"]
KINDS: tuple[Kind, ...] = get_args(Kind)

MAX_CHOICES = 100
"""Choices of a task; llama-perplexity reads no more."""


@dataclass(frozen=True)
class Task:
    """A text with a gap, and what may fill it.

    Attributes:
        context: what comes before the gap, with the space that separates them.
        choices: what may stand there.
        gold: numbers of the right choices, counted from 0.
        ending: what comes after the gap and is scored in place of the choice, as in Winogrande; None: the choice is the
            end, and what is scored.
    """

    context: str
    choices: tuple[str, ...]
    gold: tuple[int, ...]
    ending: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The whole text with each of the choices."""
        return tuple(self.context + choice + (self.ending or "") for choice in self.choices)


@dataclass(frozen=True)
class TaskFile:
    """The tasks of a file, in its order."""

    name: str
    kind: Kind
    tasks: tuple[Task, ...]


def read_tasks(path: str | PathLike[str], kind: Kind | None = None) -> TaskFile:
    """The tasks of a file in any format.

    Args:
        kind: what the file is; None: what it looks like.

    Raises:
        GGUFJaxError: it cannot be read, has no tasks, or one of them is damaged; the message names the line or task.
    """
    name = fspath(path)
    if kind is not None and kind not in KINDS:
        raise GGUFJaxError(f"kind: expected one of {', '.join(KINDS)}, found {shown(kind)}")
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise GGUFJaxError(f"{name}: cannot be read: {error.strerror}") from error
    with _within(name):
        found, tasks = _read(data, kind)
        if not tasks:
            raise GGUFJaxError("expected tasks, found none")
    return TaskFile(name, found, tuple(tasks))


def _read(data: bytes, kind: Kind | None) -> tuple[Kind, list[Task]]:
    if re.match(rb'\s*\{\s*"', data):
        return _json_lines(_decoded(data), kind)
    if kind == "multiple-choice" or (kind is None and b"\0" in data[:4]):  # a count of less than 16 million
        return "multiple-choice", _binary(data)
    lines = [line.removesuffix("\r") for line in _decoded(data).removesuffix("\n").split("\n")]
    if lines == [""]:
        return kind or "hellaswag", []
    if kind == "hellaswag" or (kind is None and len(lines) > 1 and re.fullmatch(r"\s*\d\s*", lines[1])):
        return "hellaswag", _hellaswag_text(lines)
    return "winogrande", _winogrande_csv(lines)


def _hellaswag_text(lines: list[str]) -> list[Task]:
    if len(lines) % 6:
        raise GGUFJaxError(f"expected 6 lines for each HellaSwag task, found {len(lines)} lines")
    tasks = []
    for at in range(0, len(lines), 6):
        context, label, *endings = lines[at : at + 6]
        with _within(f"line {at + 2}"):
            gold = _index("label", label, len(endings))
        tasks.append(Task(context + " ", tuple(endings), (gold,)))
    return tasks


def _winogrande_csv(lines: list[str]) -> list[Task]:
    tasks = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        with _within(f"line {number}"):
            fields = [_unquoted(field) for field in re.findall(r'(?:^|,)((?:[^,"]|"[^"]*(?:"|$))*)', line)]
            if len(fields) != 5:
                raise GGUFJaxError(
                    f"expected index, sentence, two choices and an answer with commas between, found {shown(line)}"
                )
            _, sentence, *choices, answer = fields
            if number == 1 and answer.strip() == "answer":
                continue  # a heading
            tasks.append(_winogrande(sentence, choices, answer))
    return tasks


def _unquoted(field: str) -> str:
    quoted = len(field) > 1 and field[0] == field[-1] == '"'
    return field[1:-1].replace('""', '"') if quoted else field


def _winogrande(sentence: str, choices: list[str], answer: object) -> Task:
    before, gap, after = sentence.partition("_")
    if not gap:
        raise GGUFJaxError(f"sentence: expected a _ in it, found {shown(sentence)}")
    return Task(before, tuple(choices), (_index("answer", answer, 2, first=1),), after)


def _binary(data: bytes) -> list[Task]:
    """Little endian: how many tasks (uint32), where each begins, then each: question, answers of which one is right,
    answers of which several are, which llama-perplexity does not score and this leaves out. A string is its length
    (uint32) and UTF-8; answers are their number (uint32), so many strings, and so many int32, 1 for a right one."""
    reader = _Reader(data)
    count = reader.count("tasks", 4)
    reader.take(4 * count)  # tasks stand one after the other
    tasks = []
    for number in range(count):
        with _within(f"task {number + 1}"):
            question = reader.text("question")
            choices, gold = reader.answers()
            reader.answers()
            if not question or not all(choices):
                raise GGUFJaxError("expected a question and answers, found an empty one")
            if not gold:
                raise GGUFJaxError("labels: expected a right answer, found none")
            tasks.append(Task(question + " ", choices, gold))
    return tasks


class _Reader:
    """Bytes from the front on, none of them further than the data goes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = memoryview(data), 0

    def take(self, n: int) -> memoryview:
        left = len(self._data) - self._at
        if n > left:
            raise GGUFJaxError(f"expected {n} more bytes at {self._at}, found {left}")
        self._at += n
        return self._data[self._at - n : self._at]

    def count(self, what: str, least: int) -> int:
        """A number of things that take at least so many bytes each."""
        (count,) = struct.unpack("<I", self.take(4))
        left = len(self._data) - self._at
        if count > left // least:
            raise GGUFJaxError(f"{what}: expected at most {left // least}, which have room in the file, found {count}")
        return count

    def text(self, what: str) -> str:
        data = bytes(self.take(self.count(what, 1)))
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise GGUFJaxError(f"{what}: expected UTF-8, found {shown(data)}") from error

    def answers(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        count = self.count("answers", 8)
        if count > MAX_CHOICES:
            raise GGUFJaxError(f"answers: expected at most {MAX_CHOICES}, found {count}")
        texts = tuple(self.text("answer") for _ in range(count))
        labels = struct.unpack(f"<{count}i", self.take(4 * count))
        return texts, tuple(i for i, label in enumerate(labels) if label == 1)


Row = Mapping[str, Any]


def _json_lines(text: str, asked: Kind | None) -> tuple[Kind, list[Task]]:
    kind: Kind | None = None
    tasks = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        with _within(f"line {number}"):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise GGUFJaxError(f"expected a JSON object, found {shown(line)}") from error
            key = next((key for key in ROWS if isinstance(row, dict) and key in row), None)
            if key is None:
                what = f"the fields {listed(list(row))}" if isinstance(row, dict) else shown(row)
                raise GGUFJaxError(f"expected one of the fields {', '.join(ROWS)}, found {what}")
            found, read = ROWS[key]
            kind = kind or asked or found
            if found != kind:
                raise GGUFJaxError(f"expected a {kind} task, found the field {key}, which is of {found}")
            tasks.append(read(row))
    return kind or "multiple-choice", tasks


def _hellaswag_row(row: Row) -> Task:
    """As the text file for llama-perplexity was made of HellaSwag."""
    endings = tuple(map(cleaned, _choices(row, "endings")))
    context = f"{cleaned(_text(row, 'activity_label'))}: {cleaned(_text(row, 'ctx'))} "
    return Task(context, endings, (_index("label", row.get("label"), len(endings)),))


_MARKS = (("[header]", ""), ("[step]", ""), ("[substeps]", ""), (" [title]", ". "), ("[title] ", ""), ("[title].", ""),
          ("  ", " "))  # fmt: skip
"""What WikiHow left in HellaSwag, and what the text file has instead; one after the other."""


def cleaned(text: str) -> str:
    """A field of HellaSwag without the marks of where it is from."""
    for mark, instead in _MARKS:
        text = text.replace(mark, instead)
    return text.removeprefix(" ").removesuffix(" ")


def _winogrande_row(row: Row) -> Task:
    choices = [_text(row, "option1"), _text(row, "option2")]
    return _winogrande(_text(row, "sentence"), choices, row.get("answer"))


def _options_row(row: Row) -> Task:
    options = _choices(row, "context_options")
    return Task("", options, (_index("gold", row.get("gold"), len(options)),), " " + _text(row, "continuation"))


def _query_row(row: Row) -> Task:
    choices = _choices(row, "choices")
    query = _text(row, "query")
    asked = query.startswith("Question: ") and not query.endswith("Answer:")
    context = f"{query}\nAnswer: " if asked else f"{query} "
    return Task(context, choices, (_index("gold", row.get("gold"), len(choices)),))


def _question_row(row: Row) -> Task:
    """`choices` with `label` and `text`, and the label that is right as `answerKey` (ARC); or a list, and the number of
    the right one as `answer` (MMLU)."""
    choices = row.get("choices")
    context = f"Question: {_text(row, 'question')}\nAnswer: "
    if not isinstance(choices, dict):
        texts = _choices(row, "choices")
        return Task(context, texts, (_index("answer", row.get("answer"), len(texts)),))
    with _within("choices"):
        texts, labels = _choices(choices, "text"), _choices(choices, "label")
    if len(texts) != len(labels):
        raise GGUFJaxError(f"choices: expected a label for each text, found {len(labels)} for {len(texts)}")
    key = _text(row, "answerKey")
    if key not in labels:
        raise GGUFJaxError(f"answerKey: expected one of {listed(labels)}, found {shown(key)}")
    return Task(context, texts, (labels.index(key),))


ROWS: dict[str, tuple[Kind, Callable[[Row], Task]]] = {
    "endings": ("hellaswag", _hellaswag_row),
    "context_options": ("winogrande", _options_row),
    "sentence": ("winogrande", _winogrande_row),
    "query": ("multiple-choice", _query_row),
    "question": ("multiple-choice", _question_row),
}
"""A field by which a row of JSON lines is known -> what it is, and how it is read."""


def _text(row: Row, key: str) -> str:
    return _checked(key, row.get(key))


def _checked(what: str, text: object) -> str:
    if not isinstance(text, str):
        raise GGUFJaxError(f"{what}: expected a string, found {shown(text)}")
    if re.search(r"[\ud800-\udfff]", text):
        raise GGUFJaxError(f"{what}: expected characters, found half of one: {shown(text)}")
    return text


def _choices(row: Row, key: str) -> tuple[str, ...]:
    texts = row.get(key)
    if not isinstance(texts, list) or not 2 <= len(texts) <= MAX_CHOICES:
        found = f"{len(texts)}" if isinstance(texts, list) else shown(texts)
        raise GGUFJaxError(f"{key}: expected from 2 to {MAX_CHOICES} strings, found {found}")
    return tuple(_checked(f"{key}[{i}]", text) for i, text in enumerate(texts))


def _index(what: str, value: object, count: int, *, first: int = 0) -> int:
    """From 0 on, the number of one of `count` choices that a file counts from `first`, in digits or as a number."""
    text = value.strip() if isinstance(value, str) else repr(value)
    if not re.fullmatch("[0-9]{1,3}", text) or not 0 <= int(text) - first < count:
        raise GGUFJaxError(f"{what}: expected a number from {first} to {first + count - 1}, found {shown(value)}")
    return int(text) - first


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GGUFJaxError(f"expected UTF-8 text, found an invalid byte at {error.start}") from error


@contextmanager
def _within(where: str) -> Iterator[None]:
    """Within, an error is about some part of the file."""
    try:
        yield
    except GGUFJaxError as error:
        raise GGUFJaxError(f"{where}: {error}") from error

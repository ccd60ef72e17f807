"""Forms of calls: what one writes it reads, wherever a stream is cut; what is none stays text; grammars enforce it."""

import json

import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax import grammars
from gguf_jax.chat import FORMS, Arguments, Call, CallBegun, Thought, Tool
from gguf_jax.chat.enforced import grammar
from gguf_jax.chat.harmony import Harmony
from gguf_jax.chat.reader import FormReader
from gguf_jax.chat.tools import joined

TOOLS = [
    Tool(
        "say",
        "Says something.",
        {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "mood": {"$ref": "#/$defs/mood"},
                "times": {"type": "integer", "minimum": 0, "maximum": 99},
                "to": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["text"],
            "$defs": {"mood": {"enum": ["glad", "sad"]}},
        },
    ),
    Tool("look.around"),
]
CALLS = [
    Call("say", '{"text": "a \\"b\\" {\\n} <c> é", "mood": "glad", "times": 3, "to": ["x", "}"]}', "abcdefghi"),
    Call("look.around", "{}", "012345678"),
    Call("say", '{"text": "", "times": 0}', "ABCdef012"),
]
TRIGGERED = [name for name, form in FORMS.items() if form.trigger]


def gathered(reader, parts):
    """Texts, thoughts and calls of an answer that comes in parts, as few as can be."""
    events = joined([event for part in parts for event in reader.put(part)] + reader.flush())
    return [(each.name, json.loads(each.arguments)) if isinstance(each, Call) else each for each in events]


def read(form, *parts, **options):
    return gathered(FormReader(form, TOOLS, **options), parts)


EXPECTED = [(call.name, json.loads(call.arguments)) for call in CALLS]


@pytest.mark.parametrize("name", FORMS)
def test_what_a_form_writes_it_reads(name):
    form = FORMS[name]
    assert read(form, form.write(CALLS)) == EXPECTED
    assert read(form, form.write(CALLS[:1])) == EXPECTED[:1]
    assert read(form, "\n " + form.write(CALLS[1:2]) + " \n") == EXPECTED[1:2]


@pytest.mark.parametrize("name", FORMS)
def test_a_stream_may_be_cut_anywhere(name):
    form = FORMS[name]
    before = "Well, <b> [x]\n" if form.trigger else ""
    half = form.end[: len(form.end) // 2]
    for after in ("", " \n", " and that is all. ", form.opening[:4], form.opening + " ...", half):
        text = before + form.write(CALLS) + after
        whole = read(form, text)
        assert whole[bool(before) :][:3] == EXPECTED
        assert read(form, *text) == whole
        if after == half:
            assert all(read(form, text[:i], text[i:]) == whole for i in range(1, len(text)))


@pytest.mark.parametrize("name", FORMS)
def test_what_is_no_call_stays_text(name):
    form = FORMS[name]
    good = form.write(CALLS[1:2])
    texts = [
        "Nothing to see here < [ { }",
        good.replace("look.around", "unknown"),
        good.replace("{}", "{") if "{}" in good else form.trigger,
        form.write(CALLS[:1]).partition('"x"')[0],
        form.trigger * 3,
        "[" * 20000,
        form.begin + form.opening + '{"a":' * 20000,
    ]
    if '"arguments"' in form.call:
        texts += [good.replace("{}", "[1]"), good.replace("{}", "NaN"), good.replace("{}", '"{"')]
    for text in texts:
        found = read(form, text)
        assert "".join(each for each in found if isinstance(each, str)) == text, text[:80]
        assert read(form, *text[:300], text[300:]) == found


@pytest.mark.parametrize("name", TRIGGERED)
def test_a_good_call_before_a_bad_one_counts(name):
    form = FORMS[name]
    text = form.write([CALLS[0], Call("unknown", "{}", "abcdefghi")])
    found = read(form, text)
    assert found[0] == EXPECTED[0]
    assert "unknown" in found[1]


@pytest.mark.parametrize("name", FORMS)
def test_thoughts_are_text(name):
    form = FORMS[name]
    thought = f"\n{form.write(CALLS[:1])}\n</think>"
    good = form.write(CALLS[1:2])
    for text, thinking in ((f"<think>{thought}\n\n{good}", False), (f"{thought}\n{good}", True)):
        whole = read(form, text, thinking=thinking)
        assert [len(whole), whole[1]] == [2, EXPECTED[1]]
        assert whole[0] == text[: text.index("</think>") + 8]
        assert all(read(form, text[:i], text[i:], thinking=thinking) == whole for i in range(1, len(text)))


@pytest.mark.parametrize("name", [None, *FORMS])
def test_thoughts_are_told_apart(name):
    form = FORMS[name] if name else None
    good, call = ("", []) if form is None else (form.write(CALLS[1:2]), EXPECTED[1:2])
    inner = "Let me <b>see</b>.\n\nYes </thin" + (good if form else "")
    cases = {
        f"<think>\n{inner}\n</think>\n\nHello\n": [Thought(inner), "Hello\n"],
        f" \n<think>{inner}</think>{good}": [Thought(inner), *call],
        "<think>\n\n</think>\n\nHello <think>no</think>": ["Hello <think>no</think>"],
        "<think> never ends": [Thought("never ends")],
        "<thinner> is no thought": ["<thinner> is no thought"],
        "<think>one</think>\n<think>two</think> so": [Thought("onetwo"), "so"],
    }
    for text, expected in cases.items():
        assert read(form, text, apart=True) == expected
        assert all(read(form, text[:i], text[i:], apart=True) == expected for i in range(1, len(text)))
        assert read(form, *text, apart=True) == expected
    text = f"{inner}</think>\nHello"
    for i in range(len(text)):
        assert read(form, text[:i], text[i:], apart=True, thinking=True) == [Thought(inner), "Hello"]


ANALYSIS = "<|channel|>analysis<|message|>They want <tea>.<|end|>"
TO_SAY = 'to=functions.say <|constrain|>json<|message|>{"text": "a {"}'
HARMONY = {
    ANALYSIS + "<|start|>assistant<|channel|>final<|message|>Hello <you>": [Thought("They want <tea>."), "Hello <you>"],
    ANALYSIS + f"<|start|>assistant<|channel|>commentary {TO_SAY}": [
        Thought("They want <tea>."),
        ("say", {"text": "a {"}),
    ],
    # as the template writes it, and one after the other
    f" to=functions.look.around<|channel|>commentary json<|message|>{{}}<|end|><|start|>assistant {TO_SAY}": [
        ("look.around", {}),
        ("say", {"text": "a {"}),
    ],
    "<|channel|>commentary<|message|>I'll look.<|end|><|start|>assistant to=functions.other<|message|>{}": [
        "I'll look.{}"
    ],
    "<|channel|>final<|message|>": [],
    "Hello, I keep to no form": ["Hello, I keep to no form"],
    "<|channel|>final<|message|>Cut <|en": ["Cut <|en"],
    "<|channel|>commentary to=functions.say<|message|>{no JSON": ["{no JSON"],
}


@pytest.mark.parametrize("text", HARMONY)
def test_harmony(text):
    whole = gathered(Harmony(TOOLS), [text])
    assert whole == HARMONY[text]
    assert all(gathered(Harmony(TOOLS), [text[:i], text[i:]]) == whole for i in range(1, len(text)))
    assert gathered(Harmony(TOOLS), text) == whole
    without = [each for each in whole if not isinstance(each, Thought)]
    assert gathered(Harmony(TOOLS, apart=False), [text]) == without


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.parameter is None])
def test_arguments_that_are_enforced_come_in_parts(name):
    form = FORMS[name]
    before = "Well, " if form.trigger else ""
    after = " and so on" if form.trigger else ""
    expected = [event for call in CALLS for event in (CallBegun(call.name), Arguments(call.arguments))]
    expected = [*([before.strip()] if before else []), *expected, *([after.strip()] if after else [])]
    text = before + form.write(CALLS) + after
    assert gathered(FormReader(form, TOOLS, sure=True), [text]) == expected
    for i in range(1, len(text)):
        assert gathered(FormReader(form, TOOLS, sure=True), [text[:i], text[i:]]) == expected
    assert gathered(FormReader(form, TOOLS, sure=True), text) == expected
    # they come as soon as they are there, and as far as an answer goes that is cut off
    start = text[: text.index('"mood"')]
    reader = FormReader(form, TOOLS, sure=True)
    assert reader.put(start)[-2:] == [CallBegun("say"), Arguments(CALLS[0].arguments.partition('"mood"')[0])]
    assert reader.flush() == []
    # a tool that is not there is text, as ever
    other = form.write([Call("unknown", "{}", "abcdefghi")])
    assert gathered(FormReader(form, TOOLS, sure=True), [other]) == [other]


def test_models_are_not_strict_about_keys():
    form = FORMS["hermes"]
    for text in (
        '<tool_call>{"arguments":{"text":"a"},"name":"say"}</tool_call>',
        '<tool_call>\n\n{"name": "say", "parameters": {"text": "a"}}',
        '<tool_call>{"name": "say", "arguments": "{\\"text\\": \\"a\\"}"}</tool_call>',
    ):
        assert read(form, text) == [("say", {"text": "a"})]
    assert read(form, '<tool_call>{"name": "look.around"}</tool_call>') == [("look.around", {})]
    llama = FORMS["llama"]
    assert read(llama, '<|python_tag|>{"type": "function", "name": "say", "parameters": {"text": "a"}}') == [
        ("say", {"text": "a"})
    ]
    assert read(llama, 'I say: <|python_tag|>{"name": "look.around", "parameters": {}}') == ["I say:", EXPECTED[1]]


def test_ids_are_the_models_own_or_made():
    form = FORMS["mistral"]
    reader = FormReader(form, TOOLS)
    found = reader.put(form.write(CALLS))
    assert [call.id for call in found] == ["abcdefghi", None, "ABCdef012"]  # digits alone only count
    kimi = FORMS["kimi"]
    made = Call("say", "{}").as_dict(2, kimi.ids)
    assert made == {"id": "functions.say:2", "type": "function", "function": {"name": "say", "arguments": "{}"}}
    ids = {Call("say", "{}").as_dict(0, form.ids)["id"] for _ in range(20)}
    assert len(ids) == 20
    assert all(len(each) == 9 and each.isalnum() for each in ids)


# ---- grammars ----


@pytest.fixture(scope="module")
def tokenizer(bundled):
    return gj.tokenizer(bundled)


def taken(constraint, tokenizer, text):
    """How much of a text a constraint lets through."""
    words = np.zeros(-(-tokenizer.vocab_size // 32), np.uint32)
    ids = tokenizer.encode(text, add_special=False)
    for i, token in enumerate(ids):
        constraint.mask(words)
        if not words[token // 32] >> (token % 32) & 1:
            return tokenizer.decode(ids[:i])
        if constraint.accept(token):
            return text if i == len(ids) - 1 else tokenizer.decode(ids[: i + 1])
    constraint.mask(words)
    assert any(words[i // 32] >> (i % 32) & 1 for i in tokenizer.eog_ids), f"{text!r} may not end"
    return text


@pytest.mark.parametrize("name", FORMS)
def test_a_grammar_enforces_a_form(name, tokenizer):
    form = FORMS[name]
    required = grammars.compile("lark", grammar(form, TOOLS, {}, required=True, parallel=True), tokenizer)
    one = grammars.compile("lark", grammar(form, TOOLS, {}, required=True, parallel=False), tokenizer)
    calls = [Call("say", '{"text": "a", "mood": "sad", "times": 12}', "abcdefghi"), *CALLS[1:]]
    for some in (calls, calls[:1], calls[1:]):
        assert taken(required.constraint(), tokenizer, form.write(some)) == form.write(some)
    assert taken(one.constraint(), tokenizer, form.write(calls[:1])) == form.write(calls[:1])
    assert len(taken(one.constraint(), tokenizer, form.write(calls))) < len(form.write(calls))
    for text, wrong in (
        ("Hello", "Hello"),
        (form.write([Call("other", "{}", "abcdefghi")]), "other"),
        (form.write([Call("say", '{"text": "a", "mood": "bad"}', "abcdefghi")]), "bad"),
        (form.write([Call("say", '{"text": "a", "times": 100}', "abcdefghi")]), "100"),
    ):
        assert len(taken(required.constraint(), tokenizer, text)) < text.index(wrong) + len(wrong)


@pytest.mark.parametrize("name", TRIGGERED)
def test_a_grammar_waits_for_the_words_that_begin_a_call(name, tokenizer):
    form = FORMS[name]
    several = grammars.compile("lark", grammar(form, TOOLS, {}, required=False, parallel=True), tokenizer)
    one = grammars.compile("lark", grammar(form, TOOLS, {}, required=False, parallel=False), tokenizer)
    calls = form.write([Call("say", '{"text": "a"}', "abcdefghi"), CALLS[1]]).lstrip()
    for text in ("Hello <you> [there] {", "I say:\n" + calls, calls + " and so on", calls):
        assert taken(several.constraint(), tokenizer, text) == text
    single = form.write(CALLS[1:2]).lstrip()
    assert taken(one.constraint(), tokenizer, single) == single
    # what is thought of a call is no call, and one that follows the thought is
    thought = f"<think>Perhaps {form.trigger}~ junk? No.</think>"
    for text in (f"{thought}\n\nHello", f"\n{thought}{calls}", f"<think>Perhaps {form.trigger}~ junk"):
        assert taken(several.constraint(), tokenizer, text) == text
    opened = grammar(form, TOOLS, {}, required=False, parallel=True, thinking=True)
    within = grammars.compile("lark", opened, tokenizer)
    for text in (f"{thought[7:]}\n\nHello", f"{thought[7:]}{calls}", f"Perhaps {form.trigger}~ junk"):
        assert taken(within.constraint(), tokenizer, text) == text
    for start, grammar_ in ((thought, several), (thought[7:], within)):
        assert (
            taken(grammar_.constraint(), tokenizer, f"{start} So {form.trigger}~ junk") == f"{start} So {form.trigger}"
        )
    for grammar_ in (several, one):
        assert taken(grammar_.constraint(), tokenizer, f"So {form.trigger}~ junk") == f"So {form.trigger}"

"""Chat templates: what they are given, what stops them, and the templates of real models."""

import datetime
import json

import pytest

from gguf_jax.errors import GGUFJaxError
from gguf_jax.tokenizers import chat_template, from_metadata
from gguf_jax.tokenizers.chat_template import render
from tests.tokenizers.vocabularies import metadata, tokenizer

MESSAGES = [
    {"role": "system", "content": "You answer in verse."},
    {"role": "user", "content": "Who lit the lamp?"},
    {"role": "assistant", "content": "Nobody knows."},
    {"role": "user", "content": "And the kettle?"},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "kettle",
        "description": "Put the kettle on.",
        "parameters": {"type": "object", "properties": {"cups": {"type": "integer", "description": "How many"}}},
    },
}

# Templates that need more than a conversation, or that take less of one: what is changed, and why.
CHANGES: dict[str, dict] = {
    # These are the `tool_use` templates of their models: they go through `tools`, and None is no list.
    "CohereForAI-c4ai-command-r-plus-tool_use": {"tools": [TOOL]},
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": {"tools": [TOOL]},
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": {"tools": [TOOL]},
    # Takes its tools as text in a variable of its own, and the date in another.
    "fireworks-ai-llama-3-firefunction-v2": {"functions": json.dumps([TOOL]), "datetime": "2026-01-01"},
    # Raises "System role not supported".
    "google-gemma-2-2b-it": {"messages": MESSAGES[1:]},
}
COUNT = 70


def with_template(template: str, **named: str):
    keys = {"tokenizer.chat_template": template} | {f"tokenizer.chat_template.{name}": t for name, t in named.items()}
    return from_metadata(metadata("tiny_bpe") | keys)


def test_templates_of_real_models(shared):
    paths = sorted((shared / "vocab" / "templates").glob("*.jinja"))
    assert len(paths) == COUNT
    assert set(CHANGES) <= {path.stem for path in paths}
    for path in paths:
        model = with_template(path.read_text("utf-8"))
        arguments = {"messages": MESSAGES} | CHANGES.get(path.stem, {})
        prompt = model.apply_chat_template(**arguments)
        places = [prompt.find(message["content"]) for message in arguments["messages"]]
        assert -1 not in places, path.stem
        assert places[-3:] == sorted(places[-3:]), path.stem
        # The prompt for an answer goes on where the conversation without one ends.
        assert prompt[places[-1] :].startswith("And the kettle?")
        assert len(prompt) < 30000


def test_templates_of_real_models_need_their_changes(shared):
    for name in CHANGES:
        model = with_template((shared / "vocab" / "templates" / f"{name}.jinja").read_text("utf-8"))
        with pytest.raises(GGUFJaxError, match=r"^chat template: "):
            model.apply_chat_template(MESSAGES)


def test_a_conversation():
    model = tokenizer("tiny_bpe")
    prompt = model.apply_chat_template(MESSAGES[1:2])
    assert prompt == "<|im_start|>user\nWho lit the lamp?<|im_end|>\n<|im_start|>assistant\n"
    assert model.apply_chat_template(MESSAGES[1:2], add_generation_prompt=False) == prompt.split("<|im_start|>a")[0]
    ids = model.encode(prompt, parse_special=True)
    assert [model.token_text(i) for i in ids if model.is_control(i)] == ["<|im_start|>", "<|im_end|>", "<|im_start|>"]


def test_white_space_is_as_hugging_face_has_it():
    # A block takes the line break after it (trim_blocks) and the indentation before it (lstrip_blocks) with it.
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc\n", {}) == "a\nb\nc"
    assert render("{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}", {}) == "13"
    assert render("{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", {}) == "1"
    assert render("a{% generation %}{{ x }}{% endgeneration %}c", {"x": "b"}) == "abc"


def test_loops_keep_what_jinja_gives_them():
    loop = (
        "{% for x in y %}{{ loop.index }}/{{ loop.length }}{{ x }}{{ ',' if not loop.last }}{% else %}none{% endfor %}"
    )
    assert render(loop, {"y": "ab"}) == "1/2a,2/2b"
    assert render(loop, {"y": iter("ab")}) == "1/2a,2/2b"
    assert render(loop, {"y": {"k": 1}}) == "1/1k"
    assert render(loop, {}) == "none"
    tree = "{% for x in y recursive %}{{ x.n }}{{ loop(x.y) }}{% endfor %}"
    assert render(tree, {"y": [{"n": 1, "y": [{"n": 2, "y": []}]}]}) == "12"
    assert render("{{ 1 ~ 'a' ~ none ~ undefined }}", {}) == "1aNone"


def test_json_is_not_escaped():
    value = {"b": "<é & '日'>", "a": [1]}
    assert render("{{ x | tojson }}", {"x": value}) == '{"b": "<é & \'日\'>", "a": [1]}'
    assert render("{{ x | tojson(indent=2) }}", {"x": value}) == json.dumps(value, ensure_ascii=False, indent=2)


def test_the_date():
    assert render("{{ strftime_now('%Y') }}", {}) in {str(datetime.date.today().year + i) for i in (-1, 0, 1)}


def test_variables():
    model = with_template("{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ tools }}|{{ documents }}|{{ thinking }}")
    assert model.apply_chat_template([]) == "<|endoftext|>|<|endoftext|>||None|None|"
    assert model.apply_chat_template([], thinking=True, eos_token="X") == "<|endoftext|>|X||None|None|True"
    none = from_metadata(metadata("tiny_bpe", bos_token_id=-1) | {"tokenizer.chat_template": "{{ bos_token + 'a' }}"})
    assert none.apply_chat_template([]) == "a"


def test_named_templates():
    model = with_template("default", rag="for rag", tool_use="for tools")
    assert model.chat_template == "default"
    assert dict(model.chat_templates) == {"": "default", "rag": "for rag", "tool_use": "for tools"}
    assert model.apply_chat_template([]) == "default"
    assert model.apply_chat_template([], template="rag") == "for rag"
    assert model.apply_chat_template([], tools=[TOOL]) == "for tools"
    assert model.apply_chat_template([], tools=[TOOL], template="rag") == "for rag"
    assert model.apply_chat_template([], template="{{ 1 + 1 }}") == "2"
    with pytest.raises(GGUFJaxError, match=r"^chat template 'bad': line 1: "):
        with_template("", bad="{% if %}").apply_chat_template([], template="bad")


def test_a_file_without_a_template():
    model = tokenizer("tiny_spm")
    assert model.chat_template is None
    with pytest.raises(
        GGUFJaxError, match=r"^metadata key tokenizer\.chat_template: expected a chat template, found no"
    ):
        model.apply_chat_template(MESSAGES)
    assert model.apply_chat_template(MESSAGES, template="{{ messages | length }}") == "4"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must\nalternate') }}", "roles must alternate"),
        ("{% if x %}", "line 1: Unexpected end of template"),
        ("\n\n{{ 1 + }}", "line 3: "),
        ("{% include 'x' %}", "TypeError: no loader"),
        ("{{ x.y.z }}", "'x' is undefined"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ '\\x1b[2J' + 1 }}", "TypeError: "),
        ("{{ raise_exception('\\x1b[2J') }}", r"\\x1b\[2J$"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ x.append(1) }}", "'x' is undefined"),
        ("{{ messages.append(1) }}", "is unsafe"),
        ("{{ raise_exception.__globals__.os }}", "is unsafe"),
        ("{{ namespace.__init__.__globals__ }}", "is unsafe"),
        ("{{ cycler.__init__.__globals__.os }}", "is unsafe"),
        ("{{ messages[0].update({'a': 1}) }}", "is unsafe"),
        ("{{ '{0.__class__.__mro__}'.format(1) }}", "is unsafe"),
        ("{% for x in range(100001) %}{% endfor %}", "Range too big"),
        ("{% for x in 5 %}{% endfor %}", "TypeError: 'int' object is not iterable"),
        ("{{ 'x' * 99999999999 }}", "expected texts and lists of at most 16777216 elements, found 99999999999"),
        ("{{ 99999999 * [0, 1] }}", "found 199999998"),
        ("{{ 10 ** 99999 }}", "expected integers of at most 4096 bits"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError: "),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "Error: "),
    ],
)
def test_what_a_template_may_not_do(template, message):
    with pytest.raises(GGUFJaxError, match=f"^chat template: .*(?:{message})") as info:
        with_template(template).apply_chat_template(MESSAGES)
    assert str(info.value).isprintable()
    assert len(str(info.value)) < 600


@pytest.mark.parametrize("what", ["x = x ~ x", "x = x + x", "x = x * 2"])
@pytest.mark.parametrize("seed", ["'ab'", "[1, 2]"])
def test_nothing_grows_without_bound(what, seed):
    grow = "{% set n = namespace(x=" + seed + ") %}{% for i in range(60) %}{% set n." + what.replace("x", "n.x")[2:]
    with pytest.raises(GGUFJaxError, match="expected texts and lists of at most 16777216 elements"):
        render(grow + " %}{% endfor %}", {})
    number = "{% set n = namespace(x=3) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}"
    with pytest.raises(GGUFJaxError, match="expected integers of at most 4096 bits"):
        render(number, {})


def test_steps_are_counted(monkeypatch):
    nested = "{% for a in range(200) %}{% for b in range(200) %}{% endfor %}{% endfor %}"
    assert render(nested, {}) == ""
    monkeypatch.setattr(chat_template, "MAX_STEPS", 20000)
    with pytest.raises(GGUFJaxError, match="expected at most 20000 steps of loops, found more"):
        render(nested, {})
    with pytest.raises(GGUFJaxError, match="steps of loops"):
        render("{% for a in x %}{% endfor %}", {"x": iter(range(20001))})
    assert render("{% for a in x %}{% endfor %}", {"x": "a" * 19999}) == ""  # each rendering has its own


def test_length_is_bounded(monkeypatch):
    monkeypatch.setattr(chat_template, "MAX_LENGTH", 1000)
    assert len(render("{% for a in range(100) %}123456789 {% endfor %}", {})) == 1000
    with pytest.raises(GGUFJaxError, match="at most 1000 elements, found 1010"):
        render("{% for a in range(101) %}123456789 {% endfor %}", {})


def test_a_huge_template_is_refused():
    with pytest.raises(GGUFJaxError, match=r"^chat template: expected at most 1048576 characters, found 2000000$"):
        with_template("a" * 2_000_000).apply_chat_template([])


def test_messages_are_not_changed():
    before = json.dumps(MESSAGES)
    render("{% for m in messages %}{% set m = 1 %}{% endfor %}", {"messages": MESSAGES})
    assert json.dumps(MESSAGES) == before

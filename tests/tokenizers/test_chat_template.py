"""Chat templates: what they are given, what stops them, and the templates of real models."""

import datetime
import json
import resource

import jinja2.filters
import pytest

from gguf_jax.errors import GGUFJaxError
from gguf_jax.tokenizers import from_metadata, template_bounds
from gguf_jax.tokenizers.chat_template import ENVIRONMENT, render
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
    monkeypatch.setattr(template_bounds, "MAX_STEPS", 20000)
    with pytest.raises(GGUFJaxError, match="expected at most 20000 steps, found more"):
        render(nested, {})
    with pytest.raises(GGUFJaxError, match="20000 steps"):
        render("{% for a in x %}{% endfor %}", {"x": iter(range(20001))})
    assert render("{% for a in x %}{% endfor %}", {"x": "a" * 19999}) == ""  # each rendering has its own


def test_length_is_bounded(monkeypatch):
    monkeypatch.setattr(template_bounds, "MAX_LENGTH", 1000)
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


BIG = "1500000000"
TOO_LONG = [
    "{{ 'x' | center(BIG) }}",
    "{{ ['x'] | map('center', BIG) | list }}",
    "{% filter center(BIG) %}x{% endfilter %}",
    "{{ 'a\nb' | indent(BIG) }}",
    "{{ 'a\nb' | indent('x' * 16000000, true) }}",
    "{{ [1] | tojson(indent=BIG) }}",
    "{{ ('x' * 100000) | replace('x', 'y' * 100000) }}",
    "{{ ('x' * 100000) | replace('', 'y' * 100000) }}",
    "{{ range(100000) | join('x' * 100000) }}",
    "{{ ('a ' * 100000) | wordwrap(1, wrapstring='x' * 100000) }}",
    "{{ '%BIGd' | format(1) }}",
    "{{ '%*d' | format(BIG, 1) }}",
    "{{ '%.BIGf' % 1.0 }}",
    "{{ '%*d' % (BIG, 1) }}",
    "{{ '%(a)BIGd' % {'a': 1} }}",
    "{{ '%(a(b))BIGd' % {'a(b)': 1} }}",
    "{{ ('%BIGd' | safe) % 1 }}",
    "{{ ('%(a)s' * 1000000) % {'a': 'x' * 1000000} }}",
    "{{ '{:BIG}'.format(1) }}",
    "{{ '{:.BIGf}'.format(1.0) }}",
    "{{ '{:{w}}'.format(1, w=BIG) }}",
    "{{ '{a:BIG}'.format_map({'a': 1}) }}",
    "{{ ('{:BIG}' | safe).format(1) }}",
    "{{ ('{0}' * 1000000).format('x' * 1000000) }}",
    "{% set f = ['{:BIG}'] | map(attribute='format') | list %}{{ f[0](1) }}",
    "{{ 'x'.ljust(BIG) }}",
    "{{ 'x'.rjust(BIG) }}",
    "{{ 'x'.center(BIG) }}",
    "{{ 'x'.zfill(BIG) }}",
    "{{ '\t'.expandtabs(BIG) }}",
    "{{ ('x' * 100000).replace('x', 'y' * 100000) }}",
    "{{ ('y' * 100000).join('a' * 100000) }}",
    "{{ ('y' * 100000).join(range(100000) | map('string')) }}",
    "{{ ('x' | attr('ljust'))(BIG) }}",
    "{{ 'x'['ljust'](BIG) }}",
    "{{ ('x' | safe).ljust(BIG) }}",
    "{{ [1] | batch(BIG, 0) | list }}",
    "{{ [1] | slice(BIG) | list }}",
    "{% set x = 'a' * 16000000 %}{{ [x] * 1000 }}",
    "{% set x = 'a' * 16000000 %}{{ ([x] * 1000) | string }}",
    "{% set x = 'a' * 16000000 %}{{ ([x] * 1000) | sort | length }}",
    "{% set x = 'a' * 16000000 %}{{ raise_exception([x] * 1000) }}",
    "{% set x = 'a' * 1000000 %}{% macro f() %}{% for i in range(20) %}{{ x }}{% endfor %}{% endmacro %}{{ f() }}",
    "{% set n = namespace() %}{% set n.x = [n, n] %}{{ n }}",
    "{{ strftime_now('%100000d' * 100000) }}",
]
NESTED = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
TOO_MUCH = [
    NESTED + "{{ f(22) }}",
    "{% for x in [1] recursive %}{% if loop.depth < 60 %}{{ loop([1, 1]) }}{% endif %}{% endfor %}",
    "{% for i in range(1000) %}" + "{{ i }}" * 5000 + "{% endfor %}",
    "{% set x %}{% for i in range(100000) %}" + " " * 10000 + "{% endfor %}{% endset %}",
    "{% set n = namespace(x=[]) %}{% for i in range(999) %}{% set n.x = n.x + ['a' * 16000000 ~ i] %}{% endfor %}",
    "{% set b = [1] * 1000000 %}{% for i in range(999) %}{% set c = b[1:] %}{% endfor %}",
    "{% for i in range(100000) %}{{ -1000000 | body }}{% endfor %}",
    "{{ ('x ' * 8000000).split() | length }}",
    "{{ ('x' * 16000000) | list | length }}",
    "{% set x = 'a' * 16000000 %}{{ ([x] * 1000) | map('default') | unique | list | length }}",
]


@pytest.mark.parametrize("template", TOO_LONG)
def test_nothing_is_made_that_is_too_long(template):
    check_refused(template.replace("BIG", BIG), "expected texts and lists of at most 16777216 elements, found [0-9]+$")


@pytest.mark.parametrize("template", TOO_MUCH, ids=range(len(TOO_MUCH)))
def test_work_adds_up(template, monkeypatch):
    # A tenth, for the sake of the tests' time: each of these would go on for minutes at least, or take gigabytes.
    monkeypatch.setattr(template_bounds, "MAX_STEPS", 500_000)
    check_refused(template, "expected at most 500000 steps, found more$")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 5 | round(-1500000000) }}", "integers of at most 4096 bits"),
        ("{{ 1.5 | round(1500000000, 'ceil') }}", "integers of at most 4096 bits"),
        ("{{ ('f' * 16000000) | int(0, 16) }}", "integers of at most 4096 bits"),
        ("{{ ([[1] * 1000] * 1000) | sum(start=[]) }}", "a number for sum to start from, found list"),
        ("{{ (1).to_bytes(1500000000, 'big') }}", "no method of bytes, found to_bytes"),
        ("{{ 'x'.encode() }}", "a method of texts that templates may call, found encode"),
        ("{{ 'x'.translate({120: 'y'}) }}", "a method of texts that templates may call, found translate"),
        ("{{ b.ljust(1500000000) }}", "no method of bytes, found ljust"),
        ("{{ b % 1 }}", "found bytes"),
        ("{{ 'x' | urlize }}", "No filter named 'urlize'"),
        ("{{ lipsum(n=1000000) }}", "'lipsum' is undefined"),
    ],
)
def test_what_is_not_there(template, message):
    check_refused(template, message, {"b": b"%1500000000d"})


def check_refused(template, message, variables=None):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(GGUFJaxError, match=f"^chat template: .*{message}") as info:
        render(template, variables or {})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB
    assert str(info.value).isprintable()
    assert len(str(info.value)) < 600


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ 'x' | center(5) }}|{{ 'x'.ljust(3) }}|{{ 'x'.rjust(3) }}|{{ '7'.zfill(3) }}", "  x  |x  |  x|007"),
        ("{{ 'a\tb'.expandtabs(4) }}|{{ 'aba'.replace('a', 'cc', 1) }}", "a   b|ccba"),
        ("{{ 'aba' | replace('a', 'c') }}|{{ 'aba' | replace('a', 'c', 1) }}", "cbc|cba"),
        ("{{ '%5.1f|%-3s|' | format(2.25, 'a') }}", "  2.2|a  |"),
        ("{{ '%s %%' % 5 }}|{{ '%(a)s' % {'a': 1} }}|{{ 7 % 4 }}|{{ '%*d' % (3, 1) }}", "5 %|1|3|  1"),
        ("{{ '{:>{w}}|{a[0]!r}'.format(1, w=3, a=['b']) }}|{{ '{a}'.format_map({'a': 1}) }}", "  1|'b'|1"),
        ("{{ ('<{}>' | safe).format('<') }}{{ ('<' | safe | trim) + '>' }}", "<&lt;><&gt;"),
        ("{{ [1, 'a', none] | join('-') }}|{{ [{'a': 1}, {'a': 2}] | join(',', attribute='a') }}", "1-a-None|1,2"),
        ("{{ '-'.join(['a', 'b']) }}|{{ 'a b'.split() }}|{{ 'a\nb' | indent(2, true) }}", "a-b|['a', 'b']|  a\n  b"),
        ("{{ [1, 2, 3] | batch(2, 0) | list }}{{ [1, 2] | sum }}{{ 2.345 | round(1) }}", "[[1, 2], [3, 0]]32.3"),
        (
            "{{ [2, 1] | sort }}{{ ['b', 'A'] | sort | first }}{{ {'b': 1, 'a': 2} | dictsort | first }}",
            "[1, 2]A('a', 2)",
        ),
        ("{{ 'abc'[1:] }}{{ [1, 2, 3][::-1] }}{{ '10' | int + 1 }}{{ 'a b c' | wordwrap(3) }}", "bc[3, 2, 1]11a b\nc"),
        ("{% macro f(x) %}<{{ x }}{{ caller() }}>{% endmacro %}{% call f(1) %}!{% endcall %}", "<1!>"),
        ("{{ [{'a': 1}, {'b': 1}] | selectattr('a', 'defined') | map(attribute='a') | list }}", "[1]"),
    ],
)
def test_what_is_bounded_does_what_it_did(template, expected):
    assert render(template, {}) == expected
    assert type(render(template, {})) is str


def test_filters_are_those_of_jinja():
    theirs = ENVIRONMENT.filters.keys() & jinja2.filters.FILTERS.keys()
    assert theirs == jinja2.filters.FILTERS.keys() - {"pprint", "striptags", "urlencode", "urlize", "xmlattr"}


def test_a_long_conversation_is_no_hostile_one(shared):
    # Some 200,000 tokens. There is a template that copies all that it has for each message.
    long = [{"role": role, "content": "word " * 500} for _ in range(200) for role in ("user", "assistant")]
    for path in sorted((shared / "vocab" / "templates").glob("*.jinja")):
        arguments = CHANGES.get(path.stem, {}) | {"messages": [*long, MESSAGES[-1]]}
        assert len(with_template(path.read_text("utf-8")).apply_chat_template(**arguments)) > 1_000_000, path.stem

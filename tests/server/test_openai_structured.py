"""Grammars, schemas and tools through the official client: the model writes prose, and must write what it is told."""

import json
import threading

import jsonschema
import openai
import pydantic
import pytest
from fastapi.testclient import TestClient

import gguf_jax as gj
from gguf_jax.server.app import make_app
from gguf_jax.server.settings import Settings
from tests.grammars.test_grammars import TOO_MUCH
from tests.server.scripted import Scripted
from tests.server.serving import client_of, ready

PROMPT = "The old man said: "
TEMPLATE = """{% for t in tools or [] %}<tools>{{ t | tojson }}</tools>
{% endfor %}{% for m in messages %}[{{ m.role }}] {{ m.content or '' }}{% for c in m.tool_calls or [] %}
<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}
{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"""
MESSAGES = [{"role": "user", "content": "Who lit the lamp?"}]

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "mood": {"enum": ["glad", "sad"]},
        "years": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 2},
    },
    "required": ["name", "mood", "years"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "minimum": 0, "maximum": 99},
                "b": {"type": "integer", "minimum": 0, "maximum": 99},
            },
            "required": ["a", "b"],
        },
    },
}
LOOK = {"type": "function", "function": {"name": "look"}}


@pytest.fixture(scope="module")
def model():
    found = gj.load()
    before = found.tokenizer.chat_templates
    found.tokenizer.chat_templates = {"": TEMPLATE}
    yield found
    found.tokenizer.chat_templates = before


@pytest.fixture(scope="module")
def client(model):
    with client_of(model, ctx_size=384, slots=4, batch_size=16) as found:
        yield ready(found)


@pytest.fixture(scope="module")
def official(client):
    return openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client, max_retries=0)


def said(official, **options):
    asked = dict(model="prose", messages=MESSAGES, max_tokens=120) | options
    return official.chat.completions.create(**asked)


def test_every_answer_is_valid(official):
    answer = said(official, response_format=FORMAT, n=6, seed=1, temperature=1.2)
    texts = [choice.message.content for choice in answer.choices]
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)
    assert len(set(texts)) > 1
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert answer.usage.completion_tokens < 6 * 120


def test_any_json_object(official):
    # the model goes on in the first string, for nobody tells it to end: what there is of an object begins one
    text = said(official, response_format={"type": "json_object"}, max_tokens=12).choices[0].message.content
    assert text.startswith("{")
    assert text[1:].lstrip()[:1] in ('"', "}")
    within = {"type": "json_object", "schema": SCHEMA}  # as llama-server has it
    jsonschema.validate(json.loads(said(official, response_format=within).choices[0].message.content), SCHEMA)
    free = said(official, response_format={"type": "text"}, max_tokens=3).choices[0]
    assert free.finish_reason == "length"


def test_a_pydantic_model(official):
    class Person(pydantic.BaseModel):
        mood: str = pydantic.Field(pattern="^(glad|sad)$")
        age: int = pydantic.Field(ge=0, le=120)

    answer = official.chat.completions.parse(model="prose", messages=MESSAGES, response_format=Person, max_tokens=60)
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_a_stream_is_the_same(official):
    options = dict(response_format=FORMAT, seed=3, temperature=1.0)
    whole = said(official, **options)
    events = list(said(official, **options, stream=True, stream_options={"include_usage": True}))
    assert "".join(e.choices[0].delta.content or "" for e in events if e.choices) == whole.choices[0].message.content
    assert [e.choices[0].finish_reason for e in events if e.choices][-1] == "stop"
    assert events[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(event.usage is None for event in events[:-1])
    assert events[0].system_fingerprint == whole.system_fingerprint


def test_grammars_of_llama_server(official):
    def completed(**extra):
        asked = dict(model="prose", prompt=PROMPT, max_tokens=60, temperature=0)
        return official.completions.create(**asked, extra_body=extra).choices[0]

    assert completed(grammar='root ::= "yes" | "no"').text in ("yes", "no")
    assert completed(grammar='root ::= [a-z]{3} " and " [a-z]{3}').text[3:8] == " and "
    assert completed(grammar="%llguidance {}\nstart: /[0-9]{4}/").text.isdecimal()
    assert completed(json_schema={"enum": [12, 13]}).text in ("12", "13")
    assert completed(response_format=FORMAT).text.startswith("{")
    chat = said(official, extra_body={"grammar": 'root ::= "yes" | "no"'}).choices[0]
    assert (chat.message.content in ("yes", "no"), chat.finish_reason) == (True, "stop")


def test_stop_texts_and_a_grammar(official):
    asked = dict(model="prose", prompt=PROMPT, max_tokens=40, temperature=0)
    choice = official.completions.create(**asked, stop=[" and"], extra_body={"grammar": 'root ::= "you and me"'})
    assert (choice.choices[0].text, choice.choices[0].finish_reason) == ("you", "stop")
    cut = official.completions.create(**asked | {"max_tokens": 1}, extra_body={"grammar": 'root ::= "you and me"'})
    assert cut.choices[0].finish_reason == "length"
    assert "you and me".startswith(cut.choices[0].text)


def test_log_probabilities_and_a_grammar(official, model):
    asked = dict(model="prose", prompt=PROMPT, max_tokens=10, temperature=0, logprobs=2)
    choice = official.completions.create(**asked, extra_body={"grammar": 'root ::= "zebra" [0-9]'}).choices[0]
    scores = choice.logprobs
    assert "".join(scores.tokens) == choice.text
    # they are the model's, which had other things in mind
    assert scores.token_logprobs[0] < min(scores.top_logprobs[0].values())
    chat = said(official, logprobs=True, top_logprobs=2, extra_body={"grammar": 'root ::= "zebra"'}).choices[0]
    assert "".join(entry.token for entry in chat.logprobs.content) == chat.message.content == "zebra"


def test_neighbours_do_not_matter(official):
    """Two grammars beside each other and beside free text give what each gives alone."""
    kinds = [
        dict(response_format=FORMAT),
        dict(extra_body={"grammar": 'root ::= [a-z]+ ("," [a-z]+){2,5} "."'}),
        dict(),
        dict(tools=[ADD], tool_choice="required"),
    ]
    options = dict(temperature=0.8, seed=11, max_tokens=50)
    alone = [said(official, **options, **kind).choices[0].model_dump() for kind in kinds]
    beside = [None] * len(kinds)

    def ask(i):
        beside[i] = said(official, **options, **kinds[i]).choices[0].model_dump()

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(kinds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for choice in [*alone, *beside]:  # made anew for each
        for call in choice["message"]["tool_calls"] or ():
            call.pop("id")
    assert beside == alone


# ---- tools ----


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_a_call_is_made(choice, official):
    answer = said(official, tools=[ADD, LOOK], tool_choice=choice, seed=5, parallel_tool_calls=False).choices[0]
    [call] = answer.message.tool_calls
    assert (answer.finish_reason, answer.message.content, call.type) == ("tool_calls", None, "function")
    assert call.function.name in (("add", "look") if choice == "required" else ("add",))
    if call.function.name == "add":
        jsonschema.validate(json.loads(call.function.arguments), ADD["function"]["parameters"])
    assert len(call.id) == 9


def test_calls_in_a_stream(official):
    options = dict(tools=[ADD], tool_choice="required", seed=5, parallel_tool_calls=False)
    whole = said(official, **options).choices[0].message.tool_calls[0]
    events = [event.choices[0] for event in said(official, **options, stream=True)]
    calls = [call for event in events for call in event.delta.tool_calls or ()]
    assert {call.index for call in calls} == {0}
    assert [call.function.name for call in calls if call.function.name] == ["add"]
    assert len([call.id for call in calls if call.id]) == 1
    assert len(calls) > 3  # the arguments come as they are written
    assert "".join(call.function.arguments for call in calls) == whole.function.arguments
    assert not any(event.delta.content for event in events)
    assert events[-1].finish_reason == "tool_calls"
    with official.chat.completions.stream(model="prose", messages=MESSAGES, max_tokens=120, **options) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.message.tool_calls[0].function.arguments == whole.function.arguments


def test_a_call_of_a_pydantic_model(official):
    class Add(pydantic.BaseModel):
        a: int = pydantic.Field(ge=0, le=9)

    tool = openai.pydantic_function_tool(Add, name="add")
    answer = official.chat.completions.parse(
        model="prose",
        messages=MESSAGES,
        tools=[tool],
        tool_choice="required",
        max_tokens=120,
        parallel_tool_calls=False,
    )
    assert isinstance(answer.choices[0].message.tool_calls[0].function.parsed_arguments, Add)


def test_where_a_call_may_be_made_text_is_text(official):
    free = said(official, tools=[ADD], seed=2, temperature=0, max_tokens=12).choices[0]
    assert (free.message.tool_calls, free.finish_reason) == (None, "length")
    assert free.message.content
    none = said(official, tools=[ADD], tool_choice="none", seed=2, temperature=0, max_tokens=12).choices[0]
    plain = said(official, seed=2, temperature=0, max_tokens=12).choices[0]
    assert none.message.content == plain.message.content


SCRIPT = 'Let me see.\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>\n'


@pytest.mark.parametrize(
    ("said_", "content", "calls"),
    [
        (SCRIPT, "Let me see.", [("add", '{"a": 1, "b": 2}')]),
        (SCRIPT * 2, "Let me see.Let me see.", [("add", '{"a": 1, "b": 2}')] * 2),
        (SCRIPT.replace("add", "sub"), SCRIPT.replace("add", "sub"), []),
    ],
)
def test_calls_that_a_model_makes_of_its_own(said_, content, calls, model):
    with TestClient(make_app(Scripted(model, said_), Settings("prose"))) as found:
        official = openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=ready(found))
        whole = said(official, tools=[ADD, LOOK]).choices[0]
        made = [(call.function.name, call.function.arguments) for call in whole.message.tool_calls or ()]
        assert ((whole.message.content or ""), made) == (content, calls)
        assert whole.finish_reason == ("tool_calls" if calls else "stop")
        events = [event.choices[0] for event in said(official, tools=[ADD, LOOK], stream=True)]
        parts = [call for event in events for call in event.delta.tool_calls or ()]
        assert "".join(event.delta.content or "" for event in events) == content
        names = [call.function.name for call in parts if call.function.name]
        arguments = ["".join(c.function.arguments for c in parts if c.index == i) for i in range(len(names))]
        assert list(zip(names, arguments, strict=True)) == calls
        assert len({call.id for call in parts if call.id}) == len(calls)
        assert events[-1].finish_reason == whole.finish_reason
        # without tools it is all text
        assert said(official).choices[0].message.content == said_


def test_thoughts_are_told_apart(model, monkeypatch):
    script = "<think>\nWho was it?\n</think>\n\n" + SCRIPT
    monkeypatch.setattr(model.tokenizer, "chat_templates", {"": TEMPLATE + "{# </think> #}"})
    with TestClient(make_app(Scripted(model, script), Settings("prose"))) as found:
        official = openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=ready(found))
        whole = said(official, tools=[ADD]).choices[0].message
        assert (whole.reasoning_content, whole.content, len(whole.tool_calls)) == ("Who was it?", "Let me see.", 1)
        plain = said(official).choices[0].message
        assert (plain.reasoning_content, plain.content, plain.tool_calls) == ("Who was it?", SCRIPT, None)
        deltas = [event.choices[0].delta for event in said(official, stream=True)]
        assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == "Who was it?"
        assert "".join(delta.content or "" for delta in deltas) == SCRIPT
        assert said(official, extra_body={"reasoning_format": "none"}).choices[0].message.content == script


def test_a_whole_conversation(official, client):
    """Answers go back as they came, with results; texts and calls and results are in the prompt."""
    first = said(official, tools=[ADD], tool_choice="required", parallel_tool_calls=False, seed=1).choices[0].message
    history = [*MESSAGES, first, {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "It is 12."}]
    answer = said(official, messages=history, tools=[ADD], max_tokens=5, temperature=0)
    assert answer.usage.prompt_tokens > 60
    again = said(official, messages=history, tools=[ADD], max_tokens=5, temperature=0)
    assert again.usage.prompt_tokens_details.cached_tokens > 50
    assert again.choices[0].message.content == answer.choices[0].message.content


def test_a_schema_beside_tools(official):
    answer = said(official, tools=[ADD], response_format=FORMAT, seed=4, parallel_tool_calls=False).choices[0]
    if answer.message.tool_calls:
        jsonschema.validate(json.loads(answer.message.tool_calls[0].function.arguments), ADD["function"]["parameters"])
    else:
        jsonschema.validate(json.loads(answer.message.content), SCHEMA)


ERRORS = {
    "a bad grammar": (dict(extra_body={"grammar": "root ::= ["}), "grammar: line 1, column 11", "grammar"),
    "a rule that is not there": (
        dict(extra_body={"grammar": 'root ::= "a"\n b'}),
        "grammar: line 2, column 3",
        "grammar",
    ),
    "a bad schema": (dict(response_format={"type": "json_schema"}), "json_schema.schema: expected a JSON schema", None),
    "a bad type": (
        dict(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "foo"}}}),
        "Invalid type: foo",
        "response_format.json_schema.schema",
    ),
    "nothing matches": (dict(extra_body={"grammar": "root ::= root"}), "that some text matches", "grammar"),
    "two at once": (
        dict(response_format=FORMAT, extra_body={"grammar": 'root ::= "a"'}),
        "expected one way to say what the answer looks like, found grammar and response_format",
        "grammar",
    ),
    "a grammar beside tools": (
        dict(tools=[ADD], extra_body={"grammar": 'root ::= "a"'}),
        "expected no grammar beside tools",
        "grammar",
    ),
    "a tool without a name": (dict(tools=[{"type": "function", "function": {}}]), "tools[0].function.name", None),
    "a tool's schema": (
        dict(tools=[{"type": "function", "function": {"name": "x", "parameters": {"$ref": "#/nowhere"}}}]),
        "tools: ",
        "tools",
    ),
    "no such tool": (
        dict(tools=[ADD], tool_choice={"type": "function", "function": {"name": "sub"}}),
        "tool_choice: expected one of add, found 'sub'",
        "tool_choice",
    ),
    "no tools": (dict(tool_choice="required"), "tool_choice: expected tools", "tool_choice"),
    "a history": (
        dict(messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "no"}}]}]),
        "messages[0].tool_calls[0].function.arguments",
        "messages[0].tool_calls[0].function.arguments",
    ),
    "a variable of templates": (
        dict(extra_body={"chat_template_kwargs": {"messages": []}}),
        "chat_template_kwargs: expected other variables",
        "chat_template_kwargs",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_is_wrong(case, official):
    options, message, param = ERRORS[case]
    with pytest.raises(openai.BadRequestError) as error:
        said(official, **options)
    body = error.value.body
    assert message in body["message"]
    assert "\n" not in body["message"]
    assert (body["type"], body["code"]) == ("invalid_request_error", None)
    if param is not None:
        assert body["param"] == param


def test_what_outgrows_its_limits_ends_alone(official):
    """A grammar that is too much for its parser in the midst of an answer: one error, and the next answer is right."""
    grammar = f"%llguidance {{}}\n{TOO_MUCH}"
    with pytest.raises(openai.APIError, match="the answer could not be gone on with"):
        said(official, extra_body={"grammar": grammar})
    with pytest.raises(openai.APIError, match="the answer could not be gone on with"):
        list(said(official, extra_body={"grammar": grammar}, stream=True))
    assert said(official, extra_body={"grammar": 'root ::= "yes"'}).choices[0].message.content == "yes"

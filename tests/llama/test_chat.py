"""Chat completions: formats, tools, answers in JSON; with the bundled model, which knows none of it."""

import json

import jsonschema
import pytest

import gguf_jax as gj
from gguf_jax.errors import GGUFJaxError
from gguf_jax.llama import ChatFormatterResponse, Jinja2ChatFormatter
from gguf_jax.llama.chat import chat_formatter_to_chat_completion_handler
from tests.llama.conftest import SIZES

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Extract Jason is 25 years old"}]
PARAMETERS = {
    "type": "object",
    "properties": {"name": {"enum": ["Jason", "Ann"]}, "age": {"enum": [25, 26]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "UserDetail", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "nothing", "parameters": {"type": "object", "properties": {}}}},
]
NAMED = {"type": "function", "function": {"name": "UserDetail"}}
TEMPLATE = (
    "{{ bos_token }}{% if tools %}tools: {{ tools | tojson }}{{ '\n' }}{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}"
    "<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def templated(bundled):
    """With a template in its metadata."""
    return gj.Llama(str(bundled), kv_overrides={"tokenizer.chat_template": TEMPLATE}, **SIZES)


@pytest.fixture(scope="module")
def calling(bundled):
    return gj.Llama(str(bundled), chat_format="chatml-function-calling", **SIZES)


def prompt_of(llm):
    """The text that was completed, with what was answered but for its end."""
    return llm.detokenize(llm.input_ids[: llm.n_tokens], special=True).decode()


def message(answer):
    return answer["choices"][0]["message"]


def joined(chunks):
    """The message that chunks add up to, and why it ended."""
    found, calls = "", {}
    for chunk in chunks:
        choice = chunk["choices"][0]
        found += choice["delta"].get("content") or ""
        for call in choice["delta"].get("tool_calls") or ():
            known = calls.setdefault(call["index"], {"name": call["function"]["name"], "arguments": ""})
            known["arguments"] += call["function"]["arguments"]
    return found, list(calls.values()), choice["finish_reason"]


def test_a_message(llm):
    asked = dict(messages=MESSAGES, temperature=0.0, max_tokens=6)
    answer = llm.create_chat_completion(**asked)
    assert prompt_of(llm).startswith(
        "<|endoftext|><|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nExtract Jason is 25 years old<|im_end|>\n<|im_start|>assistant\n"
    )
    assert answer["object"] == "chat.completion"
    assert message(answer)["role"] == "assistant"
    chunks = list(llm.create_chat_completion(stream=True, **asked))
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant"}
    assert joined(chunks) == (message(answer)["content"], [], "length")
    scored = llm.create_chat_completion(logprobs=True, top_logprobs=2, **asked)
    content = scored["choices"][0]["logprobs"]["content"]
    assert "".join(each["token"] for each in content) == message(scored)["content"]
    assert all(len(each["top_logprobs"]) == 2 for each in content)


def test_answers_in_json(llm):
    for wanted in (
        {"type": "json_object", "schema": PARAMETERS},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": PARAMETERS}},
    ):
        answer = llm.create_chat_completion(MESSAGES, response_format=wanted, temperature=0.7, max_tokens=128, seed=2)
        jsonschema.validate(json.loads(message(answer)["content"]), PARAMETERS)
        assert answer["choices"][0]["finish_reason"] == "stop"
    free = llm.create_chat_completion(MESSAGES, response_format={"type": "text"}, temperature=0.0, max_tokens=3)
    assert free == llm.create_chat_completion(MESSAGES, temperature=0.0, max_tokens=3) | {
        key: free[key] for key in ("id", "created")
    }
    begun = llm.create_chat_completion(MESSAGES, response_format={"type": "json_object"}, max_tokens=4, seed=1)
    assert message(begun)["content"].startswith("{")


def test_a_named_tool_is_called(llm, calling):
    for model in (llm, calling):
        for tools in (
            dict(tools=TOOLS, tool_choice=NAMED),
            dict(functions=[tool["function"] for tool in TOOLS], function_call={"name": "UserDetail"}),
        ):
            answer = model.create_chat_completion(MESSAGES, max_tokens=128, seed=3, **tools)
            (call,) = message(answer)["tool_calls"]
            assert call["function"]["name"] == "UserDetail"
            assert message(answer)["content"] is None
            assert message(answer)["function_call"] == call["function"]
            jsonschema.validate(json.loads(call["function"]["arguments"]), PARAMETERS)
            assert answer["choices"][0]["finish_reason"] == "tool_calls"
        streamed = joined(model.create_chat_completion(MESSAGES, max_tokens=128, seed=3, stream=True, **tools))
        assert streamed == ("", [call["function"]], "tool_calls")


def test_a_choice_that_is_the_model_s(calling):
    answer = calling.create_chat_completion(MESSAGES, tools=TOOLS, tool_choice="required", max_tokens=128, seed=3)
    calls = message(answer)["tool_calls"]
    assert calls
    for call in calls:
        schema = next(t for t in TOOLS if t["function"]["name"] == call["function"]["name"])["function"]["parameters"]
        jsonschema.validate(json.loads(call["function"]["arguments"]), schema)
    assert answer["usage"]["total_tokens"] == sum(
        answer["usage"][key] for key in ("prompt_tokens", "completion_tokens")
    )
    either = message(calling.create_chat_completion(MESSAGES, tools=TOOLS, tool_choice="auto", max_tokens=24, seed=3))
    assert either.get("tool_calls") or isinstance(either["content"], str)
    text = calling.create_chat_completion(MESSAGES, tools=TOOLS, tool_choice="none", max_tokens=4, temperature=0.0)
    assert "tool_calls" not in message(text)
    assert "UserDetail" not in prompt_of(calling)
    with pytest.raises(GGUFJaxError, match="stream: expected False"):
        calling.create_chat_completion(MESSAGES, tools=TOOLS, tool_choice="auto", stream=True)
    with pytest.raises(GGUFJaxError, match="tool_choice: expected none, auto"):
        calling.create_chat_completion(MESSAGES, tools=TOOLS, tool_choice="perhaps")


def test_a_history_with_calls(calling):
    history = [
        *MESSAGES,
        {"role": "assistant", "content": "Well."},
        {"role": "assistant", "tool_calls": [{"function": {"name": "UserDetail", "arguments": '{"age": 25}'}}]},
    ]
    calling.create_chat_completion(history, tools=TOOLS, tool_choice=NAMED, max_tokens=2, seed=1)
    found = prompt_of(calling)
    assert "\nfunctions.UserDetail:\n" + json.dumps(PARAMETERS) in found
    assert "<|im_start|>assistant\nmessage:\nWell.<|im_end|>" in found
    assert '<|im_start|>assistant\nfunctions.UserDetail:\n{"age": 25}<|im_end|>' in found


def test_the_template_of_a_file(templated):
    assert templated.chat_format == "chat_template.default"
    answer = templated.create_chat_completion(MESSAGES, temperature=0.0, max_tokens=5)
    head = "<|endoftext|>system: Be brief.\nuser: Extract Jason is 25 years old\nassistant: "
    assert prompt_of(templated).startswith(head)
    plain = templated(head.removeprefix("<|endoftext|>"), temperature=0.0, max_tokens=5)
    assert message(answer)["content"] == plain["choices"][0]["text"]


def test_tools_in_the_form_of_a_file_s_template(templated):
    for choice in (NAMED, "required"):
        asked = dict(messages=MESSAGES, tools=TOOLS, tool_choice=choice, max_tokens=96, seed=4)
        answer = templated.create_chat_completion(**asked)
        assert "tools: [" in prompt_of(templated)
        calls = [call["function"] for call in message(answer)["tool_calls"]]
        assert calls
        for call in calls:
            tool = next(tool["function"] for tool in TOOLS if tool["function"]["name"] == call["name"])
            jsonschema.validate(json.loads(call["arguments"]), tool["parameters"])
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
        streamed = joined(templated.create_chat_completion(stream=True, **asked))
        assert streamed == (message(answer)["content"] or "", calls, "tool_calls")
        if choice is NAMED:
            assert message(answer)["content"] is None
            assert message(answer)["function_call"] == calls[0]
        assert all(call["id"] for call in message(answer)["tool_calls"])
    result = [
        *MESSAGES,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "nothing", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]
    free = templated.create_chat_completion(result, tools=TOOLS, tool_choice="none", max_tokens=3, temperature=0.0)
    assert isinstance(message(free)["content"], str)
    assert "<tool_call>" in prompt_of(templated)
    scores = templated.create_chat_completion(MESSAGES, tools=TOOLS, logprobs=True, max_tokens=3, temperature=0.0)
    assert len(scores["choices"][0]["logprobs"]["content"]) == 3


def test_handlers_of_one_s_own(llm, monkeypatch):
    def shout(*, messages, **rest):
        return ChatFormatterResponse(messages[-1]["content"].upper() + ":", stop="e")

    monkeypatch.setattr(llm, "chat_handler", chat_formatter_to_chat_completion_handler(shout))
    answer = llm.create_chat_completion(MESSAGES, temperature=0.0, max_tokens=20)
    assert "e" not in message(answer)["content"]
    assert prompt_of(llm).startswith("<|endoftext|>EXTRACT JASON IS 25 YEARS OLD:")
    formatter = Jinja2ChatFormatter("{{ bos_token }}{{ messages[0].content }}", "<end>", "<|endoftext|>", True, [1000])
    monkeypatch.setattr(llm, "chat_handler", formatter.to_chat_handler())
    llm.create_chat_completion(MESSAGES, temperature=0.0, max_tokens=2)
    assert prompt_of(llm).startswith("<|endoftext|>Be brief.")


def test_objects_of_the_openai_package(llm):
    types = pytest.importorskip("openai.types.chat")
    asked = dict(messages=MESSAGES, temperature=0.0, max_tokens=4)
    answer = llm.create_chat_completion_openai_v1(**asked)
    assert isinstance(answer, types.ChatCompletion)
    chunks = list(llm.create_chat_completion_openai_v1(stream=True, **asked))
    assert all(isinstance(chunk, types.ChatCompletionChunk) for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer.choices[0].message.content
    calls = llm.create_chat_completion_openai_v1(MESSAGES, tools=TOOLS, tool_choice=NAMED, max_tokens=3, stream=True)
    assert all(isinstance(chunk, types.ChatCompletionChunk) for chunk in calls)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(messages="Hi"), "messages: expected a list"),
        (dict(messages=["Hi"]), r"messages\[0\]: expected an object with a role"),
        (
            dict(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]),
            "content: expected text",
        ),
        (dict(response_format={"type": "xml"}), "response_format.type"),
        (dict(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "x"}}), "tool_choice"),
        (dict(response_format={"type": "json_object", "schema": {"type": "nothing"}}), "grammar"),
    ],
)
def test_bad_conversations(llm, templated, asked, message):
    for model in (llm, templated):
        with pytest.raises(GGUFJaxError, match=message):
            model.create_chat_completion(**{"messages": MESSAGES} | asked)


def test_formats_that_are_not_here(bundled):
    for name in ("functionary-v2", "open-orca"):
        with pytest.raises(GGUFJaxError, match=f"chat_format: {name} is not here"):
            gj.Llama(str(bundled), chat_format=name, **SIZES)

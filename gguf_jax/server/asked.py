"""What requests may say, as pydantic models: types and bounds are checked before anything else is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gguf_jax.generation import SamplingParams
from gguf_jax.grammars.source import MOST_CHARACTERS

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[float, Field(ge=-1e9, le=1e9)]
Seed = Annotated[int, Field(ge=-1, lt=2**64)]
Text = Annotated[str, Field(max_length=1 << 22)]
Grammar = Annotated[str, Field(max_length=MOST_CHARACTERS)]
Ids = Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(max_length=1 << 20)]
MOST_STOPS = 32
MOST_ANSWERS = 128
"""To one request: prompts times `n`."""


class Sampling(BaseModel):
    """Fields that choose tokens; None where a request says nothing."""

    model_config = ConfigDict(extra="ignore")

    temperature: Number | None = None
    top_p: Share | None = None
    seed: Seed | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    min_p: Share | None = None
    typical_p: Share | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=1e9)] | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None

    def params(self, defaults: dict[str, Any], logit_bias: dict[int, float] | None = None) -> SamplingParams:
        """As the scheduler takes them. Raises GGUFJaxError for what is out of range."""
        names = {"penalty_last_n": "repeat_last_n"}
        given: dict[str, Any] = {
            name: value
            for name in SamplingParams.__dataclass_fields__
            if (value := getattr(self, names.get(name, name), None)) is not None
        }
        if given.get("seed") == -1:
            del given["seed"]
        bias: dict[str, Any] = {"logit_bias": logit_bias} if logit_bias else {}
        return SamplingParams(**(defaults | given | bias))


class Options(Sampling):
    """Of the runner: `options` of a completion."""

    num_predict: Annotated[int, Field(ge=-2, le=2**31 - 1)] = -1
    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=1024)]], Field(max_length=MOST_STOPS)] = []

    num_keep: Annotated[int, Field(ge=-1, le=2**31 - 1)] = 4


class Runner(BaseModel):
    """What the runner is asked: its client writes the names of Go's fields, and the runner takes any case."""

    @model_validator(mode="before")
    @classmethod
    def _names(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        names = {name.replace("_", ""): name for name in cls.model_fields}
        return {names.get(str(key).lower().replace("_", ""), key): value for key, value in data.items()}


class Completion(Runner):
    """POST /completion of the runner. `stream` is not the runner's, which always does."""

    prompt: Text
    options: Options | None = None
    format: dict[str, Any] | Literal["json", ""] | None = None
    grammar: Grammar | None = None
    images: Annotated[list[Any], Field(max_length=0)] | None = None
    truncate: bool = False
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    stream: bool = True


class Content(BaseModel):
    content: Text
    add_special: bool = False
    parse_special: bool = True


class Tokens(BaseModel):
    tokens: Ids


Stop = (
    Annotated[str, Field(min_length=1, max_length=1024)]
    | Annotated[list[Annotated[str, Field(min_length=1, max_length=1024)]], Field(max_length=MOST_STOPS)]
)


class StreamOptions(BaseModel):
    include_usage: bool = False


class JSONSchema(BaseModel):
    name: Annotated[str, Field(max_length=256)] = ""
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """OpenAI's `response_format`; a schema beside "json_object" is llama-server's."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchema | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class OpenAISampling(Sampling):
    """What both of OpenAI's completions take, and of llama-server's fields those that say what an answer looks like.

    What else there is in a request (`user`, `store`, `metadata`, `service_tier`, ...) is taken and means nothing here.
    """

    model: Annotated[str, Field(max_length=512)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: Stop | None = None
    n: Annotated[int, Field(ge=1, le=16)] = 1
    logit_bias: dict[Annotated[str, Field(max_length=12)], Number] | None = None
    response_format: ResponseFormat | None = None
    grammar: Grammar | None = None
    json_schema: dict[str, Any] | None = None

    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


class TextCompletion(OpenAISampling):
    """POST /v1/completions."""

    prompt: Text | Ids | Annotated[list[Text] | list[Ids], Field(max_length=MOST_ANSWERS)]
    suffix: Text | None = None
    max_tokens: Count | None = 16
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool = False
    best_of: Annotated[int, Field(ge=1, le=20)] | None = None

    def prompts(self) -> list[str] | list[list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        several = bool(self.prompt) and not isinstance(self.prompt[0], int)
        return self.prompt if several else [self.prompt]  # pyright: ignore[reportReturnType]


class Part(BaseModel):
    type: Literal["text"]
    text: Text


class Message(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: Text | list[Part] | None = None

    def plain(self) -> dict[str, Any]:
        """As a chat template takes it: parts of text are one text."""
        found = self.model_dump(exclude_none=True)
        if isinstance(self.content, list):
            found["content"] = "".join(part.text for part in self.content)
        return {"content": ""} | found


class ChatCompletion(OpenAISampling):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=256)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    """OpenAI's name for `tools` before 2024: refused rather than passed over."""
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_format: Literal["auto", "deepseek", "none"] = "auto"
    """llama-server's: "none" leaves thoughts in the content, the others put them into `reasoning_content`."""


class Embeddings(BaseModel):
    """POST /v1/embeddings."""

    model: Annotated[str, Field(max_length=512)] | None = None
    input: Text | Annotated[list[Text] | Ids | list[Ids], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Count | None = None

    def inputs(self) -> list[str] | list[list[int]]:
        if isinstance(self.input, str):
            return [self.input]
        return [self.input] if isinstance(self.input[0], int) else self.input  # pyright: ignore[reportReturnType]


class RunnerEmbedding(Runner):
    """POST /embedding of the runner: `content`, in its README `prompt`."""

    content: Text | None = None
    prompt: Text | None = None

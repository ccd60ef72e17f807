"""What requests may say, as pydantic models: types and bounds are checked before anything else is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gguf_jax.generation import SamplingParams

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[float, Field(ge=-1e9, le=1e9)]
Seed = Annotated[int, Field(ge=-1, lt=2**64)]
Text = Annotated[str, Field(max_length=1 << 22)]
MOST_STOPS = 32


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


class Completion(BaseModel):
    """POST /completion of the runner."""

    prompt: Text
    options: Options = Options()
    stream: bool = True


class Content(BaseModel):
    content: Text
    add_special: bool = False
    parse_special: bool = True


class Tokens(BaseModel):
    tokens: Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(max_length=1 << 20)]


Stop = (
    Annotated[str, Field(min_length=1, max_length=1024)]
    | Annotated[list[Annotated[str, Field(min_length=1, max_length=1024)]], Field(max_length=MOST_STOPS)]
)


class StreamOptions(BaseModel):
    include_usage: bool = False


class OpenAISampling(Sampling):
    """What both of OpenAI's completions take."""

    model: Annotated[str, Field(max_length=512)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: Stop | None = None
    n: Annotated[int, Field(ge=1, le=16)] = 1
    logit_bias: dict[Annotated[str, Field(max_length=12)], Number] | None = None

    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


class TextCompletion(OpenAISampling):
    """POST /v1/completions."""

    prompt: Text | Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(max_length=1 << 20)]
    max_tokens: Count | None = 16
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: Literal[False] = False


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


class Embeddings(BaseModel):
    """POST /v1/embeddings."""

    model: Annotated[str, Field(max_length=512)] | None = None
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"


class RunnerEmbedding(BaseModel):
    """POST /embedding of the runner."""

    content: Text

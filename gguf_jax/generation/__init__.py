"""Generation: sampling, the compiled steps, the engine that drives them, and text on top."""

from gguf_jax.generation.constraint import Constraint
from gguf_jax.generation.engine import Engine
from gguf_jax.generation.request import QueueFull, Request, SlotState
from gguf_jax.generation.sampling import SamplingParams
from gguf_jax.generation.scheduler import Scheduler
from gguf_jax.generation.setting import PromptTooLong
from gguf_jax.generation.speculation import DraftModel, PromptLookup
from gguf_jax.generation.text import Completion, Piece, generate, pieces, token_ids
from gguf_jax.generation.timings import Timings

__all__ = [
    "Completion",
    "Constraint",
    "DraftModel",
    "Engine",
    "Piece",
    "PromptLookup",
    "PromptTooLong",
    "QueueFull",
    "Request",
    "SamplingParams",
    "Scheduler",
    "SlotState",
    "Timings",
    "generate",
    "pieces",
    "token_ids",
]

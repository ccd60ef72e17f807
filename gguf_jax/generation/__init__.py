"""Generation: sampling, the compiled steps, the engine that drives them, and text on top."""

from gguf_jax.generation.engine import Engine, PromptTooLong
from gguf_jax.generation.sampling import SamplingParams
from gguf_jax.generation.text import Completion, Piece, generate, pieces, token_ids
from gguf_jax.generation.timings import Timings

__all__ = [
    "Completion",
    "Engine",
    "Piece",
    "PromptTooLong",
    "SamplingParams",
    "Timings",
    "generate",
    "pieces",
    "token_ids",
]

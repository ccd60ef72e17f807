"""Grammars: what an answer must look like, as constraints that generation asks before each token. Extra `grammars`."""

from gguf_jax.grammars.grammar import Grammar, compile
from gguf_jax.grammars.source import KINDS, GrammarError, Kind, embedded

__all__ = ["KINDS", "Grammar", "GrammarError", "Kind", "compile", "embedded"]

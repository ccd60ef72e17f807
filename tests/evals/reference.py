"""What perplexity and KL divergence mean, in float64 NumPy, token by token; nothing shared with what is under test but
the reference decoder, which is plain NumPy too."""

from __future__ import annotations

import math

import numpy as np
from flax import nnx

from tests.models.reference import logits
from tests.support import small_model

EPS = float(np.finfo(np.float32).eps)


def parameters(model) -> dict[str, np.ndarray]:
    """Tensor name -> float64 values, packed ones dequantized."""
    found = {}
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        value = variable.get_value()
        found[".".join(map(str, path))] = np.asarray(
            value.dequantize() if hasattr(value, "dequantize") else value, np.float64
        )
    return found


def log_probabilities(model, tokens) -> np.ndarray:
    """float64 `[T, vocab]` after each of `tokens`."""
    found = logits(model.config, parameters(model), list(map(int, tokens)))
    high = found.max(-1, keepdims=True)
    return found - high - np.log(np.exp(found - high).sum(-1, keepdims=True))


def scored(tokens, ctx_size, bos=None, stride=None, chunks=None):
    """For each window: what the model sees, the positions it is asked at, and what stands after each."""
    windows = []
    if stride is None:
        starts, first = range(0, len(tokens) - ctx_size + 1, ctx_size), ctx_size // 2
    else:
        starts, first, bos = range(0, len(tokens) - ctx_size, stride), ctx_size - stride - 1, None
    for start in list(starts)[:chunks]:
        seen = list(tokens[start : start + ctx_size])
        asked = list(range(first, ctx_size - 1))
        after = [seen[position + 1] for position in asked]
        windows.append(([bos, *seen[1:]] if bos is not None else seen, asked, after))
    return windows


def nlls(model, windows) -> list[float]:
    """`-log p` of each scored token."""
    found = []
    for seen, asked, after in windows:
        logs = log_probabilities(model, seen)
        found += [-logs[position, token] for position, token in zip(asked, after, strict=True)]
    return found


def klds(base, model, windows) -> tuple[list[float], list[bool]]:
    """Divergence at each scored token, and whether both have the same best one."""
    divergences, same = [], []
    for seen, asked, _ in windows:
        p, q = log_probabilities(base, seen), log_probabilities(model, seen)
        for position in asked:
            divergences.append(math.fsum(np.exp(p[position]) * (p[position] - q[position])))
            same.append(int(p[position].argmax()) == int(q[position].argmax()))
    return divergences, same


def mean(values) -> tuple[float, float]:
    """llama-perplexity's mean and error."""
    n = len(values)
    average = math.fsum(values) / n
    variance = math.fsum(v * v for v in values) / n - average**2
    return average, math.sqrt(max(0.0, variance) / (n - 1))


def noise(model) -> float:
    """How far a log-probability in float32 may be from the same in float64: each product with a weight adds up K
    terms, whose rounding is `eps * sqrt(K)` of the sum of their magnitudes, which the norms before and the weights'
    size bound; a handful of products stand behind one another in each block."""
    config = model.config
    weights = parameters(model)
    output = weights["token_embd.weight" if config.tied_output else "output.weight"]
    size = float(np.abs(output).sum(-1).max()) * float(np.abs(weights["output_norm.weight"]).max())
    products = 7 * config.block_count + 1
    return EPS * math.sqrt(config.embedding_length) * products * size


def damaged(model, amount=0.02, seed=7):
    """A model of the same structure whose weights differ a little."""
    other = small_model(vocab_size=model.config.vocab_size)
    rng = np.random.default_rng(seed)
    state = nnx.state(other)
    flat = zip(nnx.to_flat_state(state), nnx.to_flat_state(nnx.state(model)), strict=True)
    for (_, variable), (_, original) in flat:
        value = np.asarray(original.get_value())
        variable.set_value(value * np.float32(1 + amount * rng.standard_normal(value.shape)))
    nnx.update(other, state)
    return other


class WordTokenizer:
    """Words are the ids themselves: "3 14 15"; BOS is 1 where it is added."""

    def __init__(self, add_bos: bool) -> None:
        self.add_bos, self.bos_id = add_bos, 1

    def encode(self, text, *, add_special=True, parse_special=False):
        ids = [int(word) for word in text.split()]
        return [1, *ids] if add_special and self.add_bos else ids

"""The steps of the sampler as their definitions say, one sequence at a time, in float64 NumPy.

A filter compares numbers that float32 knows only to within a rounding error. `Kept.sure` says whether every comparison
of the chain was decided by more than that error; only then must an implementation agree on the tokens.
"""

from dataclasses import dataclass

import numpy as np

EPS = float(np.finfo(np.float32).eps)


@dataclass
class Kept:
    tokens: np.ndarray  # ids, best first
    sure: bool = True


def mass_error(n):
    """Of a sum of n float32 probabilities: sqrt(n) roundings in effect, and those of exp, its argument and the ratio.

    The argument's error, eps * |x|, is weighed by exp(-|x|) in the sum, so it counts less than once.
    """
    return EPS * (np.sqrt(n) + 4)


def probabilities(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def adjust(logits, params, history):
    """Bias and penalties; `history`: all token ids so far."""
    logits = np.array(logits, np.float64)
    for token, value in params.logit_bias.items():
        logits[token] += value
    last_n = len(history) if params.penalty_last_n == -1 else params.penalty_last_n
    recent = list(history)[max(0, len(history) - last_n) :] if last_n else []
    for token in set(recent):
        if logits[token] > 0:
            logits[token] /= params.repeat_penalty
        else:
            logits[token] *= params.repeat_penalty
        logits[token] -= recent.count(token) * params.frequency_penalty + params.presence_penalty
    return logits


def best_first(logits):
    return np.argsort(-logits, kind="stable")


def top_k(logits, kept, k):
    return Kept(kept.tokens[: k or None], kept.sure)


def typical(logits, kept, typical_p):
    if typical_p >= 1:
        return kept
    values = logits[kept.tokens]
    p = probabilities(values)
    surprise = values.max() - values + np.log(np.exp(values - values.max()).sum())  # -log p, finite when p underflows
    distance = np.abs(surprise - (p * surprise).sum())
    order = np.lexsort((kept.tokens, distance))
    mass = np.cumsum(p[order])
    over = np.flatnonzero(mass > typical_p)
    cut = over[0] if len(over) else len(order) - 1
    near = np.abs(mass - typical_p) <= mass_error(len(p)) * 2
    # Distances carry the errors of two logarithms, of the entropy's sum and of its argument.
    error = EPS * (np.abs(values).max() * 2 + surprise.max() + len(p) + 4)
    blurred = [
        order[i]
        for i in range(len(order))
        if values[order[i]] != values[order[cut]] and abs(distance[order[i]] - distance[order[cut]]) <= error
    ]
    sure = kept.sure and not near.any() and not blurred
    chosen = np.sort(order[: cut + 1])
    return Kept(kept.tokens[chosen], sure)


def top_p(logits, kept, p):
    if p >= 1:
        return kept
    mass = np.cumsum(probabilities(logits[kept.tokens]))
    reached = np.flatnonzero(mass >= p)
    cut = reached[0] if len(reached) else len(mass) - 1
    near = np.abs(mass[: cut + 1] - p) <= mass_error(len(mass))
    return Kept(kept.tokens[: cut + 1], kept.sure and not near.any())


def min_p(logits, kept, p):
    if p == 0:
        return kept
    values = logits[kept.tokens]
    threshold = values.max() + np.log(p)
    error = EPS * (np.abs(values).max() + abs(np.log(p)))
    near = np.abs(values - threshold) <= error
    return Kept(kept.tokens[values >= threshold], kept.sure and not near.any())


def filtered(logits, params):
    """The tokens the filters keep of one row of logits (float32 values in float64)."""
    finite = best_first(logits)
    finite = finite[logits[finite] > -np.inf]
    kept = Kept(finite if len(finite) else np.array([0]))
    if len(finite) == 0:
        return kept
    kept = top_k(logits, kept, params.top_k)
    kept = typical(logits, kept, np.float64(np.float32(params.typical_p)))
    kept = top_p(logits, kept, np.float64(np.float32(params.top_p)))
    return min_p(logits, kept, np.float64(np.float32(params.min_p)))


def log_distribution(logits, tokens, temperature):
    """(log probabilities [V] of softmax(logits / temperature) over `tokens`, error bound [V] of float32)."""
    scores = (logits[tokens] - logits[tokens].max()) / temperature
    log_sum = np.log(np.exp(scores).sum())
    result, error = np.full(len(logits), -np.inf), np.zeros(len(logits))
    result[tokens] = scores - log_sum
    # Subtraction, division, temperature in float32, subtraction of the maximum and of log_sum; the sum and its log.
    error[tokens] = EPS * (5 * np.abs(scores) + np.abs(log_sum) + len(tokens) + 8)
    return result, error

"""A decoder-only transformer in plain NumPy float64: loops, no cache, nothing shared with the model under test.

It states what the model means. Parameters come as a dict of tensor name -> float array.
"""

from __future__ import annotations

import math

import numpy as np

from gguf_jax.models import DecoderConfig
from gguf_jax.nn import RopePairing


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def silu(x):
    return x / (1 + np.exp(-x))


def yarn_mix(rope, pair):
    """Share of extrapolation of one pair: 1 for those that turn fast, 0 for those that turn slowly."""
    yarn = rope.yarn

    def correction(beta):
        return rope.dimension * math.log(yarn.original_context / (beta * 2 * math.pi)) / (2 * math.log(rope.base))

    low, high = max(0, math.floor(correction(yarn.beta_fast))), math.ceil(correction(yarn.beta_slow))
    high = min(rope.dimension - 1, high)
    return (1 - min(1, max(0, (pair - low) / max(0.001, high - low)))) * yarn.ext_factor


def rotate(head, position, rope, factors):
    """One head's vector at one position."""
    out = head.copy()
    half = rope.dimension // 2
    for pair in range(half):
        plain = rope.base ** (-2 * pair / rope.dimension) / (1 if factors is None else factors[pair])
        mix = yarn_mix(rope, pair) if rope.yarn else 0.0
        angle = position * (plain / rope.factor * (1 - mix) + plain * mix)
        scale = rope.attention_factor
        if rope.yarn and rope.yarn.ext_factor and rope.factor > 1:
            scale *= 1 + 0.1 * rope.yarn.mscale * math.log(rope.factor)
            scale /= 1 + 0.1 * rope.yarn.mscale_all_dim * math.log(rope.factor)
        i, j = (2 * pair, 2 * pair + 1) if rope.pairing is RopePairing.INTERLEAVED else (pair, pair + half)
        out[i] = (head[i] * math.cos(angle) - head[j] * math.sin(angle)) * scale
        out[j] = (head[i] * math.sin(angle) + head[j] * math.cos(angle)) * scale
    return out


def norm(c, p, name, x):
    """The norm `name` of the last axes, or x where the model has none of that name."""
    weight = p.get(f"{name}.weight")
    if weight is None:
        return x
    if not c.layer_norm:
        return rms_norm(x, weight, c.norm_eps)
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + c.norm_eps) * weight + p.get(
        f"{name}.bias", 0.0
    )


ACTIVATIONS = {
    "silu": silu,
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


GATINGS = {
    "softmax": lambda z: np.exp(z - z.max()) / np.exp(z - z.max()).sum(),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "softmax_weight": lambda z: z,
}


def swiglu_oai(gate, up):
    gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
    return gate / (1 + np.exp(-1.702 * gate)) * (up + 1)


GATES = {"swiglu": lambda gate, up: silu(gate) * up, "swiglu_oai": swiglu_oai}


def routed(form, z, bias):
    """Of one position: the experts it goes to, and their weights."""
    probs = GATINGS[form.gating](z)
    selection = probs + bias
    if form.groups > 1:
        groups = selection.reshape(form.groups, -1)
        best = np.argsort(-np.sort(groups)[:, -2:].sum(-1))[: form.groups_used]
        selection = np.where(np.isin(np.arange(form.groups), best)[:, None], groups, -np.inf).reshape(-1)
    chosen = np.argsort(-selection)[: form.used]
    weights = probs[chosen]
    if form.gating == "softmax_weight":
        weights = GATINGS["softmax"](weights)
    if form.norm_weights:
        weights = weights / max(weights.sum(), 2.0**-14)
    return chosen, weights * form.scale


def experts(form, p, project, blk, x):
    """One position after the other, one expert after the other."""
    out = np.zeros_like(x)
    z = project(f"{blk}.ffn_gate_inp", x)

    def times(name, expert, row):
        bias = p[f"{blk}.{name}.bias"][expert] if form.bias else 0.0
        return p[f"{blk}.{name}.weight"][expert] @ row + bias

    for t, row in enumerate(x):
        for expert, weight in zip(*routed(form, z[t], p.get(f"{blk}.exp_probs_b.bias", 0.0)), strict=True):
            if form.fused:
                gate, up = np.split(times("ffn_gate_up_exps", expert, row), 2)
            else:
                gate, up = times("ffn_gate_exps", expert, row), times("ffn_up_exps", expert, row)
            out[t] += weight * times("ffn_down_exps", expert, GATES[form.gate](gate, up))
    if form.shared_length:
        inner = silu(project(f"{blk}.ffn_gate_shexp", x)) * project(f"{blk}.ffn_up_shexp", x)
        shared = project(f"{blk}.ffn_down_shexp", inner)
        if form.shared_gate is not None:
            score = x @ p[f"{blk}.ffn_gate_inp_shexp.weight"].reshape(-1)
            shared = shared / (1 + np.exp(-score))[:, None]
        out = out + shared
    return out


def feed_forward(c, p, project, n, x):
    blk, form = f"blk.{n}", c.feed_forward_of(n)
    if type(form).__name__ == "Experts":
        return experts(form, p, project, blk, x)
    act, form = ACTIVATIONS[form.activation], type(form).__name__
    up = project(f"{blk}.ffn_up", x)
    if form == "Gated":
        up = act(project(f"{blk}.ffn_gate", x)) * up
    elif form == "FusedGated":
        up = act(up[:, : c.feed_forward_length]) * up[:, c.feed_forward_length :]
    else:
        up = act(up)
    return project(f"{blk}.ffn_down", up)


def latent(form, c, p, project, blk, x):
    """Queries, keys and values of every head, `[T, H, length]`, the part that is turned first."""
    count = len(x)
    if form.q_rank is None:
        q = project(f"{blk}.attn_q", x)
    else:
        q = project(f"{blk}.attn_q_b", norm(c, p, f"{blk}.attn_q_a_norm", project(f"{blk}.attn_q_a", x)))
    q = q.reshape(count, form.heads, form.nope + form.rope)
    rows = project(f"{blk}.attn_kv_a_mqa", x)
    row, turned = norm(c, p, f"{blk}.attn_kv_a_norm", rows[:, : form.rank]), rows[:, form.rank :]
    k, v = np.zeros((count, form.heads, form.nope)), np.zeros((count, form.heads, form.value))
    for head in range(form.heads):
        if type(form).__name__ == "Absorbed":
            k[:, head] = row @ p[f"{blk}.attn_k_b.weight"][head]
            v[:, head] = row @ p[f"{blk}.attn_v_b.weight"][head].T
        else:
            both = p[f"{blk}.attn_kv_b.weight"].reshape(form.heads, form.nope + form.value, form.rank)[head]
            k[:, head], v[:, head] = row @ both[: form.nope].T, row @ both[form.nope :].T
    turned = np.broadcast_to(turned[:, None], (count, form.heads, form.rope))
    q = np.concatenate([q[..., form.nope :], q[..., : form.nope]], -1)
    return q, np.concatenate([turned, k], -1), v


def capped(x, cap):
    return x if cap is None else cap * np.tanh(x / cap)


def factors_of(c, p, length):
    """Divisors of RoPE's frequencies."""
    if c.rope_factors is None:
        return p.get("rope_freqs.weight")
    return p[f"rope_factors_{'long' if length > c.rope_factors else 'short'}.weight"]


def logits(c: DecoderConfig, params: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """float64 `[T, vocab]`."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}

    def project(name, x):
        return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0.0)

    factors = factors_of(c, p, len(tokens))
    lengths = c.head_count * c.key_length, c.head_count_kv * c.key_length
    x = p["token_embd.weight"][list(tokens)] * c.embedding_scale
    if c.position_embd:
        x = x + p["position_embd.weight"][: len(tokens)]
    for n in range(c.block_count):
        blk = f"blk.{n}"
        normed = norm(c, p, f"{blk}.attn_norm", x)
        h = norm(c, p, f"{blk}.attn_norm_2", x) if c.attn_norm_2 else normed
        if type(c.projection).__name__ in ("Latent", "Absorbed"):
            q, k, v = latent(c.projection, c, p, project, blk, h)
        elif type(c.projection).__name__ == "Fused":
            qkv = project(f"{blk}.attn_qkv", h)
            q, k, v = qkv[:, : lengths[0]], qkv[:, lengths[0] : sum(lengths)], qkv[:, sum(lengths) :]
        else:
            q, k, v = (project(f"{blk}.attn_{name}", h) for name in "qkv")
        whole = c.qk_norm is not None and c.qk_norm.value == "row"
        if whole:
            q, k = norm(c, p, f"{blk}.attn_q_norm", q), norm(c, p, f"{blk}.attn_k_norm", k)
        if q.ndim == 2:
            q = q.reshape(len(tokens), c.head_count, c.key_length)
            k = k.reshape(len(tokens), c.head_count_kv, c.key_length)
            v = v.reshape(len(tokens), c.head_count_kv, c.value_length)
        if not whole:
            q, k = norm(c, p, f"{blk}.attn_q_norm", q), norm(c, p, f"{blk}.attn_k_norm", k)
        rope = c.rope
        if c.windows[n] is not None and c.window_rope is not None:
            rope = c.window_rope
        if c.windows[n] is None and not c.global_rope:
            rope = None
        if rope is not None:
            q, k = q.copy(), k.copy()
            for t in range(len(tokens)):
                for head in range(c.head_count):
                    q[t, head] = rotate(q[t, head], t, rope, factors)
                for head in range(k.shape[1]):
                    k[t, head] = rotate(k[t, head], t, rope, factors)
        if c.temperature is not None:
            steps = np.arange(len(tokens)) // c.temperature.length
            q = q * (1 + c.temperature.scale * np.log(steps + 1))[:, None, None]
        out = np.zeros((len(tokens), c.head_count, v.shape[-1]))
        for t in range(len(tokens)):
            first = 0 if c.windows[n] is None else max(0, t - c.windows[n] + 1)
            for head in range(c.head_count):
                group = head // (c.head_count // k.shape[1])
                scores = capped(k[first : t + 1, group] @ q[t, head] * c.attention_scale, c.attention_softcap)
                if c.attn_sinks:
                    scores = np.append(scores, p[f"{blk}.attn_sinks.weight"][head])
                weights = np.exp(scores - scores.max())
                out[t, head] = (weights / weights.sum())[: t + 1 - first] @ v[first : t + 1, group]
        attended = project(f"{blk}.attn_output", out.reshape(len(tokens), -1))
        attended = norm(c, p, f"{blk}.post_attention_norm", attended) if c.attn_post_norm else attended
        h = x + c.residual_scale * attended
        if c.parallel:
            sees = norm(c, p, f"{blk}.ffn_norm", x) if c.ffn_norm else normed
        else:
            sees = norm(c, p, f"{blk}.{c.ffn_norm_name}", h)
        x = h + c.residual_scale * norm(c, p, f"{blk}.post_ffw_norm", feed_forward(c, p, project, n, sees))
    x = norm(c, p, "output_norm", x)
    y = x @ p["token_embd.weight"].T if c.tied_output else project("output", x)
    return capped(y * c.output_scale, c.output_softcap)

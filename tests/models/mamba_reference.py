"""Mamba in plain NumPy float64: loops over tokens and heads, no cache. It states what the model means."""

from __future__ import annotations

import numpy as np

from gguf_jax.models import MambaConfig
from tests.models.reference import rms_norm, silu


def convolved(p, name, x):
    """A causal convolution of every channel, then silu."""
    weight, out = p[f"{name}.weight"], np.zeros(x.shape)
    taps = weight.shape[1]
    for t in range(len(x)):
        for j in range(taps):
            if t - taps + 1 + j >= 0:
                out[t] += x[t - taps + 1 + j] * weight[:, j]
    return silu(out + p[f"{name}.bias"])


def scanned(x, step, a, b, c):
    """`x [T, H, P]`, `step [T, H]`, `a [H, N]` or `[H, 1]`, `b` and `c [T, G, N]`: one token and head at a time."""
    out = np.zeros(x.shape)
    heads = x.shape[1]
    for h in range(heads):
        g, state = h // (heads // b.shape[1]), np.zeros((x.shape[2], b.shape[2]))
        for t in range(len(x)):
            d = np.log1p(np.exp(step[t, h]))
            state = np.exp(d * a[h]) * state + d * np.outer(x[t, h], b[t, g])
            out[t, h] = state @ c[t, g]
    return out


def layer(cfg, p, blk, x):
    n, inner = cfg.state_size, cfg.inner_size
    made = x @ p[f"{blk}.ssm_in.weight"].T
    if cfg.group_count is None:
        rows, gate = made[:, :inner], made[:, inner:]
        u = convolved(p, f"{blk}.ssm_conv1d", rows)
        dt, b, c = np.split(u @ p[f"{blk}.ssm_x.weight"].T, (cfg.time_step_rank, cfg.time_step_rank + n), axis=-1)
        if cfg.dt_b_c_rms:
            dt, b, c = (rms_norm(each, 1.0, cfg.norm_eps) for each in (dt, b, c))
        step = dt @ p[f"{blk}.ssm_dt.weight"].T + p[f"{blk}.ssm_dt.bias"]
        y = scanned(u[:, :, None], step, p[f"{blk}.ssm_a"], b[:, None], c[:, None])[..., 0] + u * p[f"{blk}.ssm_d"]
        y = y * silu(gate)
    else:
        gate, rows, dt = made[:, :inner], made[:, inner : -cfg.time_step_rank], made[:, -cfg.time_step_rank :]
        u = convolved(p, f"{blk}.ssm_conv1d", rows)
        groups, heads = cfg.group_count, cfg.time_step_rank
        b = u[:, inner : inner + groups * n].reshape(len(x), groups, n)
        c = u[:, inner + groups * n :].reshape(len(x), groups, n)
        u = u[:, :inner].reshape(len(x), heads, inner // heads)
        y = scanned(u, dt + p[f"{blk}.ssm_dt.bias"], p[f"{blk}.ssm_a"], b, c) + u * p[f"{blk}.ssm_d"]
        y = (y.reshape(len(x), inner) * silu(gate)).reshape(len(x), groups, -1)
        y = rms_norm(y, p[f"{blk}.ssm_norm.weight"], cfg.norm_eps).reshape(len(x), inner)
    return y @ p[f"{blk}.ssm_out.weight"].T


def logits(cfg: MambaConfig, params: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """float64 `[T, vocab]`."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    x = p["token_embd.weight"][tokens]
    for i in range(cfg.block_count):
        x = x + layer(cfg, p, f"blk.{i}", rms_norm(x, p[f"blk.{i}.attn_norm.weight"], cfg.norm_eps))
    x = rms_norm(x, p["output_norm.weight"], cfg.norm_eps)
    return x @ p["token_embd.weight" if cfg.tied_output else "output.weight"].T

"""`exposition`: a worker's figures as Prometheus reads them, by the names that llama-server gives them."""

from __future__ import annotations

from typing import Literal

from gguf_jax.server.worker import Worker

PREFIX = "gguf_jax:"

Metric = tuple[str, Literal["counter", "gauge"], str, float]
"""Name, kind, what it tells, value."""


def metrics(worker: Worker) -> list[Metric]:
    f = worker.figures
    scheduler = worker.scheduler
    slots = scheduler.slots if scheduler else []
    waiting = scheduler.waiting if scheduler else 0
    room = len(slots) * scheduler.ctx_size if scheduler else 0
    return [
        ("prompt_tokens_total", "counter", "Tokens of prompts that were run.", f.prompt_tokens),
        ("prompt_tokens_cached_total", "counter", "Tokens of prompts that a cache held already.", f.prompt_cached),
        ("prompt_seconds_total", "counter", "From requests' arrival to their first token.", f.prompt_seconds),
        ("tokens_predicted_total", "counter", "Tokens of answers.", f.drawn),
        ("tokens_predicted_seconds_total", "counter", "From first tokens of answers to the last.", f.drawn_seconds),
        ("requests_answered_total", "counter", "Requests that came to their end.", f.answered),
        ("n_decode_total", "counter", "Steps that drew tokens.", f.steps),
        ("n_tokens_max", "gauge", "Longest sequence so far, prompt and answer.", f.longest),
        ("spec_decode_num_draft_tokens_total", "counter", "Tokens that speculation proposed.", f.guessed),
        ("spec_decode_num_accepted_tokens_total", "counter", "Those of them that were right.", f.accepted),
        (
            "prompt_tokens_seconds",
            "gauge",
            "Prompts' tokens a second, on average.",
            _ratio(f.prompt_tokens, f.prompt_seconds),
        ),
        (
            "predicted_tokens_seconds",
            "gauge",
            "A request's tokens a second, on average.",
            _ratio(f.drawn, f.drawn_seconds),
        ),
        ("n_busy_slots_per_decode", "gauge", "Slots that a step draws for, on average.", _ratio(f.busy, f.steps)),
        ("requests_processing", "gauge", "Requests that stand in a slot.", max(0, worker.active - waiting)),
        ("requests_deferred", "gauge", "Requests that wait for a slot.", waiting),
        (
            "kv_cache_usage_ratio",
            "gauge",
            "Share of the cache that holds something.",
            _ratio(sum(s.held for s in slots), room),
        ),
        ("kv_cache_tokens", "gauge", "Tokens that the cache holds.", sum(s.held for s in slots)),
    ]


def exposition(worker: Worker) -> str:
    """In Prometheus' text format, version 0.0.4."""
    lines = (
        f"# HELP {PREFIX}{name} {tells}\n# TYPE {PREFIX}{name} {kind}\n{PREFIX}{name} {value}\n"
        for name, kind, tells, value in metrics(worker)
    )
    return "".join(lines)


def _ratio(one: float, other: float) -> float:
    return one / other if other else 0.0

"""`gguf-jax lm-eval`: lm-evaluation-harness on GGUF files."""

from __future__ import annotations

import typer

from gguf_jax.cli import options
from gguf_jax.cli.output import write

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Settings of a command whose options are lm_eval's, its --help too."""


def lm_eval(context: typer.Context, debug: options.Debug = False) -> None:
    """lm_eval's own command line, with the model gguf-jax: --tasks NAME,... --model_args path=FILE,...

    Other model_args, each name=value: ctx_size, precision (exact, fast),
    batch_tokens, max_gen_toks, cache_type, seed, enable_thinking.
    --batch_size answers so many prompts at once.

    `gguf-jax lm-eval run --help` lists lm_eval's options,
    `gguf-jax lm-eval ls tasks` its tasks.
    """
    if context.args in ([], ["-h"], ["--help"]):
        write(context.get_help() + "\n")
        return
    from gguf_jax.evals.lm_eval import run

    run(context.args)

"""lm-evaluation-harness (the package `lm_eval`) on GGUF files.

lm_eval knows the models in its own table and looks for no others in installed packages. So `gguf-jax lm-eval ARGS` is
its command line with one model more, `gguf-jax`. In Python:

    from gguf_jax.evals import lm_eval as gguf_jax_lm_eval

    gguf_jax_lm_eval.register()  # for this process
    lm_eval.simple_evaluate(model="gguf-jax", model_args="path=model.gguf", tasks=["arc_easy"])

`model.GGUFLM` is the class that it makes, `requests` what lm_eval's requests mean. Only `model` needs lm_eval to be
imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gguf_jax.errors import GGUFJaxError

NAME = "gguf-jax"
"""What lm_eval calls the model."""


def register() -> None:
    """Make `--model gguf-jax` known to lm_eval, in this process. May be called again.

    Raises:
        GGUFJaxError: lm_eval is not installed, or is older than what the extra `lm-eval` asks for.
    """
    try:
        # an optional package; it fills its registry with its own models on this import, or when it finds it empty
        import lm_eval.models  # noqa: F401  # pyright: ignore[reportMissingImports]
        from lm_eval.api.registry import model_registry  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise GGUFJaxError(
            f"lm_eval: expected the package that the extra gguf_jax[lm-eval] installs, found none ({error})"
        ) from error
    if NAME not in model_registry:
        model_registry.register(NAME, target="gguf_jax.evals.lm_eval.model:GGUFLM")  # imported when it is asked for


def run(arguments: Sequence[str]) -> None:
    """lm_eval's command line. Where `arguments` name no model, it is `gguf-jax`.

    Raises:
        GGUFJaxError: as `register` and `model.GGUFLM`; or lm_eval refuses what it is asked for.
        SystemExit: as lm_eval's own, after its help or a usage error.
    """
    register()
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    before, sys.argv = sys.argv, ["gguf-jax lm-eval", *with_model(arguments)]  # which is where lm_eval looks
    try:
        cli_evaluate()
    except GGUFJaxError:
        raise
    except (ValueError, FileNotFoundError) as error:  # an unknown task, an option that excludes another, ...
        raise GGUFJaxError(f"lm_eval: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    finally:
        sys.argv = before


def with_model(arguments: Sequence[str]) -> list[str]:
    """`arguments`, and `--model gguf-jax` where they run an evaluation and neither name a model nor a file that may."""
    found = list(arguments)
    named = any(argument.split("=")[0] in ("--model", "-M", "--config", "-C") for argument in found)
    runs = found[:1] == ["run"] or bool(found and found[0].startswith("-"))
    return [*found, "--model", NAME] if runs and not named else found

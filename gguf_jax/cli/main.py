"""The program `gguf-jax`: how it begins and how errors, Ctrl-C and lost output end it."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from gguf_jax.cli import output
from gguf_jax.errors import GGUFJaxError

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


def main() -> None:
    """Entry point. Its status is

    0: done, or the reader of the output has gone (`| head`);
    1: an error of the user's, which is one line on stderr (`--debug` lets the traceback through);
    2: a usage error, an unknown option or a value of the wrong type, which Typer shows in its own way;
    130: Ctrl-C.
    """
    sys.unraisablehook = _keep_interrupts
    # what was closed before the program began
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115 - for as long as the program runs
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    status = _status()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # another Ctrl-C may kill the program now, without a traceback
    if "jax" in sys.modules:
        # Ctrl-C leaves XLA compiling in a thread of its own, and to take Python down under it is a segmentation fault
        os._exit(status)
    sys.exit(status)


def _status() -> int:
    try:
        _command()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:
        return 130
    except GGUFJaxError as error:
        if "--debug" in sys.argv[1:]:
            raise
        output.say(f"error: {error}")
        return 1
    except RuntimeError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # Python 3.11 wraps what a `__set_name__` raises
            return 130
        raise
    return 0


def _command() -> None:
    from gguf_jax.cli.app import app  # here, where Ctrl-C is caught: with Typer it takes a tenth of a second

    with output.guarded():
        app()


def _keep_interrupts(unraisable: UnraisableHookArgs) -> None:
    """Send Ctrl-C again when it arrives where Python can only print and forget an exception: in a callback of a weak
    reference, as importlib and JAX have them, or in a `__del__`."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, _thread.interrupt_main).start()  # later, since it would arrive in here as well
    else:
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    main()

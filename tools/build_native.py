"""Builds the library of CPU kernels (gguf_jax/ops/native) with CMake: `make native`, and pip through hatch_build.py.

    python tools/build_native.py                        # into the source tree, where an editable install finds it
    python tools/build_native.py --sanitize --to out    # with sanitizers, into a folder; see .ci/native

The build folder is kept, so that it compiles what changed. XLA's headers come from the jaxlib of the interpreter that
runs this; a library built with one jaxlib runs with that and later ones. Without a C++ compiler it says so in one line
and is done, unless GGUF_JAX_NATIVE=require.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "gguf_jax" / "ops" / "native"
FILE = "gguf_jax_kernels.so"

COMPILERS = ("c++", "g++", "clang++")
"""What CMake looks for as well, after $CXX."""


class NotBuilt(Exception):
    """Why there is no library."""


def wanted() -> bool:
    return os.environ.get("GGUF_JAX_NATIVE") != "off"


def required() -> bool:
    return os.environ.get("GGUF_JAX_NATIVE") == "require"


def compiler() -> str | None:
    named = os.environ.get("CXX", "").split()
    return shutil.which(named[0]) if named else next(filter(None, map(shutil.which, COMPILERS)), None)


def tool(name: str) -> str:
    """CMake or ninja: PyPI's beside this interpreter, or the system's."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise NotBuilt(f"there is no {name} (`pip install {name}`)")
    return found


def headers() -> Path:
    spec = importlib.util.find_spec("jaxlib")
    for place in (spec and spec.submodule_search_locations) or []:
        if (found := Path(place) / "include").is_dir():
            return found
    raise NotBuilt("there is no jaxlib, which XLA's headers come with")


def build(folder: Path, *, sanitize: bool = False, targets: Sequence[str] = (), options: Sequence[str] = ()) -> Path:
    """Compile in `folder`; where the library is then (`targets` names other things to make instead).

    Raises:
        NotBuilt: a tool is missing, or one failed.
    """
    if compiler() is None:
        raise NotBuilt("there is no C++ compiler")
    cmake = tool("cmake")
    configure = [
        *(cmake, "-S", str(SOURCE), "-B", str(folder), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"),
        *(f"-DGGUF_JAX_FFI_INCLUDE={headers()}", f"-DGGUF_JAX_SANITIZE={'ON' if sanitize else 'OFF'}"),
        *options,
    ]
    compile = [cmake, "--build", str(folder), *(part for target in targets for part in ("--target", target))]
    for command in (configure, compile):
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if ended.returncode:
            sys.stderr.write(ended.stdout)
            raise NotBuilt(f"{' '.join(command[:2])} failed")
    return folder / FILE


def place(made: Path, target: Path) -> Path:
    """Copy the library into a folder, beside an old one, which it then replaces: a process may have that mapped."""
    target.mkdir(parents=True, exist_ok=True)
    fresh = target / f"{FILE}.new"
    shutil.copy2(made, fresh)
    return fresh.replace(target / FILE)


def without(reason: NotBuilt) -> str:
    return f"gguf_jax: built without native kernels, so that everything runs on XLA, far slower: {reason}"


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=SOURCE, help="folder that the library goes to")
    parser.add_argument("--folder", type=Path, help="folder to compile in; default: below build")
    parser.add_argument("--sanitize", action="store_true", help="with the address and undefined-behaviour sanitizers")
    parser.add_argument("--target", action="append", default=[], help="another target to make, such as runner")
    parser.add_argument("options", nargs="*", help="more options for CMake, after --")
    args = parser.parse_args()
    if not wanted():
        print("gguf_jax: GGUF_JAX_NATIVE=off, native kernels are not built", file=sys.stderr)
        return
    folder = args.folder or SOURCE.parents[2] / "build" / ("native-sanitize" if args.sanitize else "native")
    try:
        made = build(folder, sanitize=args.sanitize, options=args.options)
        if args.target:
            build(folder, sanitize=args.sanitize, targets=args.target, options=args.options)
        print(place(made, args.to))
    except NotBuilt as reason:
        if required():
            sys.exit(f"error: GGUF_JAX_NATIVE=require: native kernels: {reason}")
        (args.to / FILE).unlink(missing_ok=True)  # what older sources made must not run with today's Python
        print(without(reason), file=sys.stderr)


if __name__ == "__main__":
    main()

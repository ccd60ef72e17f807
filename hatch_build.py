"""Puts the library of CPU kernels into the wheel, or for an editable install beside its source.

scikit-build-core (1.1) was tried. Its editable installs, `redirect` and `inplace` alike, put an import hook before the
path, so that in a second checkout `python -m pytest` would test the first one; and what a build needs (XLA's headers, a
hundred megabytes of jaxlib) could not depend on whether there is a compiler.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent / "tools"))
import build_native


class NativeKernels(BuildHookInterface):
    def dependencies(self) -> list[str]:
        if not build_native.wanted() or build_native.compiler() is None:
            return []
        # XLA runs what was built for its own FFI or an earlier one: the earliest jaxlib that the package takes, where
        # it is to be had.
        jaxlib = ["jaxlib>=0.10,<0.11; python_version < '3.15'", "jaxlib>=0.10; python_version >= '3.15'"]
        return jaxlib + [tool for tool in ("cmake", "ninja") if shutil.which(tool) is None]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not build_native.wanted():
            return
        self.folder = tempfile.mkdtemp(prefix="gguf_jax-")
        try:
            made = build_native.build(Path(self.folder))
        except build_native.NotBuilt as reason:
            if build_native.required():
                raise SystemExit(f"error: GGUF_JAX_NATIVE=require: native kernels: {reason}") from None
            if version == "editable":
                (build_native.SOURCE / build_native.FILE).unlink(missing_ok=True)
            self.app.display_warning(build_native.without(reason))
            return
        if version == "editable":
            build_native.place(made, build_native.SOURCE)
        else:
            place = build_native.SOURCE.relative_to(self.root) / build_native.FILE
            build_data["force_include"][str(made)] = place.as_posix()
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"  # of Python it uses nothing

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if folder := getattr(self, "folder", None):
            shutil.rmtree(folder, ignore_errors=True)

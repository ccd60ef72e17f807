"""Contract: reading files costs neither JAX nor fsspec."""

import subprocess
import sys

CODE = """
import sys
import gguf_jax.gguf
import gguf_jax.gguf.summary
gguf_jax.gguf.read(sys.argv[1]).tensors["output_norm.weight"].dequantize()
sys.exit(", ".join({"jax", "jaxlib", "flax", "fsspec", "huggingface_hub"} & set(sys.modules)) or 0)
"""


def test_what_is_imported(bundled):
    run = subprocess.run([sys.executable, "-c", CODE, str(bundled)], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")

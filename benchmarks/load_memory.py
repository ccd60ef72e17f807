"""Peak memory of `gj.load` in a process of its own, beside the size of the file.

python benchmarks/load_memory.py MODEL.gguf [MODEL.gguf ...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

CODE = """
import sys
import gguf_jax as gj
if sys.argv[1]:
    gj.load(sys.argv[1])
else:
    import jax
    gj.Engine, gj.Tokenizer, jax.numpy.zeros(1).block_until_ready()
with open("/proc/self/status") as lines:  # ru_maxrss would be the parent's, where that is larger
    print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


def peak(path: str) -> int:
    """Bytes. Without a path: what the imports alone take."""
    out = subprocess.run([sys.executable, "-c", CODE, path], check=True, capture_output=True, text=True).stdout
    return int(out) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    bare = peak("")
    print(f"imports alone: {bare / 1e6:.0f} MB")
    for path in parser.parse_args().models:
        size, most = os.path.getsize(path), peak(path)
        bound = size * 1.3e-6 + 700
        print(f"{os.path.basename(path)}: file {size / 1e6:.0f} MB, peak {most / 1e6:.0f} MB, bound {bound:.0f} MB")


if __name__ == "__main__":
    main()

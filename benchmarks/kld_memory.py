"""Peak memory of a KL divergence over a large vocabulary, beside the two models: there is no file of logits, and no
array of them either.

    python benchmarks/kld_memory.py [--vocab 151936] [--tokens 100000] [--batch-size N]

Two random decoders of one block and a large vocabulary are compared over so many scored tokens, in a process of its
own. A file of log-probabilities, as llama-perplexity writes it, would have two bytes for each token of the vocabulary
and each scored token; its size is shown beside.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

CODE = """
import json, sys, time
import jax, numpy as np
from flax import nnx
import gguf_jax as gj
from gguf_jax.nn import RopeConfig, RopePairing

vocab, tokens, batch_size = map(int, sys.argv[1:])
config = gj.DecoderConfig(
    architecture="llama", vocab_size=vocab, context_length=512, block_count=1, embedding_length=64,
    feed_forward_length=128, head_count=2, head_count_kv=2, key_length=32, value_length=32, norm_eps=1e-5,
    rope=RopeConfig(32, 10000.0, RopePairing.HALVES), attention_scale=32**-0.5, windows=(None,),
)

def peak():
    with open("/proc/self/status") as lines:
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

models = [gj.Decoder(config, rngs=nnx.Rngs(seed)) for seed in (1, 2)]
size = sum(leaf.nbytes for model in models for leaf in jax.tree.leaves(nnx.state(model)))
before = peak()
windows = -(-tokens // 255)  # the second halves of windows of 512 are scored
text = np.random.default_rng(0).integers(0, vocab, 512 * windows)
began = time.perf_counter()
(found,) = gj.kl_divergence(models[0], models[1], text, batch_size=batch_size or None)
print(json.dumps(dict(peak=peak(), before=before, models=size, tokens=found.tokens, kld=found.kld.value,
                      seconds=time.perf_counter() - began)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--batch-size", type=int, default=0)
    arguments = parser.parse_args()
    given = [str(each) for each in (arguments.vocab, arguments.tokens, arguments.batch_size)]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", CODE, *given], capture_output=True, text=True, check=False, cwd=root)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    mb = {name: found[name] / 1e6 for name in ("models", "before", "peak")}
    file = 2 * arguments.vocab * found["tokens"] / 1e6
    print(f"{found['tokens']} tokens scored over {arguments.vocab} in {found['seconds']:.0f} s, "
          f"mean KLD {found['kld']:.5f}")  # fmt: skip
    print(f"models {mb['models']:.0f} MB; peak before measuring {mb['before']:.0f} MB, with it {mb['peak']:.0f} MB: "
          f"{mb['peak'] - mb['models']:.0f} MB beside the models")  # fmt: skip
    print(f"a file of log-probabilities would have {file:.0f} MB")


if __name__ == "__main__":
    main()

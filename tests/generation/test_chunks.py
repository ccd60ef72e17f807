"""A prompt gives the same bits in whatever chunks it is run: what is reused of one depends on nobody's history."""

import jax
import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.generation import steps
from gguf_jax.generation.setting import Setting
from tests.support import needed


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_exact_chunks(precision):
    needed("native", lambda: None)
    setting = Setting(gj.load(), ctx_size=128, precision=precision)
    prompt = np.random.default_rng(0).integers(10, 4000, 90).tolist()

    def run(*ends):
        cache, logits, start = setting.new_cache(1), None, 0
        for end in ends:
            length = setting.chunk_length(end - start)
            tokens, positions = np.zeros((1, length), np.int32), np.full((1, length), -1, np.int32)
            tokens[0, : end - start] = prompt[start:end]
            positions[0, : end - start] = range(start, end)
            last, slots = np.array([end - start - 1], np.int32), np.zeros(1, np.int32)
            options = dict(spec=setting.spec, reach=128, span=setting.span(end))
            logits, cache = steps.prefill_slots(setting.leaves, tokens, positions, last, cache, slots, **options)
            start = end
        return jax.tree.leaves((logits, cache))

    whole = run(90)
    for ends in ((89, 90), (30, 90), (16, 47, 90)):
        assert all((np.asarray(one) == np.asarray(two)).all() for one, two in zip(whole, run(*ends), strict=True))

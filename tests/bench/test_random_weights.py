"""Random packed weights are ones that an encoder could have written, of the scale that models have."""

import numpy as np
import pytest

from gguf_jax.bench.random_weights import STD, random_blocks
from gguf_jax.formats import FORMATS, GGMLType

WEIGHTS = [form for form in FORMATS.values() if form.is_quantized or form.name in ("F32", "F16", "BF16")]


@pytest.mark.parametrize("form", WEIGHTS, ids=lambda form: form.name)
def test_weights_are_finite_and_of_the_scale_of_a_model(form):
    blocks = random_blocks(form, 2000, np.random.default_rng(0))
    assert (blocks.dtype, blocks.shape) == (np.uint8, (2000, form.bytes_per_block))
    values = form.decode(form.blocked(form.split(blocks)), np)
    assert np.isfinite(values).all()
    assert abs(values.std() / STD - 1) < 0.1
    assert abs(values.mean()) < STD / 2  # Q2_0 has more codes above zero than below


def test_codes_that_encoders_do_not_write_are_left_out():
    q8_0 = FORMATS[GGMLType.Q8_0]
    assert q8_0.split(random_blocks(q8_0, 2000, np.random.default_rng(0)))["qs"].min() == -127
    tq2_0 = FORMATS[GGMLType.TQ2_0]
    codes = tq2_0.split(random_blocks(tq2_0, 100, np.random.default_rng(0)))["qs"]
    assert {int(code) for shift in range(0, 8, 2) for code in np.unique(codes >> shift & 3)} == {0, 1, 2}

"""Every architecture: what a file's metadata and tensors say is the configuration it should be, and computes that."""

import numpy as np
import pytest
from flax import nnx

from gguf_jax.checkpoint import tensors_of
from gguf_jax.models import ARCHITECTURES, Decoder, config_of
from tests.models import reference
from tests.models.encoder_families import ENCODERS
from tests.models.families import FAMILIES
from tests.models.mamba_families import MAMBAS
from tests.models.test_decoder import rounding, run_cached
from tests.support import small_model

TOKENS = np.random.default_rng(0).integers(0, 97, 13).tolist()


def test_every_architecture_has_a_family():
    every = [*FAMILIES.values(), *ENCODERS.values(), *MAMBAS.values()]
    assert {family.architecture for family in every} == set(ARCHITECTURES)


@pytest.mark.parametrize("name", FAMILIES)
def test_exact_configuration(name):
    family = FAMILIES[name]
    config = family.make()
    state = nnx.state(nnx.eval_shape(lambda: Decoder(config, rngs=None)))
    shapes = {".".join(map(str, path)): leaf.get_value().shape for path, leaf in nnx.to_flat_state(state)}
    assert config_of(family.metadata(config), shapes) == config


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_the_references(name):
    model = small_model(**vars(FAMILIES[name].make()))
    expected = reference.logits(model.config, tensors_of(model), TOKENS)
    found = np.asarray(model(np.array([TOKENS])))[0]
    assert np.abs(found - expected).max() <= rounding(expected, model.config)


@pytest.mark.parametrize("name", [name for name in FAMILIES if "factors" not in name])
def test_property_one_by_one_is_the_whole(name):
    model = small_model(**vars(FAMILIES[name].make()))
    whole = np.asarray(model(np.array([TOKENS])))[0]
    found = run_cached(model, TOKENS, list(range(len(TOKENS))))
    assert np.abs(found - whole).max() <= 2 * rounding(whole, model.config)

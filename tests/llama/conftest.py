"""What the tests of `Llama` share: sizes, so that programs are compiled once."""

import pytest

import gguf_jax as gj

SIZES = dict(n_ctx=768, n_batch=32, verbose=False)


@pytest.fixture(scope="session")
def llm(bundled):
    """The bundled model, with a format of conversations that it was not trained on."""
    with gj.Llama(str(bundled), chat_format="chatml", **SIZES) as found:
        yield found

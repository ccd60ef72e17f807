"""`python -m gguf_jax` is `gguf-jax`."""

from gguf_jax.cli.main import main

main()

"""Experiments: a config says what is measured, `python -m experiments run CONFIG.toml` measures it. See README.md."""

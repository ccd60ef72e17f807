from gguf_jax.ops.linear.api import gated_linear, linear, linears

__all__ = ["gated_linear", "linear", "linears"]

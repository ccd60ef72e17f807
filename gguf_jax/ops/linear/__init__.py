from gguf_jax.ops.linear.api import Precision, gated_linear, linear, linears

__all__ = ["Precision", "gated_linear", "linear", "linears"]

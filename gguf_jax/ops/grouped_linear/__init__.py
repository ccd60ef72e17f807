from gguf_jax.ops.grouped_linear.api import gated_grouped_linear, grouped_linear, grouped_linears

__all__ = ["gated_grouped_linear", "grouped_linear", "grouped_linears"]

"""Measuring: what a text tells about a model, and what a quantization costs."""

"""Shapes that `encode` has in real models, for measuring, and small ones, for tests: `[rows, columns]`."""

SHAPES = {
    "qwen2-1.5b.ffn_down": (1536, 8960),
    "tensor": (4096, 2048),
    "small": (5, 512),
}

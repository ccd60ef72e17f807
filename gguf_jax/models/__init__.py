"""Model code: one generic decoder, encoders, and one entry in `ARCHITECTURES` for each `general.architecture`."""

from gguf_jax.models.architectures import ARCHITECTURES, Architecture, architecture_of, config_of
from gguf_jax.models.config import DecoderConfig
from gguf_jax.models.decoder import Decoder
from gguf_jax.models.encoder import Encoder, EncoderConfig, T5Encoder
from gguf_jax.models.mamba import Mamba, MambaConfig

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Decoder",
    "DecoderConfig",
    "Encoder",
    "EncoderConfig",
    "Mamba",
    "MambaConfig",
    "T5Encoder",
    "architecture_of",
    "config_of",
]

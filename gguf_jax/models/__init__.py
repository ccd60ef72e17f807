"""Model code: one generic decoder, and one entry in `ARCHITECTURES` for each `general.architecture`."""

from gguf_jax.models.architectures import ARCHITECTURES, Architecture, architecture_of, config_of
from gguf_jax.models.config import DecoderConfig
from gguf_jax.models.decoder import Decoder

__all__ = ["ARCHITECTURES", "Architecture", "Decoder", "DecoderConfig", "architecture_of", "config_of"]

"""Codecs: what travels instead of full-precision tensors."""

from fedkt.codecs.codec import Codec, codec_named
from fedkt.codecs.dtype import Float16

__all__ = ["Codec", "Float16", "codec_named"]

"""Codecs: what travels instead of full-precision tensors. One codec a file."""

from fedkt.codecs.codec import About, Arrays, Codec, codec_chain, uses_base, wire_name
from fedkt.codecs.dtype import Float16

__all__ = ["About", "Arrays", "Codec", "Float16", "codec_chain", "uses_base", "wire_name"]

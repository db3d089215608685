"""Codecs: what travels instead of full-precision tensors. One codec a file."""

from fedkt.codecs.codec import (
    About,
    Arrays,
    Codec,
    Size,
    codec_chain,
    encoded,
    follows_progress,
    uses_base,
    wire_name,
)
from fedkt.codecs.dtype import Float16

__all__ = [
    "About",
    "Arrays",
    "Codec",
    "Float16",
    "Size",
    "codec_chain",
    "encoded",
    "follows_progress",
    "uses_base",
    "wire_name",
]

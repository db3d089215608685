"""The protocol of codecs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, cast

import numpy as np

from fedkt import registry

Arrays = dict[str, np.ndarray]


class Codec(Protocol):
    """Encoder and decoder of the arrays of knowledge; both sides of the wire use it."""

    part: ClassVar[str]

    def encode(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """Return the arrays that travel; raise KnowledgeError if that is impossible."""
        ...

    def decode(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """Return arrays in the dtype the receiver computes with."""
        ...


def codec_named(name: str) -> Codec:
    """Return a new codec by its registered name; the name may come over the wire."""
    return cast(Codec, registry.lookup("codecs", name, files=False)())

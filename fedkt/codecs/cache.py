"""Rows that the receiver has had for a few rounds only are not sent again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkt.codecs.codec import About, Arrays, Codec, Size
from fedkt.errors import KnowledgeError
from fedkt.options import AtLeastOne
from fedkt.registry import register


@register
@dataclass(frozen=True)
class Cache(Codec):
    """Codec that leaves out rows that the receiver was sent less than D rounds ago.

    The soft-label cache of SCARLET (Azuma, Nishio, Kitagawa, Nakano and Tanimura, "Soft-Label
    Caching and Sharpening for Communication-Efficient Federated Distillation", IEEE TMC 2026,
    arXiv:2504.19602): the row of a sample in round t is what was sent in the last round r with
    ``t − r < D``, and travels only where there is none. Both ends keep all rows that came, those of
    other rounds' samples too, and the round of each; so they know which rows travel, where the
    paper's server sends a signal for each sample (cached, newly cached, expired). It works in each
    direction: the paper caches what the server has fused, and here what each client answers too.
    A client of which the server does not know what it holds, as after a failure, is sent all rows.

    Bytes of M rows of w bytes, F of them not known or D rounds old: ``F·w``. With D = 1 that is
    all of them. Error: 0 of a row that travels; one that does not is that of up to D − 1 rounds
    ago. Knowledge without rows travels as it is. In ``cache+cfd`` the next codec gets the rows that
    travel.

    Parameters
    ----------
    rounds : int
        D; the paper's is 50.
    """

    name: ClassVar[str] = "cache"
    uses_base: ClassVar[bool] = True
    keeps_rows: ClassVar[bool] = True

    rounds: AtLeastOne = 50

    def encode(self, arrays: Arrays, about: About) -> Arrays:
        """Return the rows that travel."""
        rows = self.sends(about)
        return arrays if rows is None else {name: array[rows] for name, array in arrays.items()}

    def decode(self, arrays: Arrays, about: About) -> Arrays:
        """Return all rows, those that did not travel of the base."""
        rows = self.sends(about)
        if rows is None or about.base is None:
            return arrays
        decoded = {name: array.copy() for name, array in about.base.items()}
        for name, array in arrays.items():
            if array.shape != decoded[name][rows].shape:
                raise KnowledgeError(f"{name} of shape {list(array.shape)} for {rows.sum()} rows")
            decoded[name][rows] = array
        return decoded

    def sends(self, about: About) -> np.ndarray | None:
        """Return which rows the base lacks, or has had for D rounds."""
        if about.known is None or about.ages is None:
            return None
        young: np.ndarray = about.known & (about.ages < self.rounds)
        return ~young

    def encoded_size(self, size: Size) -> Size:
        """Return the same size."""
        return size

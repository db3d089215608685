"""The number of the client's samples of each class."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedkt.about import Model
from fedkt.knowledge import Kind, Knowledge
from fedkt.registry import register
from fedkt.shares.share import Asked, Share, ShareWork
from fedkt.shares.sizes import INT64, Sizes
from fedkt.upload_check import LARGEST_COUNT, Expected


@register(name="class-counts")
@dataclass(frozen=True)
class ClassCounts(Share):
    """The number of private training samples of each class.

    Statistics ``counts``, int64 ``[C]``: the client's label histogram, as it is.

    Parameters
    ----------
    name : str
        The share's name.
    """

    name: str = "class-counts"

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "statistics"

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return ``counts [C]``."""
        return Knowledge(self.kind, {"counts": work.data.class_counts})

    def expected(self, asked: Asked) -> Expected:
        """Return ``counts [C]`` int64, from 0 to 10⁹."""
        limits = torch.tensor(0), torch.tensor(LARGEST_COUNT)
        shapes, dtypes = {"counts": (asked.num_classes,)}, {"counts": torch.int64}
        return Expected(self.kind, None, shapes, dtypes=dtypes, between={"counts": limits})

    def upload_bytes(self, sizes: Sizes) -> int:
        """Return the bytes of C whole numbers."""
        return INT64 * sizes.classes

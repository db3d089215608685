"""Mean features of the client's own samples of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fedkt import about
from fedkt.about import Model
from fedkt.data.samples import ClientData
from fedkt.knowledge import Kind, Knowledge
from fedkt.registry import register
from fedkt.shares.class_means import class_means
from fedkt.shares.public_features import features_of
from fedkt.shares.share import Asked, Question, Share, ShareWork
from fedkt.shares.sizes import INT64, Sizes
from fedkt.upload_check import Expected


@register(name="prototypes")
@dataclass(frozen=True)
class Prototypes(Share):
    """Prototypes: mean features of the private training samples of each class.

    Rows ``[K, d]`` float32 of the K classes that the client holds, by class id; ``counts`` are
    the samples behind them. Tan et al. (2022), arXiv:2105.00243, equation 3.

    Parameters
    ----------
    name : str
        The share's name.
    partial : bool
        Whether clients may lack classes.
    """

    name: str = "prototypes"
    partial: bool = True

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "prototypes"

    def refuses(self, model: Model, data: ClientData) -> str | None:
        """Refuse models without features."""
        return about.no_features(model, data)

    def about(self, model: Model, data: ClientData) -> Mapping[str, str]:
        """Return the width of the features."""
        return about.of_features(model, data)

    def questions(self, work: ShareWork) -> Sequence[Question]:
        """Return the training samples, whose features are asked for."""
        return (Question(work.data.train.x, features=True),)

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the means, one row a class that the client holds."""
        samples = work.data.train
        return class_means(self.kind, features_of(model, samples.x), samples)

    def expected(self, asked: Asked) -> Expected:
        """Return ``values [C, d]``, of which rows may lack; d is that of most clients."""
        shapes = {"values": (asked.num_classes, None)}
        return Expected(self.kind, torch.arange(asked.num_classes), shapes, partial=self.partial)

    def upload_bytes(self, sizes: Sizes) -> tuple[int, int]:
        """Return the bytes of no class, and of C rows of d floats with their ids and counts."""
        return 0, sizes.classes * (sizes.floats * sizes.features + 2 * INT64)

"""Features of public samples, and what shares of features have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedkt import about
from fedkt.about import Model
from fedkt.answers import finite
from fedkt.data.samples import ClientData
from fedkt.knowledge import Kind, Knowledge
from fedkt.options import Count
from fedkt.registry import register
from fedkt.shares.ids import public_ids, public_samples
from fedkt.shares.share import Asked, Question, Share, ShareWork
from fedkt.shares.sizes import Sizes
from fedkt.upload_check import Expected


@register(name="features")
@dataclass(frozen=True)
class Features(Share):
    """The model's features of public samples: rows ``[M, d]`` float32.

    Parameters
    ----------
    samples : int
        How many public samples a round, drawn anew each round by (seed, round) on both sides,
        so that no ids travel; 0 takes them all.
    name : str
        The share's name.
    """

    samples: Count = 0
    name: str = "features"
    private: ClassVar[bool] = False
    uses_public: ClassVar[bool] = True

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "features"

    def refuses(self, model: Model, data: ClientData) -> str | None:
        """Refuse models without features."""
        return about.no_features(model, data)

    def about(self, model: Model, data: ClientData) -> Mapping[str, str]:
        """Return the public set and the width of the features."""
        return {**about.of_public(data), **about.of_features(model, data)}

    def ids(
        self, size: int, seed: int, round: int, asked: Mapping[str, Knowledge] | None = None
    ) -> Tensor | None:
        """Return the ids of the round's public samples, ascending."""
        return public_ids(size, self.samples, seed, round)

    def questions(self, work: ShareWork) -> Sequence[Question]:
        """Return the round's public samples, whose features are asked for."""
        public = work.data.public
        if public is None:
            return ()
        samples = public_samples(public, self.samples, work.seed, work.round)
        return (Question(samples.x, features=True),)

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the features, one row a public sample."""
        samples = public_samples(work.data.public, self.samples, work.seed, work.round)
        return Knowledge.rows(self.kind, features_of(model, samples.x), samples.ids)

    def expected(self, asked: Asked) -> Expected:
        """Return ``values [M, d]``; d is that of most clients."""
        assert asked.ids is not None
        return Expected(self.kind, asked.ids, {"values": (len(asked.ids), None)})

    def upload_bytes(self, sizes: Sizes) -> int:
        """Return the bytes of M rows of d floats."""
        return sizes.floats * sizes.features * min(self.samples or sizes.public, sizes.public)


def features_of(model: Model, x: Tensor) -> Tensor:
    """Return features ``[n, d]``; ``[0, 0]`` of no samples.

    Raises
    ------
    NotFiniteError
        If they are not finite.
    """
    return finite(model.features(x), "features") if len(x) else torch.zeros(0, 0)

"""Styles of images: channel statistics of pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from fedkt import about
from fedkt.about import Model
from fedkt.adaptation.restyle import styles_of
from fedkt.data.samples import ClientData
from fedkt.errors import KnowledgeError
from fedkt.knowledge import Kind, Knowledge
from fedkt.options import AtLeastOne
from fedkt.registry import register
from fedkt.rng import torch_rng
from fedkt.shares.share import Asked, Share, ShareWork
from fedkt.shares.sizes import Sizes
from fedkt.upload_check import Expected


@register(name="styles")
@dataclass(frozen=True)
class Styles(Share):
    """Styles of the private images: channel means and standard deviations of pixels.

    Statistics ``mean [k, C]`` and ``std [k, C]`` float32 of the training images, C channels.

    Parameters
    ----------
    of : {"overall", "single"}
        ``overall``: one style, over the pixels of all images (k = 1). ``single``: the styles of
        ``images`` single images (k = ``images``), drawn once by (seed, client); some more than
        once where the client has fewer.
    images : int
        How many, for ``single``; every round the same ones.
    name : str
        The share's name.
    """

    of: Literal["overall", "single"] = "overall"
    images: AtLeastOne = 10
    name: str = "styles"

    @property
    def count(self) -> int:
        """The number of styles that a client shares, k."""
        return 1 if self.of == "overall" else self.images

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "statistics"

    def refuses(self, model: Model, data: ClientData) -> str | None:
        """Refuse samples that are no images ``[C, H, W]``."""
        if len(data.input_shape) == 3:
            return None
        shape = list(data.input_shape)
        return f"the recipe shares styles of images (C, H, W) and its samples have shape {shape}"

    def about(self, model: Model, data: ClientData) -> Mapping[str, str]:
        """Return the shape of the images."""
        return about.of_inputs(data)

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the styles of the client's training images."""
        x = work.data.train.x
        if not len(x):
            raise KnowledgeError("a client without training images has no style to share")
        if self.of == "overall":
            mean, std = styles_of(x.transpose(0, 1).flatten(1)[None])
        else:
            # Not the round's stream: the same images every round, so that no more are given away.
            random = torch_rng(work.seed, "styles", 0, work.client)
            order = torch.randperm(len(x), generator=random)
            mean, std = styles_of(x[order[torch.arange(self.images) % len(x)]])
        return Knowledge("statistics", {"mean": mean, "std": std})

    def expected(self, asked: Asked) -> Expected:
        """Return ``mean [k, C]`` and ``std [k, C]``, no deviation below 0."""
        shape = self.count, asked.input_shape[0]
        between = {"std": (torch.tensor(0.0), torch.tensor(math.inf))}
        return Expected(self.kind, None, {"mean": shape, "std": shape}, between=between)

    def upload_bytes(self, sizes: Sizes) -> int:
        """Return the bytes of two numbers for each channel of each style."""
        return sizes.floats * 2 * sizes.input_shape[0] * self.count

"""Changing the style of images: their channel means and standard deviations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedkt.errors import KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.options import Fraction
from fedkt.registry import register

# Less than the standard deviation of an image of which one of 100 × 100 bytes differs by 1. A
# channel of one value has no contrast to scale: it becomes the style's mean.
FLAT = 1e-5


def styles_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the styles of images.

    Parameters
    ----------
    x : Tensor
        ``[n, C, H, W]``, or pixels ``[n, C, p]``.

    Returns
    -------
    tuple[Tensor, Tensor]
        Means and standard deviations (of the population: divided by the number of pixels),
        each ``[n, C]``.
    """
    pixels = x.flatten(2)
    mean = pixels.mean(-1)
    # Of differences: the difference of squares would lose the digits of a small deviation.
    return mean, (pixels - mean[..., None]).square().mean(-1).sqrt()


def restyled(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return images in other styles: ``σ(s) (x − μ(x)) / σ(x) + μ(s)`` in every channel.

    Adaptive instance normalisation (Huang & Belongie, ICCV 2017, arXiv:1703.06868, equation 8)
    of pixels instead of features.

    Parameters
    ----------
    x : Tensor
        ``[n, C, H, W]``.
    mean, std : Tensor
        The styles, each ``[n, C]``.

    Returns
    -------
    Tensor
        ``[n, C, H, W]``, not clipped.
    """
    own_mean, own_std = styles_of(x)
    scale = std / own_std.clamp_min(FLAT)
    return (x - own_mean[..., None, None]) * scale[..., None, None] + mean[..., None, None]


@register
@dataclass(frozen=True)
class Restyle:
    """Transform that gives some images of a batch a style from a bank, drawn anew every time.

    Cross-client style transfer (Chen et al., WACV 2023, arXiv:2210.00912) in the space of pixels.
    Random numbers come from torch's global generator, which the executor sets.

    Parameters
    ----------
    source : str
        Fused statistics ``mean [S, C]`` and ``std [S, C]``, S styles.
    probability : float
        How likely an image is changed, in [0, 1].

    Raises
    ------
    KnowledgeError
        If the inputs are no images ``[B, C, H, W]`` of the bank's channels.
    """

    source: str = "styles"
    probability: Fraction = 0.5
    part: ClassVar[str] = "transforms"
    name: ClassVar[str] = "restyle"

    def needs(self) -> tuple[str, ...]:
        """Return the name of the bank of styles."""
        return (self.source,)

    def __call__(self, x: Tensor, knowledge: Mapping[str, Knowledge]) -> Tensor:
        """Return images ``[B, C, H, W]``; those that changed are clipped to [0, 1]."""
        mean, std = knowledge[self.source].tensors["mean"], knowledge[self.source].tensors["std"]
        if x.dim() != 4 or x.shape[1] != mean.shape[1]:
            channels = mean.shape[1]
            raise KnowledgeError(f"restyle needs images of {channels} channels, not {[*x.shape]}")
        chosen = (torch.rand(len(x)) < self.probability).to(x.device)
        style = torch.randint(len(mean), (len(x),)).to(x.device)
        changed = restyled(x, mean[style], std[style]).clamp(0, 1)
        return torch.where(chosen[:, None, None, None], changed, x)

"""Mirrored images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedkt.augmentations.augmentation import Augmentation, require_images
from fedkt.noise import Draws
from fedkt.registry import register


@register
@dataclass(frozen=True)
class Flip(Augmentation):
    """Every other image, at random, is mirrored: left becomes right."""

    name: ClassVar[str] = "flip"

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        """Return images ``[B, C, H, W]``."""
        require_images(x, self.name)
        mirrored = draws.uniform((len(x),)) < 0.5
        return torch.where(mirrored[:, None, None, None], x.flip(-1), x)

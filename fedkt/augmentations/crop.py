"""Images moved by a few pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.augmentations.augmentation import Augmentation, require_images
from fedkt.noise import Draws
from fedkt.options import AtLeastOne
from fedkt.registry import register


@register
@dataclass(frozen=True)
class Crop(Augmentation):
    """A random crop of the image with a border of zeros around it, of the image's size.

    Parameters
    ----------
    pixels : int
        Width of the border: an image moves by at most so many pixels, up or down and left or right.
    """

    pixels: AtLeastOne = 2
    name: ClassVar[str] = "crop"

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        """Return images ``[B, C, H, W]``."""
        require_images(x, self.name)
        rows, channels, height, width = x.shape
        padded = F.pad(x, (self.pixels,) * 4)
        corners = (draws.uniform((rows, 2)) * (2 * self.pixels + 1)).long()
        down = corners[:, :1] + torch.arange(height, device=x.device)
        right = corners[:, 1:] + torch.arange(width, device=x.device)
        wide = rows, channels, height, width + 2 * self.pixels
        strips = padded.gather(2, down[:, None, :, None].expand(wide))
        return strips.gather(3, right[:, None, None, :].expand(x.shape))

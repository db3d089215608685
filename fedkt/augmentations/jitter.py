"""Noise on the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedkt.augmentations.augmentation import Augmentation
from fedkt.errors import ConfigError
from fedkt.noise import Draws
from fedkt.options import Positive
from fedkt.registry import register


@register
@dataclass(frozen=True)
class Jitter(Augmentation):
    """Normal noise is added to every input.

    Parameters
    ----------
    deviation : float
        Its standard deviation, in the unit of the inputs as the model sees them.
    """

    deviation: Positive = 0.1
    name: ClassVar[str] = "noise"

    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        """Return inputs ``[B, ...]``."""
        if not x.is_floating_point():
            raise ConfigError(f"augmentation {self.name} is for real numbers, not for token ids")
        return x + self.deviation * draws.normal(x.shape).to(x.dtype)

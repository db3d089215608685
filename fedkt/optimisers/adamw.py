"""Adam with a weight decay of its own (Loshchilov and Hutter, 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedkt.optimisers.adam import Adam
from fedkt.registry import register


@register
@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose decay is a step of its own: parameters times ``1 - rate · weight_decay``.

    As ``torch.optim.AdamW``, which has a weight decay of 0.01 by default and this one that of the
    experiment (Loshchilov and Hutter, 2019, arXiv:1711.05101).
    """

    name: ClassVar[str] = "adamw"
    decoupled: ClassVar[bool] = True

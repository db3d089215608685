"""The client's logits as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedkt.readouts.readout import Ask, ReadOut
from fedkt.registry import register


@register(name="raw")
@dataclass(frozen=True)
class Raw(ReadOut):
    """The client's logits z."""

    def answer(self, x: Tensor, ask: Ask, own: Mapping[str, Any], log_prior: Tensor) -> Tensor:
        """Return z, ``[n, C]``."""
        return ask(None, x).logits

"""Terms on the parameters themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedkt.knowledge import Knowledge
from fedkt.objectives.term import Batch, Outputs
from fedkt.options import Factor
from fedkt.registry import register


@register
@dataclass(frozen=True)
class Proximal:
    """FedProx's proximal term, ``μ/2 ‖w − w_global‖²``, over the parameters that were received.

    Li et al. (2020), arXiv:1812.06127, equation 2.

    Parameters
    ----------
    mu : float
        μ ≥ 0.
    source : str
        The share that holds the weights to stay close to.
    """

    mu: Factor = 0.01
    source: str = "weights"
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "proximal"

    def needs(self) -> tuple[str, ...]:
        """Return the name of the fused weights."""
        return (self.source,)

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        anchor = knowledge[self.source].tensors
        parts = ((n, p) for n, p in outputs.parameters.items() if n in anchor)
        squares = [(p - anchor[n]).square().sum() for n, p in parts]
        return 0.5 * self.mu * torch.stack(squares).sum()

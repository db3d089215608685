"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from fedkt.optimisers.optimiser import Moments, Optimiser, Tensors, decayed
from fedkt.options import Factor, Memory
from fedkt.registry import register


@register
@dataclass(frozen=True)
class SGD(Optimiser):
    """Stochastic gradient descent, as ``torch.optim.SGD``.

    Parameters
    ----------
    momentum : float
        The part of the last move that is repeated, in [0, 1).
    weight_decay : float
        Factor of the parameters that is added to their gradients.
    """

    momentum: Memory = 0.9
    weight_decay: Factor = 0.0
    name: ClassVar[str] = "sgd"

    def moments(self) -> tuple[str, ...]:
        """Return the name of the momentum, if there is one."""
        return ("momentum_buffer",) if self.momentum else ()

    def step(
        self, parameters: Tensors, gradients: Tensors, moments: Moments, steps: Tensors, rate: float
    ) -> None:
        """Move one model by torch's fused kernel."""
        sgd(
            parameters,
            gradients,
            momentum_buffer_list=[*moments.get("momentum_buffer", ())],
            fused=True,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )

    def update(
        self, parameters: Tensors, gradients: Tensors, moments: Moments, steps: Tensor, rate: float
    ) -> None:
        """Move the models of K clients."""
        moves = decayed(gradients, parameters, self.weight_decay)
        if self.momentum:
            buffers = moments["momentum_buffer"]
            torch._foreach_mul_(buffers, self.momentum)
            torch._foreach_add_(buffers, moves)
            moves = buffers
        torch._foreach_add_(parameters, moves, alpha=-rate)

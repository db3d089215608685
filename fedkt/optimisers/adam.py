"""Adam (Kingma and Ba, 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim.adam import adam

from fedkt.optimisers.optimiser import Moments, Optimiser, Tensors, decayed
from fedkt.options import Factor
from fedkt.registry import register

BETAS, EPS = (0.9, 0.999), 1e-8  # torch's defaults


@register
@dataclass(frozen=True)
class Adam(Optimiser):
    """Adam, as ``torch.optim.Adam`` (Kingma and Ba, 2015, arXiv:1412.6980).

    Parameters
    ----------
    weight_decay : float
        Factor of the parameters that is added to their gradients.
    """

    weight_decay: Factor = 0.0
    name: ClassVar[str] = "adam"
    counts: ClassVar[bool] = True
    decoupled: ClassVar[bool] = False  # whether the decay is a step of its own

    def moments(self) -> tuple[str, ...]:
        """Return torch's names of the two moments of the gradients."""
        return "exp_avg", "exp_avg_sq"

    def step(
        self, parameters: Tensors, gradients: Tensors, moments: Moments, steps: Tensors, rate: float
    ) -> None:
        """Move one model by torch's fused kernel."""
        adam(
            parameters,
            gradients,
            exp_avgs=moments["exp_avg"],
            exp_avg_sqs=moments["exp_avg_sq"],
            max_exp_avg_sqs=[],
            state_steps=steps,
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=rate,
            weight_decay=self.weight_decay,
            eps=EPS,
            maximize=False,
            decoupled_weight_decay=self.decoupled,
        )

    def update(
        self, parameters: Tensors, gradients: Tensors, moments: Moments, steps: Tensor, rate: float
    ) -> None:
        """Move the models of K clients."""
        if self.decoupled:
            torch._foreach_mul_(parameters, 1 - rate * self.weight_decay)
            moves = gradients
        else:
            moves = decayed(gradients, parameters, self.weight_decay)
        first, second = moments["exp_avg"], moments["exp_avg_sq"]
        torch._foreach_lerp_(first, moves, 1 - BETAS[0])
        torch._foreach_mul_(second, BETAS[1])
        torch._foreach_addcmul_(second, moves, moves, 1 - BETAS[1])
        scale, root = 1 - BETAS[0] ** steps.double(), (1 - BETAS[1] ** steps.double()).sqrt()
        for i, (parameter, m, v) in enumerate(zip(parameters, first, second, strict=True)):
            shape = -1, *[1] * (m.dim() - 1)
            size = v.sqrt().div_(root[i].to(v.dtype).view(shape)).add_(EPS)
            parameter.addcdiv_(m, size.mul_(scale[i].to(v.dtype).view(shape)), value=-rate)

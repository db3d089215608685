"""Gradient descent on the stacked parameters of many clients: torch's SGD and Adam, masked.

The state of each client is what ``torch.optim`` would hold for it, so that a client can go
on in either executor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedkt.clients.learner import TrainingOptions

BETAS, EPS = (0.9, 0.999), 1e-8  # torch's defaults, as the loop executor has them


@dataclass(frozen=True)
class Descent:
    """Parameters in training, and the optimiser's memory of them.

    Parameters
    ----------
    parameters : list of Tensor
        Each ``[K, ...]``.
    moments : Mapping[str, list of Tensor]
        By torch's name of the moment: one stacked tensor for each parameter.
    steps : Tensor
        float32 ``[K]``: how many steps each client has taken (Adam's).
    """

    parameters: list[Tensor]
    moments: Mapping[str, list[Tensor]]
    steps: Tensor

    @classmethod
    def begin(
        cls,
        parameters: Sequence[Tensor],
        options: TrainingOptions,
        states: Sequence[Mapping[int, Any]],
    ) -> Descent:
        """Go on from K states as ``torch.optim.Optimizer.state_dict()["state"]`` has them.

        Empty ones begin anew.
        """
        moments = {
            name: [_stacked(states, i, name, p) for i, p in enumerate(parameters)]
            for name in _names(options)
        }
        steps = torch.stack([_steps(state) for state in states])
        return cls(list(parameters), moments, steps)

    def states(self) -> list[dict[int, Any]]:
        """Return the K states."""
        return [self._state(k) for k in range(len(self.steps))]

    def _state(self, k: int) -> dict[int, Any]:
        if not self.moments:
            return {}
        counted = {"step": self.steps[k].clone()} if len(self.moments) > 1 else {}
        return {
            i: {**counted, **{name: held[i][k].clone() for name, held in self.moments.items()}}
            for i in range(len(self.parameters))
        }


def descend(
    at: Descent,
    gradients: Sequence[Tensor],
    options: TrainingOptions,
    rate: float,
    active: Tensor | None = None,
) -> Descent:
    """Take one step.

    Parameters
    ----------
    at : Descent
        Where the clients are; not changed.
    gradients : Sequence[Tensor]
        One for each parameter, ``[K, ...]``.
    options : TrainingOptions
        Which optimiser.
    rate : float
        The learning rate.
    active : Tensor, optional
        bool ``[K]``: the others keep weights, moments and steps.
    """
    gradients = list(gradients)
    if options.weight_decay:
        decayed = torch._foreach_add(gradients, at.parameters, alpha=options.weight_decay)
        gradients = list(decayed)
    after = (_adam if options.optimiser == "adam" else _sgd)(at, gradients, options, rate)
    if active is None:
        return after
    moments = {
        name: [choose(active, new, old) for new, old in zip(held, at.moments[name], strict=True)]
        for name, held in after.moments.items()
    }
    pairs = zip(after.parameters, at.parameters, strict=True)
    parameters = [choose(active, new, old) for new, old in pairs]
    return Descent(parameters, moments, choose(active, after.steps, at.steps))


def choose(active: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Return the new values of active clients and the old ones of the others."""
    return torch.where(active.view(-1, *[1] * (new.dim() - 1)), new, old)


def _sgd(at: Descent, gradients: list[Tensor], options: TrainingOptions, rate: float) -> Descent:
    change, moments = gradients, {}
    if options.momentum:
        buffers = torch._foreach_mul(at.moments["momentum_buffer"], options.momentum)
        change = list(torch._foreach_add(buffers, gradients))
        moments = {"momentum_buffer": change}
    parameters = list(torch._foreach_add(at.parameters, change, alpha=-rate))
    return Descent(parameters, moments, at.steps)


def _adam(at: Descent, gradients: list[Tensor], options: TrainingOptions, rate: float) -> Descent:
    steps = at.steps + 1
    first = list(torch._foreach_lerp(at.moments["exp_avg"], gradients, 1 - BETAS[0]))
    kept = torch._foreach_mul(at.moments["exp_avg_sq"], BETAS[1])
    second = list(torch._foreach_addcmul(kept, gradients, gradients, 1 - BETAS[1]))
    scale, root = 1 - BETAS[0] ** steps.double(), (1 - BETAS[1] ** steps.double()).sqrt()
    change = []
    for m, v in zip(first, second, strict=True):
        shape = -1, *[1] * (m.dim() - 1)
        size = v.sqrt() / root.to(v.dtype).view(shape) + EPS
        change.append(m / (size * scale.to(v.dtype).view(shape)))
    parameters = list(torch._foreach_add(at.parameters, change, alpha=-rate))
    return Descent(parameters, {"exp_avg": first, "exp_avg_sq": second}, steps)


def _names(options: TrainingOptions) -> tuple[str, ...]:
    if options.optimiser == "adam":
        return "exp_avg", "exp_avg_sq"
    return ("momentum_buffer",) if options.momentum else ()


def _stacked(states: Sequence[Mapping[int, Any]], i: int, name: str, like: Tensor) -> Tensor:
    zero = torch.zeros_like(like[0])
    held = (state.get(i, {}).get(name) for state in states)
    return torch.stack([zero if one is None else one for one in held]).contiguous()


def _steps(state: Mapping[int, Any]) -> Tensor:
    return torch.as_tensor(state.get(0, {}).get("step", 0.0), dtype=torch.float32)

"""SGD and Adam as torch has them: for one model, and masked for the stacked ones of many clients.

The state of each client is what ``torch.optim`` would hold for it, so that a client can go
on in either executor. Frozen parameters (``requires_grad`` is False) have no place in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from fedkt.answers import is_finite
from fedkt.clients.learners.base import TrainingOptions

BETAS, EPS = (0.9, 0.999), 1e-8  # torch's defaults, as the loop executor has them


class Optimiser:
    """Moves one model's parameters by their gradients, with torch's fused kernels.

    ``torch.optim``'s objects look at every step whether anything about them has changed, which
    takes small convolutional nets a twentieth of their time.

    Parameters
    ----------
    parameters : Sequence[Tensor]
        The model's, in their order; changed in place.
    options : TrainingOptions
        Which optimiser.
    state : Mapping[int, Any]
        As ``torch.optim.Optimizer.state_dict()["state"]`` has it; an empty one begins anew.
    """

    def __init__(
        self, parameters: Sequence[Tensor], options: TrainingOptions, state: Mapping[int, Any]
    ) -> None:
        self._parameters, self._options, self._given = list(parameters), options, state
        self._held: dict[str, list[Tensor]] | None = None  # by name, one for each parameter

    def clear(self) -> None:
        """Forget the gradients, as ``zero_grad()``, whose hooks cost more than a layer."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Take a step by the gradients that the parameters hold; those without one stay."""
        if self._held is None:
            self._held = self._begin()
        reached = [i for i, p in enumerate(self._parameters) if p.grad is not None]
        moving = [self._parameters[i] for i in reached]
        gradients = [p.grad for p in moving if p.grad is not None]
        held = {name: [all_of_them[i] for i in reached] for name, all_of_them in self._held.items()}
        decay = self._options.weight_decay
        if self._options.optimiser == "adam":
            adam(
                moving,
                gradients,
                exp_avgs=held["exp_avg"],
                exp_avg_sqs=held["exp_avg_sq"],
                max_exp_avg_sqs=[],
                state_steps=held["step"],
                fused=True,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=rate,
                weight_decay=decay,
                eps=EPS,
                maximize=False,
            )
        else:
            sgd(
                moving,
                gradients,
                momentum_buffer_list=[*held.get("momentum_buffer", [])],
                fused=True,
                weight_decay=decay,
                momentum=self._options.momentum,
                lr=rate,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )

    def state(self) -> Mapping[int, Any]:
        """Return the state; the tensors change with the next step."""
        held = self._held
        if not held:
            return self._given
        found = range(len(self._parameters))
        return {i: {name: tensors[i] for name, tensors in held.items()} for i in found}

    def finite(self, beside: Sequence[Tensor] = ()) -> bool:
        """Return whether parameters, moments and some tensors ``beside`` them all are finite."""
        moments = [t for held in (self._held or {}).values() for t in held]
        return all(is_finite(t.detach()) for t in (*self._parameters, *moments, *beside))

    def _begin(self) -> dict[str, list[Tensor]]:
        held = {name: self._moments(name) for name in _names(self._options)}
        if self._options.optimiser == "adam":
            counts = [_steps(self._given, i) for i in range(len(self._parameters))]
            pairs = zip(counts, self._parameters, strict=True)
            held["step"] = [count.to(p.device, copy=True) for count, p in pairs]
        return held

    def _moments(self, name: str) -> list[Tensor]:
        """Return copies in the parameters' memory format, which a file does not keep.

        The fused kernels walk the raw memory of both.
        """
        found = [torch.zeros_like(p, requires_grad=False) for p in self._parameters]
        for i, moment in enumerate(found):
            if (given := self._given.get(i, {}).get(name)) is not None:
                moment.copy_(given)
        return found


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
        float32 ``[P, K]``: how many steps each parameter of each client has taken (Adam's).
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
        places = range(len(parameters))
        steps = torch.stack([torch.stack([_steps(s, i) for s in states]) for i in places])
        return cls(list(parameters), moments, steps.to(parameters[0].device))

    def copy(self) -> Descent:
        """Return tensors of its own."""
        moments = {name: [t.clone() for t in held] for name, held in self.moments.items()}
        return Descent([p.clone() for p in self.parameters], moments, self.steps)

    def finite(self, beside: Sequence[Tensor] = ()) -> Tensor:
        """Return of which clients parameters, moments and what is ``beside`` are finite, ``[K]``.

        Parameters
        ----------
        beside : Sequence[Tensor]
            Each ``[K, ...]``.
        """
        moments = [t for held in self.moments.values() for t in held]
        return finite_rows([*self.parameters, *moments, *beside])

    def states(self) -> list[dict[int, Any]]:
        """Return the K states."""
        clients = self.steps.shape[1]
        if not self.moments:
            return [{} for _ in range(clients)]
        held = {name: unstack(tensors) for name, tensors in self.moments.items()}
        if len(self.moments) > 1:  # Adam's
            held = {"step": unstack(self.steps.unbind()), **held}
        return [
            {i: {n: rows[k][i] for n, rows in held.items()} for i in range(len(self.parameters))}
            for k in range(clients)
        ]

    def at(self, places: Sequence[int]) -> Descent:
        """Return a part of it, the parameters at some places; the tensors are the same."""
        moments = {name: [held[i] for i in places] for name, held in self.moments.items()}
        return Descent([self.parameters[i] for i in places], moments, self.steps[list(places)])

    def replaced(self, places: Sequence[int], part: Descent) -> Descent:
        """Return the whole with another part at some places; see :meth:`at`."""
        at = {place: k for k, place in enumerate(places)}

        def chosen(new: Sequence[Tensor], old: Sequence[Tensor]) -> list[Tensor]:
            return [new[at[i]] if i in at else one for i, one in enumerate(old)]

        moments = {n: chosen(part.moments[n], held) for n, held in self.moments.items()}
        steps = torch.stack(chosen(part.steps.unbind(), self.steps.unbind()))
        return Descent(chosen(part.parameters, self.parameters), moments, steps)


def finite_rows(tensors: Sequence[Tensor]) -> Tensor:
    """Return of which of K clients all numbers of tensors ``[K, ...]`` are finite, bool ``[K]``."""
    # A sum in float64 cannot overflow, and is finite only if all are; see ``fedkt.answers``.
    rows = (t.detach().reshape(len(t), -1) for t in tensors)
    sums = torch.stack([row.sum(1, dtype=torch.float64) for row in rows])
    return sums.sum(0).cpu().isfinite()


def unstack(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return what each of K clients has in tensors ``[K, ...]``, as CPU tensors of their own."""
    rows = zip(*(tensor.cpu().unbind() for tensor in tensors), strict=True)
    return [[one.clone() for one in row] for row in rows]


def descend(
    at: Descent,
    gradients: Sequence[Tensor | None],
    options: TrainingOptions,
    rate: float,
    active: Tensor | None = None,
) -> Descent:
    """Take one step.

    Parameters
    ----------
    at : Descent
        Where the clients are; used up: its tensors may be changed in place.
    gradients : Sequence[Tensor or None]
        One for each parameter, ``[K, ...]``; None where the loss does not reach it. As with
        torch, such a parameter stays as it is, with its moments and its number of steps:
        neither decay nor momentum moves it.
    options : TrainingOptions
        Which optimiser.
    rate : float
        The learning rate.
    active : Tensor, optional
        bool ``[K]``: the others keep weights, moments and steps.
    """
    reached = [g for g in gradients if g is not None]
    if len(reached) == len(gradients):
        return _moved(at, reached, options, rate, active)
    places = [i for i, g in enumerate(gradients) if g is not None]
    return at.replaced(places, _moved(at.at(places), reached, options, rate, active))


def _moved(
    at: Descent,
    gradients: list[Tensor],
    options: TrainingOptions,
    rate: float,
    active: Tensor | None,
) -> Descent:
    if options.weight_decay:
        decayed = torch._foreach_add(gradients, at.parameters, alpha=options.weight_decay)
        gradients = list(decayed)
    move = _adam if options.optimiser == "adam" else _sgd
    if active is None:
        return move(at, gradients, options, rate)
    after = move(at.copy(), gradients, options, rate)
    moments = {
        name: [choose(active, new, old) for new, old in zip(held, at.moments[name], strict=True)]
        for name, held in after.moments.items()
    }
    pairs = zip(after.parameters, at.parameters, strict=True)
    parameters = [choose(active, new, old) for new, old in pairs]
    return Descent(parameters, moments, torch.where(active, after.steps, at.steps))


def choose(active: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Return the new values of active clients and the old ones of the others."""
    return torch.where(active.view(-1, *[1] * (new.dim() - 1)), new, old)


def _sgd(at: Descent, gradients: list[Tensor], options: TrainingOptions, rate: float) -> Descent:
    if options.momentum:
        held = at.moments["momentum_buffer"]
        torch._foreach_mul_(held, options.momentum)
        torch._foreach_add_(held, gradients)
        gradients = held
    torch._foreach_add_(at.parameters, gradients, alpha=-rate)
    return at


def _adam(at: Descent, gradients: list[Tensor], options: TrainingOptions, rate: float) -> Descent:
    steps = at.steps + 1
    first, second = at.moments["exp_avg"], at.moments["exp_avg_sq"]
    torch._foreach_lerp_(first, gradients, 1 - BETAS[0])
    torch._foreach_mul_(second, BETAS[1])
    torch._foreach_addcmul_(second, gradients, gradients, 1 - BETAS[1])
    scale, root = 1 - BETAS[0] ** steps.double(), (1 - BETAS[1] ** steps.double()).sqrt()
    for i, (parameter, m, v) in enumerate(zip(at.parameters, first, second, strict=True)):
        shape = -1, *[1] * (m.dim() - 1)
        size = v.sqrt().div_(root[i].to(v.dtype).view(shape)).add_(EPS)
        parameter.addcdiv_(m, size.mul_(scale[i].to(v.dtype).view(shape)), value=-rate)
    return Descent(at.parameters, at.moments, steps)


def _names(options: TrainingOptions) -> tuple[str, ...]:
    if options.optimiser == "adam":
        return "exp_avg", "exp_avg_sq"
    return ("momentum_buffer",) if options.momentum else ()


def _stacked(states: Sequence[Mapping[int, Any]], i: int, name: str, like: Tensor) -> Tensor:
    zero = torch.zeros_like(like[0], device="cpu")
    held = (state.get(i, {}).get(name) for state in states)
    return torch.stack([zero if one is None else one for one in held]).contiguous().to(like.device)


def _steps(state: Mapping[int, Any], parameter: int) -> Tensor:
    count = state.get(parameter, {}).get("step", 0.0)
    return torch.as_tensor(count, dtype=torch.float32, device="cpu")

"""SGD and Adam as in torch: for one model, and with a mask for the stacked models of many clients.

The state of each client is the state that ``torch.optim`` would hold, so that a client can
continue in either executor. Frozen parameters (``requires_grad`` is False) are not part of it.
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
from fedkt.training import TrainingOptions

BETAS, EPS = (0.9, 0.999), 1e-8  # torch's defaults, as the loop executor has them


class Optimiser:
    """The optimiser of one model, with torch's fused kernels.

    ``torch.optim``'s objects check at every step whether anything about them has changed, which
    takes a twentieth of the time of small convolutional nets.

    Parameters
    ----------
    parameters : Sequence[Tensor]
        Parameters of the model, in their order; changed in place.
    options : TrainingOptions
        The optimiser and its options.
    state : Mapping[int, Any]
        In the form of ``torch.optim.Optimizer.state_dict()["state"]``; an empty one starts anew.
    """

    def __init__(
        self, parameters: Sequence[Tensor], options: TrainingOptions, state: Mapping[int, Any]
    ) -> None:
        self._parameters, self._options, self._start = list(parameters), options, state
        self._tensors: dict[str, list[Tensor]] | None = None  # by name, one for each parameter

    def clear(self) -> None:
        """Drop the gradients; the hooks of ``zero_grad()`` cost more than a layer."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the parameters by their gradients; those without one stay."""
        if self._tensors is None:
            self._tensors = self._begin()
        reached = [i for i, p in enumerate(self._parameters) if p.grad is not None]
        moving = [self._parameters[i] for i in reached]
        gradients = [p.grad for p in moving if p.grad is not None]
        state = {name: [tensors[i] for i in reached] for name, tensors in self._tensors.items()}
        decay = self._options.weight_decay
        if self._options.optimiser == "adam":
            adam(
                moving,
                gradients,
                exp_avgs=state["exp_avg"],
                exp_avg_sqs=state["exp_avg_sq"],
                max_exp_avg_sqs=[],
                state_steps=state["step"],
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
                momentum_buffer_list=[*state.get("momentum_buffer", [])],
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
        if not self._tensors:
            return self._start
        places = range(len(self._parameters))
        return {i: {name: t[i] for name, t in self._tensors.items()} for i in places}

    def finite(self, beside: Sequence[Tensor] = ()) -> bool:
        """Return whether parameters, moments and more tensors ``beside`` them are all finite."""
        moments = [t for tensors in (self._tensors or {}).values() for t in tensors]
        return all(is_finite(t.detach()) for t in (*self._parameters, *moments, *beside))

    def _begin(self) -> dict[str, list[Tensor]]:
        tensors = {name: self._moments(name) for name in _names(self._options)}
        if self._options.optimiser == "adam":
            counts = [_steps(self._start, i) for i in range(len(self._parameters))]
            pairs = zip(counts, self._parameters, strict=True)
            tensors["step"] = [count.to(p.device, copy=True) for count, p in pairs]
        return tensors

    def _moments(self, name: str) -> list[Tensor]:
        """Return copies in the parameters' memory format, which a file does not keep.

        The fused kernels read the raw memory of both.
        """
        moments = [torch.zeros_like(p, requires_grad=False) for p in self._parameters]
        for i, moment in enumerate(moments):
            if (start := self._start.get(i, {}).get(name)) is not None:
                moment.copy_(start)
        return moments


@dataclass(frozen=True)
class Descent:
    """The stacked parameters of K clients in training, and the optimiser's moments.

    Parameters
    ----------
    parameters : list of Tensor
        The parameters, each ``[K, ...]``.
    moments : Mapping[str, list of Tensor]
        By torch's name of the moment: a tensor ``[K, ...]`` for each parameter.
    steps : Tensor
        float32 ``[P, K]``: number of steps of each parameter of each client (Adam's).
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
        """Return the descent that continues from the optimiser states of K clients.

        States have the form of ``torch.optim.Optimizer.state_dict()["state"]``; empty ones start
        anew.
        """
        moments = {
            name: [_stacked(states, i, name, p) for i, p in enumerate(parameters)]
            for name in _names(options)
        }
        places = range(len(parameters))
        steps = torch.stack([torch.stack([_steps(s, i) for s in states]) for i in places])
        return cls(list(parameters), moments, steps.to(parameters[0].device))

    def copy(self) -> Descent:
        """Return a copy whose parameters and moments may be changed in place."""
        moments = {name: [t.clone() for t in tensors] for name, tensors in self.moments.items()}
        return Descent([p.clone() for p in self.parameters], moments, self.steps)

    def finite(self, beside: Sequence[Tensor] = ()) -> Tensor:
        """Return for each client whether all its tensors are finite, bool ``[K]``.

        Parameters
        ----------
        beside : Sequence[Tensor]
            Tensors to check beside parameters and moments, each ``[K, ...]``.
        """
        moments = [t for tensors in self.moments.values() for t in tensors]
        return finite_rows([*self.parameters, *moments, *beside])

    def states(self) -> list[dict[int, Any]]:
        """Return the optimiser states of the K clients."""
        clients = self.steps.shape[1]
        if not self.moments:
            return [{} for _ in range(clients)]
        rows_of = {name: unstack(tensors) for name, tensors in self.moments.items()}
        if len(self.moments) > 1:  # Adam's
            rows_of = {"step": unstack(self.steps.unbind()), **rows_of}
        return [
            {i: {n: rows[k][i] for n, rows in rows_of.items()} for i in range(len(self.parameters))}
            for k in range(clients)
        ]

    def at(self, places: Sequence[int]) -> Descent:
        """Return the part with the parameters at some places; the tensors are the same."""
        moments = {name: [tensors[i] for i in places] for name, tensors in self.moments.items()}
        return Descent([self.parameters[i] for i in places], moments, self.steps[list(places)])

    def replaced(self, places: Sequence[int], part: Descent) -> Descent:
        """Return the whole with another part at some places; see :meth:`at`."""
        at = {place: k for k, place in enumerate(places)}

        def chosen(new: Sequence[Tensor], old: Sequence[Tensor]) -> list[Tensor]:
            return [new[at[i]] if i in at else tensor for i, tensor in enumerate(old)]

        moments = {n: chosen(part.moments[n], tensors) for n, tensors in self.moments.items()}
        steps = torch.stack(chosen(part.steps.unbind(), self.steps.unbind()))
        return Descent(chosen(part.parameters, self.parameters), moments, steps)


def finite_rows(tensors: Sequence[Tensor]) -> Tensor:
    """Return for each of K clients whether tensors ``[K, ...]`` are finite, bool ``[K]``."""
    # A sum in float64 cannot overflow, and is finite only if all are; see ``fedkt.answers``.
    rows = (t.detach().reshape(len(t), -1) for t in tensors)
    sums = torch.stack([row.sum(1, dtype=torch.float64) for row in rows])
    return sums.sum(0).cpu().isfinite()


def unstack(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return the tensors of each of K clients, copied to the CPU from tensors ``[K, ...]``."""
    rows = zip(*(tensor.cpu().unbind() for tensor in tensors), strict=True)
    return [[tensor.clone() for tensor in row] for row in rows]


def descend(
    at: Descent,
    gradients: Sequence[Tensor | None],
    options: TrainingOptions,
    rate: float,
    active: Tensor | None = None,
) -> Descent:
    """Return the descent of K clients after one step.

    Parameters
    ----------
    at : Descent
        The descent before the step; its tensors may be changed in place, so do not use it again.
    gradients : Sequence[Tensor or None]
        One for each parameter, ``[K, ...]``; None where the loss does not reach it. As with
        torch, such a parameter stays as it is, with its moments and its number of steps:
        neither decay nor momentum moves it.
    options : TrainingOptions
        The optimiser and its options.
    rate : float
        The learning rate.
    active : Tensor, optional
        bool ``[K]``: clients that move; the others keep weights, moments and steps.
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
        name: [choose(active, new, old) for new, old in zip(tensors, at.moments[name], strict=True)]
        for name, tensors in after.moments.items()
    }
    pairs = zip(after.parameters, at.parameters, strict=True)
    parameters = [choose(active, new, old) for new, old in pairs]
    return Descent(parameters, moments, torch.where(active, after.steps, at.steps))


def choose(active: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Return the new values of active clients and the old ones of the others."""
    return torch.where(active.view(-1, *[1] * (new.dim() - 1)), new, old)


def _sgd(at: Descent, gradients: list[Tensor], options: TrainingOptions, rate: float) -> Descent:
    if options.momentum:
        moments = at.moments["momentum_buffer"]
        torch._foreach_mul_(moments, options.momentum)
        torch._foreach_add_(moments, gradients)
        gradients = moments
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
    moments = (state.get(i, {}).get(name) for state in states)
    stacked = torch.stack([zero if moment is None else moment for moment in moments])
    return stacked.contiguous().to(like.device)


def _steps(state: Mapping[int, Any], parameter: int) -> Tensor:
    count = state.get(parameter, {}).get("step", 0.0)
    return torch.as_tensor(count, dtype=torch.float32, device="cpu")

"""Parameters in training and their optimiser: of one model, and stacked for many clients.

The state of each client is the state that ``torch.optim`` would hold, so that a client can
continue in either executor. Frozen parameters (``requires_grad`` is False) are not part of it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedkt.answers import is_finite
from fedkt.optimisers import Optimiser


class ModelDescent:
    """The parameters of one model in training, and its optimiser's state.

    ``torch.optim``'s objects check at every step whether anything about them has changed, which
    takes a twentieth of the time of small convolutional nets; so they step only the optimisers
    that ask for them.

    Parameters
    ----------
    parameters : Sequence[Tensor]
        Parameters of the model, in their order; changed in place.
    optimiser : Optimiser
        The optimiser.
    state : Mapping[int, Any]
        In the form of ``torch.optim.Optimizer.state_dict()["state"]``; an empty one starts anew.
    clip : float, optional
        The largest norm of a gradient; see :func:`shortening`.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        optimiser: Optimiser,
        state: Mapping[int, Any],
        clip: float | None = None,
    ) -> None:
        self._parameters, self._optimiser, self._start = list(parameters), optimiser, state
        self._clip = clip
        self._tensors: dict[str, list[Tensor]] | None = None  # by name, one for each parameter
        self._torch: torch.optim.Optimizer | None = None

    def clear(self) -> None:
        """Drop the gradients; the hooks of ``zero_grad()`` cost more than a layer."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the parameters by their gradients; those without one stay."""
        if self._tensors is None:
            self._tensors = self._begin(rate)
        if self._clip is not None:
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            factor = shortening([g[None] for g in gradients], self._clip)[0]
            torch._foreach_mul_(gradients, factor)
        if self._torch is not None:
            for group in self._torch.param_groups:
                group["lr"] = rate
            self._torch.step()
            return
        reached = [i for i, p in enumerate(self._parameters) if p.grad is not None]
        moving = [self._parameters[i] for i in reached]
        gradients = [p.grad for p in moving if p.grad is not None]
        state = {name: [tensors[i] for i in reached] for name, tensors in self._tensors.items()}
        steps = state.pop("step", [])
        self._optimiser.step(moving, gradients, state, steps, rate)

    def state(self) -> Mapping[int, Any]:
        """Return the state; the tensors change with the next step."""
        if self._torch is not None:
            return dict(self._torch.state_dict()["state"])
        if not self._tensors:
            return self._start
        places = range(len(self._parameters))
        return {i: {name: t[i] for name, t in self._tensors.items()} for i in places}

    def finite(self, beside: Sequence[Tensor] = ()) -> bool:
        """Return whether parameters, moments and more tensors ``beside`` them are all finite."""
        kept = self.state().values() if self._tensors is not None else ()
        moments = [t for named in kept for t in named.values() if isinstance(t, Tensor)]
        return all(is_finite(t.detach()) for t in (*self._parameters, *moments, *beside))

    def _begin(self, rate: float) -> dict[str, list[Tensor]]:
        self._torch = self._optimiser.build(self._parameters, rate)
        if self._torch is not None:
            groups = self._torch.state_dict()["param_groups"]
            state = copy.deepcopy(dict(self._start))  # torch would step the tensors given to it
            self._torch.load_state_dict({"state": state, "param_groups": groups})
            return {}
        tensors = {name: self._moments(name) for name in self._optimiser.moments()}
        if self._optimiser.counts:
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
        float32 ``[P, K]``: number of steps of each parameter of each client, if they count.
    """

    parameters: list[Tensor]
    moments: Mapping[str, list[Tensor]]
    steps: Tensor

    @classmethod
    def begin(
        cls,
        parameters: Sequence[Tensor],
        optimiser: Optimiser,
        states: Sequence[Mapping[int, Any]],
    ) -> Descent:
        """Return the descent that continues from the optimiser states of K clients.

        States have the form of ``torch.optim.Optimizer.state_dict()["state"]``; empty ones start
        anew.
        """
        moments = {
            name: [_stacked(states, i, name, p) for i, p in enumerate(parameters)]
            for name in optimiser.moments()
        }
        steps = torch.zeros(len(parameters), len(states))
        if optimiser.counts:
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

    def states(self, optimiser: Optimiser) -> list[dict[int, Any]]:
        """Return the optimiser's states of the K clients."""
        clients = self.steps.shape[1]
        if not (self.moments or optimiser.counts):
            return [{} for _ in range(clients)]
        rows_of = {name: unstack(tensors) for name, tensors in self.moments.items()}
        if optimiser.counts:
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
    optimiser: Optimiser,
    rate: float,
    active: Tensor | None = None,
    clip: float | None = None,
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
    optimiser : Optimiser
        The optimiser.
    rate : float
        The learning rate.
    active : Tensor, optional
        bool ``[K]``: clients that move; the others keep weights, moments and steps.
    clip : float, optional
        The largest norm of a client's gradient; see :func:`shortening`.
    """
    reached = [g for g in gradients if g is not None]
    if clip is not None:
        factors = shortening(reached, clip)
        reached = [g * factors.view(-1, *[1] * (g.dim() - 1)) for g in reached]
    if len(reached) == len(gradients):
        return _moved(at, reached, optimiser, rate, active)
    places = [i for i, g in enumerate(gradients) if g is not None]
    return at.replaced(places, _moved(at.at(places), reached, optimiser, rate, active))


def shortening(gradients: Sequence[Tensor], limit: float) -> Tensor:
    """Return the factors ``[K]`` that shorten the gradients of K clients to a norm.

    They are min(1, limit / (norm + 1e-6)), as in ``torch.nn.utils.clip_grad_norm_``.

    Parameters
    ----------
    gradients : Sequence[Tensor]
        One for each parameter, ``[K, ...]``; the norm of a client is that of all together.
    limit : float
        The largest norm.
    """
    squares = [g.reshape(len(g), -1).square().sum(1) for g in gradients]
    norms = torch.stack(squares).sum(0).sqrt()
    return (limit / (norms + 1e-6)).clamp(max=1.0)


def _moved(
    at: Descent,
    gradients: list[Tensor],
    optimiser: Optimiser,
    rate: float,
    active: Tensor | None,
) -> Descent:
    after = at if active is None else at.copy()
    steps = at.steps + 1 if optimiser.counts else at.steps
    optimiser.update(after.parameters, gradients, after.moments, steps, rate)
    if active is None:
        return Descent(at.parameters, at.moments, steps)
    moments = {
        name: [choose(active, new, old) for new, old in zip(tensors, at.moments[name], strict=True)]
        for name, tensors in after.moments.items()
    }
    pairs = zip(after.parameters, at.parameters, strict=True)
    parameters = [choose(active, new, old) for new, old in pairs]
    return Descent(parameters, moments, torch.where(active, steps, at.steps))


def choose(active: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Return the new values of active clients and the old ones of the others."""
    return torch.where(active.view(-1, *[1] * (new.dim() - 1)), new, old)


def _stacked(states: Sequence[Mapping[int, Any]], i: int, name: str, like: Tensor) -> Tensor:
    zero = torch.zeros_like(like[0], device="cpu")
    moments = (state.get(i, {}).get(name) for state in states)
    stacked = torch.stack([zero if moment is None else moment for moment in moments])
    return stacked.contiguous().to(like.device)


def _steps(state: Mapping[int, Any], parameter: int) -> Tensor:
    count = state.get(parameter, {}).get("step", 0.0)
    return torch.as_tensor(count, dtype=torch.float32, device="cpu")

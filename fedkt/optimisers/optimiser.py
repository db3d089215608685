"""The base of all optimisers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedkt import registry
from fedkt.errors import ConfigError

Tensors = list[Tensor]  # one for each parameter
Moments = Mapping[str, Tensors]  # by name


class Optimiser:
    """Base of all optimisers, which are registered frozen dataclasses.

    A field that has the name of an option of ``[training]`` (``momentum``, ``weight_decay``) takes
    that value; the others keep their defaults. The state of a client has the form of
    ``torch.optim.Optimizer.state_dict()["state"]``, so a client can go on in either executor.

    An optimiser defines :meth:`update`, with which both executors train; or :meth:`build`, an
    object of ``torch.optim`` for the loop; or both, in torch's names of the moments.

    Attributes
    ----------
    counts : bool
        Whether the number of steps of every parameter is part of the state.
    """

    part: ClassVar[str] = "optimisers"
    counts: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.update is Optimiser.update and cls.build is Optimiser.build:
            raise ConfigError(f"optimiser {cls.__name__} must define update or build.")

    @property
    def loop_only(self) -> str:
        """Why no cohort can train with it, in one line; empty if one can."""
        if type(self).update is not Optimiser.update:
            return ""
        return f"{type(self).__name__} is stepped by torch.optim, one model at a time"

    def moments(self) -> tuple[str, ...]:
        """Return the names of the tensors kept beside each parameter; they start at zero."""
        return ()

    def update(
        self, parameters: Tensors, gradients: Tensors, moments: Moments, steps: Tensor, rate: float
    ) -> None:
        """Move the stacked parameters of K clients in place, each element by itself.

        Parameters
        ----------
        parameters, gradients : list of Tensor
            ``[K, ...]`` each; gradients must not be changed.
        moments : Mapping[str, list of Tensor]
            By name, a tensor ``[K, ...]`` for each parameter; changed in place.
        steps : Tensor
            float32 ``[P, K]``: the number of steps of each of the P parameters, with this one;
            zeros unless the optimiser ``counts``.
        rate : float
            The learning rate.
        """
        raise ConfigError(f"optimiser {self.loop_only}.")

    def build(self, parameters: Sequence[Tensor], rate: float) -> torch.optim.Optimizer | None:
        """Return torch's object that steps one model; None: :meth:`step` does."""
        return None

    def step(
        self, parameters: Tensors, gradients: Tensors, moments: Moments, steps: Tensors, rate: float
    ) -> None:
        """Move the parameters of one model in place, its number of ``steps`` (scalars) too.

        By default this is :meth:`update` with one client.
        """
        if self.counts:
            torch._foreach_add_(steps, 1)
        taken = torch.stack(steps)[:, None] if steps else torch.zeros(len(parameters), 1)
        views = {name: [t[None] for t in tensors] for name, tensors in moments.items()}
        rows = [p[None] for p in parameters]
        self.update(rows, [g[None] for g in gradients], views, taken, rate)


def decayed(gradients: Tensors, parameters: Tensors, decay: float) -> Tensors:
    """Return gradients with that of the penalty ``decay / 2 · |parameters|²`` added."""
    if not decay:
        return gradients
    return list(torch._foreach_add(gradients, parameters, alpha=decay))


def optimiser_of(options: Any) -> Optimiser:
    """Return the optimiser that the options of a training name, with their values.

    Parameters
    ----------
    options : TrainingOptions
        A frozen dataclass; its ``optimiser`` is the name.

    Raises
    ------
    ConfigError
        If there is no such optimiser.
    """
    return _made(options, registry.version())


@lru_cache(maxsize=64)
def _made(options: Any, version: int) -> Optimiser:
    part = registry.lookup("optimisers", options.optimiser)
    names = {field.name for field in fields(part)} & {field.name for field in fields(options)}
    made: Optimiser = part(**{name: getattr(options, name) for name in names})
    return made

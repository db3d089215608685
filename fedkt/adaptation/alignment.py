"""Terms that make features of a batch look like features of another side.

The source side is ``outputs.features``, the batch's own; the other side, the target, is
``outputs.beside.features`` (features that the server sent, or the model's own of public
samples) or statistics that the server sent. The target is a constant by default. With
``detach=False`` its gradient flows as well, as in DANN, DAN and Deep CORAL, where both sides
go through one net; features that came as knowledge have none in any case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.adaptation.discrepancy import (
    coral,
    fourier_mean,
    gaussian_mmd,
    linear_mmd,
    moment_distance,
)
from fedkt.errors import ConfigError, KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives.heads import PREFIX, apply_head
from fedkt.objectives.term import Batch, Outputs, Term, weighted_mean
from fedkt.options import AtLeastOne, Count, Factor, Positive
from fedkt.registry import register

MMDEstimator = Literal["biased", "unbiased", "linear"]


def ramp(progress: float | Tensor, gamma: float) -> float | Tensor:
    """Return λ_p = 2 / (1 + exp(-gamma · progress)) - 1, from 0 up to less than 1.

    Ganin and Lempitsky (ICML 2015, arXiv:1409.7495) with gamma = 10; FedKA has 5.
    It is computed as tanh(gamma · progress / 2), which is the same.

    Parameters
    ----------
    progress : float or Tensor
        p, the part of the run that is over, in [0, 1].
    gamma : float
        How fast it rises.
    """
    if isinstance(progress, Tensor):
        return torch.tanh(progress * gamma / 2)
    return math.tanh(progress * gamma / 2)


def reverse_gradient(x: Tensor, factor: float | Tensor) -> Tensor:
    """Return ``x`` itself; its gradient is multiplied by ``-factor`` in the backward pass.

    The gradient reversal layer of Ganin and Lempitsky (ICML 2015, arXiv:1409.7495).

    Parameters
    ----------
    x : Tensor
        ``[...]``.
    factor : float or Tensor
        A number or a tensor ``[]``, a constant.
    """
    reverse: Callable[[Tensor, float | Tensor], Tensor] = _Reversed.apply
    return reverse(x, factor)


class _Reversed(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, factor: float | Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, factor = inputs
        ctx.factor = None if isinstance(factor, Tensor) else factor
        ctx.save_for_backward(*([factor] if isinstance(factor, Tensor) else []))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        factor = ctx.saved_tensors[0] if ctx.factor is None else ctx.factor
        return -factor * gradients[0], None


@register
@dataclass(frozen=True)
class MMD:
    """Maximum mean discrepancy between the batch's features and those beside it.

    See :func:`~fedkt.adaptation.discrepancy.gaussian_mmd`; with batches of 16 most of the
    biased estimate is bias, which has a gradient of its own.

    Parameters
    ----------
    estimator : {"biased", "unbiased", "linear"}
        V-statistic, U-statistic, or the linear-time estimate of DAN (Long et al., ICML 2015).
    kernels : int
        How many Gaussian kernels it is the mean of.
    multiplier : float
        Ratio of neighbouring bandwidths, > 0.
    detach : bool
        Whether the features beside the batch are a constant.
    """

    estimator: MMDEstimator = "biased"
    kernels: AtLeastOne = 5
    multiplier: Positive = 2.0
    detach: bool = True
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "mmd"
    needs_features: ClassVar[bool] = True
    needs_beside: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return no names: the term reads no fused knowledge."""
        return ()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        x, y = _both_sides(self.name, outputs, self.detach)
        if self.estimator == "linear":
            return linear_mmd(
                x, y, kernels=self.kernels, multiplier=self.multiplier, weight=batch.weight
            )
        return gaussian_mmd(
            x,
            y,
            kernels=self.kernels,
            multiplier=self.multiplier,
            estimator=self.estimator,
            weight=batch.weight,
        )


@register
@dataclass(frozen=True)
class Coral:
    """Distance between the covariances of the batch's features and of those beside it.

    Deep CORAL; see :func:`~fedkt.adaptation.discrepancy.coral`.

    Parameters
    ----------
    detach : bool
        Whether the features beside the batch are a constant.
    """

    detach: bool = True
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "coral"
    needs_features: ClassVar[bool] = True
    needs_beside: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return no names: the term reads no fused knowledge."""
        return ()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        x, y = _both_sides(self.name, outputs, self.detach)
        return coral(x, y, weight=batch.weight)


@register
@dataclass(frozen=True)
class FourierMMD:
    """Maximum mean discrepancy to a target known by its mean embedding only.

    The biased estimate; see :func:`~fedkt.adaptation.discrepancy.fourier_mean`. Instead of the
    target's features its D random Fourier features travel.

    Parameters
    ----------
    source : str
        Statistics with ``mean_embedding [D]`` and ``sigma`` (one entry), the target's.
    seed : int
        Of the frequencies; the party that made the embedding used the same.
    kernels : int
        How many Gaussian kernels it is the mean of.
    multiplier : float
        Ratio of neighbouring bandwidths, > 0.
    """

    source: str = "target"
    seed: Count = 0
    kernels: AtLeastOne = 5
    multiplier: Positive = 2.0
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "fourier-mmd"
    needs_features: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return the name of the target's statistics."""
        return (self.source,)

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        target, sigma = _statistics(self, knowledge, "mean_embedding", "sigma")
        embedding = fourier_mean(
            _features(self.name, outputs),
            self.seed,
            target.shape[-1],
            sigma,
            kernels=self.kernels,
            multiplier=self.multiplier,
            weight=batch.weight,
        )
        return (embedding - target).square().sum() * (batch.weight.sum() > 0)


@register
@dataclass(frozen=True)
class Moments:
    """Distance of the features' means and deviations to those of a target.

    See :func:`~fedkt.adaptation.discrepancy.moment_distance`.

    Parameters
    ----------
    source : str
        Statistics with ``mean`` and ``variance``, ``[d]``, the target's.
    """

    source: str = "target"
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "moments"
    needs_features: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return the name of the target's statistics."""
        return (self.source,)

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        mean, variance = _statistics(self, knowledge, "mean", "variance")
        x = _features(self.name, outputs)
        return moment_distance(x, mean, variance, weight=batch.weight)


@register
@dataclass(frozen=True)
class DomainAdversarial:
    """A domain classifier that the features learn to deceive.

    Ganin and Lempitsky (ICML 2015, arXiv:1409.7495); FedKA's equations 2 to 4: the
    cross-entropy of a head that tells source features (class 0) from target features (class
    1), each a mean over its own rows. The head minimises it; the features maximise it with the
    factor ``ramp(progress, gamma)``.

    Each side passes through the head by itself, as in the published code. The head's batch
    normalisation then takes out the sides' means and scales, so that it tells them apart by the
    shape of their features only. With ``together`` the rows of both sides are one batch: the
    head sees the whole difference, but the nearer the sides come, the more its normalisation
    magnifies what is left, and the reversed gradient with it.

    Parameters
    ----------
    head : str
        A head on features with two outputs: ``Head("domain", (100, 2), norm=True)``.
    gamma : float
        How fast the factor rises, ≥ 0; with 0 the features do not notice the head.
    detach : bool
        Whether the features beside the batch are a constant; the head learns from them
        nevertheless.
    together : bool
        Whether the head normalises the rows of both sides together.
    """

    head: str = "domain"
    gamma: Factor = 5.0
    detach: bool = True
    together: bool = False
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "domain-adversarial"
    follows_progress: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True
    needs_beside: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return no names: the term reads no fused knowledge."""
        return ()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        x, y = _both_sides(self.name, outputs, self.detach)
        if f"{PREFIX}.{self.head}.0.weight" not in outputs.parameters:
            raise ConfigError(f"{self.name}: the recipe has no head called {self.head!r}.")
        n, weight = len(x), torch.cat([batch.weight, batch.weight.new_ones(len(y))])
        rows = reverse_gradient(torch.cat([x, y]), ramp(batch.progress, self.gamma))
        sides = [slice(None)] if self.together else [slice(n), slice(n, None)]
        parts = [apply_head(outputs.parameters, self.head, rows[s], weight[s]) for s in sides]
        logits = torch.cat(parts)
        if logits.shape[-1] != 2:
            raise ConfigError(
                f"{self.name}: head {self.head!r} must have two outputs, not {logits.shape[-1]}."
            )
        log_p = F.log_softmax(logits, dim=-1)
        source = weighted_mean(-log_p[:n, 0], batch.weight)
        return (source - log_p[n:, 1].mean()) * (batch.weight.sum() > 0)


@register
@dataclass(frozen=True)
class Ramped:
    """Another term times ``ramp(progress, gamma)``: its weight grows during the run.

    Parameters
    ----------
    term : Term
        The other term.
    gamma : float
        How fast the weight rises, ≥ 0; with 0 the term never counts.
    """

    term: Term
    gamma: Factor = 5.0
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "ramped"
    follows_progress: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return the names that the other term reads."""
        return self.term.needs()

    @property
    def needs_features(self) -> bool:
        """Whether the other term needs features."""
        return bool(getattr(self.term, "needs_features", False))

    @property
    def needs_beside(self) -> bool:
        """Whether the other term needs samples beside the batch."""
        return bool(getattr(self.term, "needs_beside", False))

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        return ramp(batch.progress, self.gamma) * self.term(outputs, batch, knowledge)


def _features(name: str, outputs: Outputs) -> Tensor:
    if outputs.features is None:
        raise KnowledgeError(f"{name} aligns features and the model has no linear layer")
    return outputs.features


def _both_sides(name: str, outputs: Outputs, detach: bool) -> tuple[Tensor, Tensor]:
    """Return the features of the batch and those beside it."""
    x = _features(name, outputs)
    if outputs.beside is None:
        raise KnowledgeError(f"{name} aligns a batch with samples beside it and there are none")
    y = _features(name, outputs.beside)
    if x.shape[-1] != y.shape[-1]:
        raise KnowledgeError(
            f"{name}: the model has {x.shape[-1]} features and those beside it {y.shape[-1]}"
        )
    return x, y.detach() if detach else y


def _statistics(
    term: FourierMMD | Moments, knowledge: Mapping[str, Knowledge], *names: str
) -> list[Tensor]:
    tensors = knowledge[term.source].tensors
    if not set(names) <= set(tensors):
        raise KnowledgeError(f"{term.name}: {term.source!r} holds no {' and '.join(names)}")
    return [tensors[n].detach() for n in names]

"""Attacks that upload distorted answers of the attacker or of other clients, or nothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.answers import entropy, torch_softmax
from fedkt.registry import register
from fedkt.simulations.attacks.view import View


@register(part="attacks")
def amplified(view: View, scale: float = 10.0) -> Tensor:
    """Multiply the honest answers by scale: right, but over-confident."""
    return scale * view.own


@register(part="attacks")
def inverted(view: View, scale: float = 1.0) -> Tensor:
    """Multiply the honest answers by minus scale."""
    return -scale * view.own


@register(part="attacks")
def inverted10(view: View) -> Tensor:
    """Multiply the honest answers by minus ten."""
    return inverted(view, 10.0)


@register(part="attacks")
def replay(view: View) -> Tensor:
    """Repeat the answers of the attacker's first round in every round, row by row."""
    return view.first


@register(part="attacks")
def swap(view: View, source: int = 3, target: int = 8) -> Tensor:
    """Exchange the columns of two classes in the honest answers."""
    source, target = view.two_classes(source, target)
    order = torch.arange(view.num_classes)
    order[source], order[target] = target, source
    return view.own[:, order]


@register(part="attacks")
def lie(view: View, deviations: float = 1.0) -> Tensor:
    """Push the honest mean from its top class to the runner-up; the same from all attackers.

    From the honest clients' log-probabilities: their mean, minus their standard deviation in the
    class with the highest mean, plus their standard deviation in the second.
    """
    logs = F.log_softmax(view.honest, dim=-1)
    mean, spread = logs.mean(0), logs.std(0, correction=0)
    highest_two = mean.topk(2, dim=-1).indices
    down_and_up = mean.new_tensor([-deviations, deviations]).expand(len(mean), 2)
    return mean + spread * torch.zeros_like(mean).scatter(-1, highest_two, down_and_up)


@register(part="attacks")
def mimic(view: View) -> Tensor:
    """Move the honest answers on by one class: only their confidence stays honest."""
    return view.own.roll(1, dims=-1)


@register(part="attacks")
def mimic_confident(view: View) -> Tensor:
    """Move the most confident honest client's answers on by one class; the same from all."""
    mean_entropy = entropy(torch_softmax(view.honest)).mean(-1)
    return view.honest[mean_entropy.argmin()].roll(1, dims=-1)


@register(part="attacks")
def mimic_noisy(view: View, noise: float = 0.7) -> Tensor:
    """Add noise to mimic-confident, in standard deviations; every attacker's is different."""
    copy = mimic_confident(view)
    normal = torch.randn(copy.shape, generator=view.rng("noise"))
    return copy + noise * copy.std() * normal


@register(part="attacks")
def silent(view: View) -> None:
    """Upload nothing, to show the honest clients without the others."""

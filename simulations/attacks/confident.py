"""Attacks that upload confident labels, on all rows or on some.

The trust of fedpf was measured against these attacks and those of ``distorted.py``. Confident
means logits of 12 for one class and 0 for the others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.registry import register
from fedkt.simulations.attacks.view import View

CONFIDENCE = 12.0


def confident(labels: Tensor, num_classes: int) -> Tensor:
    """Return logits ``[M, C]`` of 12 for the labels ``[M]`` and 0 elsewhere."""
    return CONFIDENCE * F.one_hot(labels, num_classes).float()


@register(part="attacks")
def wrong(view: View) -> Tensor:
    """Answer the class after the honest one, confidently; all attackers make the same error."""
    return confident((view.own.argmax(-1) + 1) % view.num_classes, view.num_classes)


@register(part="attacks")
def random(view: View) -> Tensor:
    """Answer random classes, confidently; drawn anew for every round and attacker."""
    rows, classes = view.own.shape
    labels = torch.randint(classes, (rows,), generator=view.rng("random"))
    return confident(labels, classes)


@register(part="attacks")
def constant(view: View) -> Tensor:
    """Answer class 0 on all samples, confidently."""
    labels = torch.zeros(len(view.own), dtype=torch.int64)
    return confident(labels, view.num_classes)


@register(part="attacks")
def flip(view: View, source: int = 3, target: int = 8) -> Tensor:
    """Answer honestly, but class target, confidently, where the honest answer is source."""
    source, target = view.two_classes(source, target)
    hit = view.own.argmax(-1) == source
    lie = confident(torch.full((len(view.own),), target), view.num_classes)
    return torch.where(hit[:, None], lie, view.own)


@register(part="attacks")
def adaptive_flip(view: View, source: int = 3, target: int = 8) -> Tensor:
    """Answer as the last fused knowledge, confidently, but class target for source.

    On the other rows the attacker agrees with all clients and so hides. Rows that are not in the
    last fused knowledge (in the first round all rows) get its honest answers.
    """
    source, target = view.two_classes(source, target)
    labels = view.own.argmax(-1)
    if view.target is not None and view.target.ids is not None:
        covered = torch.isin(view.ids, view.target.ids)
        labels[covered] = view.target.at(view.ids[covered]).argmax(-1)
    labels = torch.where(labels == source, target, labels)
    return confident(labels, view.num_classes)


@register(part="attacks")
def half(view: View) -> Tensor:
    """Answer honestly on rows 0, 2, 4, …, and as the attack wrong on the others."""
    honest = torch.arange(len(view.own)) % 2 == 0
    return torch.where(honest[:, None], view.own, wrong(view))


@register(part="attacks")
def on_off(view: View, honest_rounds: int = 5) -> Tensor:
    """Answer honestly for honest_rounds rounds, then as the attack wrong."""
    return view.own if view.round <= honest_rounds else wrong(view)

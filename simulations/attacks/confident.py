"""Attacks that upload confident labels, on all rows or on some.

The kinds, here and beside, are those that fedpf's trust was measured against; confident means
logits of 12 for one class and 0 for the others.
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
    """Answer the class after its own, confidently; all attackers err alike."""
    return confident((view.own.argmax(-1) + 1) % view.num_classes, view.num_classes)


@register(part="attacks")
def random(view: View) -> Tensor:
    """Answer random classes, confidently; new ones for every round and attacker."""
    rows, classes = view.own.shape
    labels = torch.randint(classes, (rows,), generator=view.rng("random"))
    return confident(labels, classes)


@register(part="attacks")
def constant(view: View) -> Tensor:
    """Answer class 0 to everything, confidently."""
    labels = torch.zeros(len(view.own), dtype=torch.int64)
    return confident(labels, view.num_classes)


@register(part="attacks")
def flip(view: View, source: int = 3, target: int = 8) -> Tensor:
    """Answer honestly, except class target, confidently, where it would say source."""
    source, target = view.two_classes(source, target)
    hit = view.own.argmax(-1) == source
    lie = confident(torch.full((len(view.own),), target), view.num_classes)
    return torch.where(hit[:, None], lie, view.own)


@register(part="attacks")
def adaptive_flip(view: View, source: int = 3, target: int = 8) -> Tensor:
    """Answer what the last fused knowledge says, confidently, with class target for source.

    Agreeing with everybody on the other rows is its cover. Rows that the last fused
    knowledge does not speak of, all of them in the first round, take its own answers.
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
    """Answer honestly on every second row, from the first on, and as wrong on the others."""
    honest = torch.arange(len(view.own)) % 2 == 0
    return torch.where(honest[:, None], view.own, wrong(view))


@register(part="attacks")
def on_off(view: View, honest_rounds: int = 5) -> Tensor:
    """Answer honestly for honest_rounds rounds, then as wrong."""
    return view.own if view.round <= honest_rounds else wrong(view)

"""The class whose prototype is nearest to a sample's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedkt.fusion import mean_by_counts
from fedkt.knowledge import Knowledge, Stack
from fedkt.readouts.readout import Ask, ReadOut, SettleWork
from fedkt.registry import register
from fedkt.shares import Prototypes, Share

NEVER = -1e30
KEPT = "nearest-prototype.prototypes"


@register(name="nearest-prototype")
@dataclass(frozen=True)
class NearestPrototype(ReadOut):
    """The class whose fused prototype is nearest to the features, argmin_c ||f(x) - C_c||.

    Tan et al. (2022), arXiv:2105.00243, section "Local Objective"; its logits are the negative
    squared distances. A class without prototype is never answered. Where there are no prototypes,
    as before the first fusion, the answer is the model's logits. Bytes a round and client: the
    prototypes up and their mean down (broadcast), unless the method shares prototypes anyway.

    Parameters
    ----------
    source : str
        The name of the prototypes. If the method has a share :class:`Prototypes` of this name,
        the read-out takes what the method makes of it; else it averages them by their counts.
    """

    needs_features: ClassVar[bool] = True
    source: str = "prototypes"

    def shares(self) -> Sequence[Share]:
        """Return the share of the prototypes."""
        return (Prototypes(self.source),)

    def fuse(self, stack: Stack) -> Knowledge:
        """Return the mean of each class over the clients that hold it, weighted by counts."""
        return mean_by_counts(stack).shared[stack.name]

    def settle(self, learner: Any, work: SettleWork) -> None:
        """Keep the prototypes; the last ones where none have arrived."""
        prototypes = work.knowledge.get(self.source)
        if prototypes is not None:
            work.keep(KEPT, prototypes)

    def answer(self, x: Tensor, ask: Ask, own: Mapping[str, Any], log_prior: Tensor) -> Tensor:
        """Return the negative squared distances, ``[n, C]``.

        They are -10³⁰ for classes without prototype: never chosen, and finite in sums.
        """
        answers, prototypes = ask(None, x), own.get(KEPT)
        if prototypes is None or not len(present := _present(prototypes)):
            return answers.logits
        distances = torch.cdist(answers.features, prototypes.at(present)).square()
        logits = torch.full((len(x), len(log_prior)), NEVER)
        logits[:, present] = -distances
        return logits


def _present(prototypes: Knowledge) -> Tensor:
    """Return the ids of the classes that have a prototype."""
    ids, counts = prototypes.ids, prototypes.counts
    assert ids is not None
    return ids if counts is None else ids[counts > 0]

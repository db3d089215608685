"""FedNTD, not-true distillation (Lee et al., NeurIPS 2022, arXiv:2106.03097)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedkt.knowledge import Knowledge
from fedkt.objectives import KL, Batch, CrossEntropy, Outputs, weighted_mean
from fedkt.options import Count, Factor, Positive
from fedkt.recipe import Train, Weighted
from fedkt.registry import register
from fedkt.strategies.weights.fedavg import FedAvg


@register
@dataclass(frozen=True)
class NotTrue:
    """Divergence from the global model's answer over all classes but the sample's own.

    τ² KL(q̃_global ‖ q̃_local), both softmaxes of C - 1 logits divided by τ, the mean over the batch:
    section 4 of Lee et al. (2022). The global model is asked in evaluation mode.

    Parameters
    ----------
    temperature : float
        τ > 0.
    """

    temperature: Positive = 1.0
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "not-true"
    needs_labels: ClassVar[bool] = True
    per_sample: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return the name of the global weights."""
        return ("weights",)

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        assert outputs.ask is not None
        assert batch.y is not None
        told = outputs.ask(knowledge["weights"], batch.x).logits
        student, teacher = (others(logits, batch.y) for logits in (outputs.logits, told))
        return weighted_mean(KL(self.temperature)(student, teacher, "logits"), batch.weight)


def others(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logits of all classes but the labelled one, ``[n, C - 1]``."""
    columns = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, columns + (columns >= labels[:, None]))


@register
class FedNTD(FedAvg):
    """Average weights; clients keep what the global model says about the classes they lack.

    Lee, Jeong, Shin, Bae and Yun, "Preservation of the Global Knowledge by Not-True Distillation
    in Federated Learning", NeurIPS 2022, arXiv:2106.03097. Local loss:
    CE + β L_NTD (section 4); the teacher is the global model as received. With β = 0 it is
    :class:`~fedkt.strategies.FedAvg`, whose requirements it shares.

    Bytes a round and client, P parameters in float32: up 4P, down 4P (broadcast), and once more as
    in :class:`~fedkt.strategies.FedAvg`.

    Differences: the paper's text has τ = β = 1; programs take τ = 3 and multiply by τ², as is done
    here.

    Parameters
    ----------
    beta : float
        β ≥ 0.
    temperature : float
        τ > 0.
    local_epochs : int
        Passes over the private data a round.
    local_samples : int
        Number of samples, drawn anew, in a pass; 0 = all.
    """

    name = "fedntd"

    def __init__(
        self,
        beta: Factor = 1.0,
        temperature: Positive = 1.0,
        local_epochs: Count = 5,
        local_samples: Count = 0,
    ) -> None:
        super().__init__(local_epochs, local_samples)
        self.beta, self.temperature = beta, temperature

    def private_step(self) -> Train:
        """Return the training step with the distillation."""
        kept = Weighted(self.beta, NotTrue(self.temperature))
        return replace(super().private_step(), terms=[CrossEntropy(), kept])

"""FedDG-GA, generalisation adjustment (Zhang, Xu, Yao, Zhang, Tian and Wang, CVPR 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from fedkt.fusion import mean_by_examples
from fedkt.knowledge import Fused, Uploads
from fedkt.options import Count, Fraction
from fedkt.recipe import Recipe, Validation
from fedkt.registry import register
from fedkt.strategies.weights.fedavg import FedAvg


def adjusted(weights: Tensor, gaps: Tensor, step: float) -> Tensor:
    """Return aggregation weights moved towards clients with a large gap.

    ``w + step (g − mean g) / max |g − mean g|``, clipped to [0, 1] and divided by their sum.

    Parameters
    ----------
    weights, gaps : Tensor
        ``[K]``; weights on the simplex, gaps in any unit.
    step : float
        Largest change of a weight before clipping, at least 0.

    Returns
    -------
    Tensor
        ``[K]``, on the simplex; unchanged if all gaps are equal.
    """
    gaps = gaps - gaps.mean()
    largest = gaps.abs().max()
    if float(largest) < 1e-12:  # rounding: all gaps are equal
        return weights
    moved = (weights + step * gaps / largest).clamp(0, 1)
    return moved / moved.sum()


@register
class FedGA(FedAvg):
    """Average the clients' weights in proportions that follow their generalisation gaps.

    Zhang, Xu, Yao, Zhang, Tian & Wang: Federated Domain Generalization with Generalization
    Adjustment, CVPR 2023 (FedDG-GA). A client's gap is the loss of the global model on its
    validation samples minus that of the local model uploaded for it. A client whose loss rises
    by aggregation gets a larger weight in the next one (:func:`adjusted`). The step is
    ``strength / K · (1 − (r − 1) / R)`` in round r of R with K clients taking part. Clients
    measure both figures of a round in the next round, when they share; without validation
    samples, on their training samples.

    Different from the paper's code: it measures gaps in accuracy by default, here
    ``metric="accuracy"``. It writes 1/3 for 1/K, divides by 0 if all gaps are 0, and does not
    subtract the mean gap, so equal gaps move its weights towards equality. It measures both
    models in the same round and adjusts after each of R + 1 rounds, with steps that fall from 1 +
    1/R to 1/R times ``strength``. Here the first adjustment comes in round 2, with 1 − 1/R, and
    the last in round R, with 1/R. Its weights start equal; these start as FedAvg's. Between
    rounds a weight is kept as a number of examples, at first the client's own. A client that was
    not in the last round keeps its weight, and its gap counts as the mean gap.
    ``metric="accuracy"`` takes 1 − accuracy for the loss.

    Bytes a round and client, P parameters: up 4P + 16, down 4P (broadcast); 4P more down as in
    FedAvg. The 16 are two losses and two accuracies, the only information on labels.

    Parameters
    ----------
    metric : {"loss", "accuracy"}
        Measure of the gaps.
    strength : float
        The first step times K, in [0, 1].
    local_epochs : int
        Passes over the private data a round.
    local_samples : int
        Number of samples, drawn anew, in a pass; 0 = all.
    """

    name = "fedga"
    follows_progress = True

    def __init__(
        self,
        metric: Literal["loss", "accuracy"] = "loss",
        strength: Fraction = 0.2,
        local_epochs: Count = 5,
        local_samples: Count = 0,
    ) -> None:
        super().__init__(local_epochs, local_samples)
        self.metric, self.strength = metric, strength

    def recipe(self) -> Recipe:
        """Return the recipe: load the global weights, train, share weights and losses."""
        return Recipe.sharing_weights(self.private_step(), also=[Validation()])

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of the weights, in proportions adjusted by the last gaps; broadcast."""
        gaps = self._gaps(uploads)
        examples: dict[int, float] = self.memory.setdefault("examples", {})
        for upload in uploads:
            examples.setdefault(upload.client, float(upload.num_examples))
        counts = torch.tensor([examples[c] for c in uploads.clients], dtype=torch.float64)
        total = counts.sum()
        if len(gaps) and total > 0:
            mean = torch.tensor(list(gaps.values()), dtype=torch.float64).mean()
            every = torch.stack([gaps.get(c, mean) for c in uploads.clients])
            counts = adjusted(counts / total, every, self._step(len(counts))) * total
            examples.update(zip(uploads.clients, counts.tolist(), strict=True))
            total = counts.sum()
        stack = replace(uploads["weights"], num_examples=counts.float())
        shares = counts / total if total > 0 else torch.full_like(counts, 1 / len(counts))
        return mean_by_examples(stack).with_diagnostics(
            clients=list(uploads.clients), weights=shares, gaps=[*map(float, gaps.values())]
        )

    def _gaps(self, uploads: Uploads) -> Mapping[int, Tensor]:
        """Return the last round's gaps of the clients in both rounds; keep this round's errors."""
        figures = uploads["validation"].tensors
        local, received = self._errors(figures["own"]), self._errors(figures["received"])
        before: dict[int, float] = self.memory.get("errors", {})
        self.memory["errors"] = dict(zip(uploads.clients, local.tolist(), strict=True))
        pairs = zip(uploads.clients, received, strict=True)
        return {c: error - before[c] for c, error in pairs if c in before}

    def _errors(self, figures: Tensor) -> Tensor:
        """Return losses or error rates ``[K]`` from losses and accuracies ``[K, 2]``."""
        loss, accuracy = figures.double().unbind(-1)
        return loss if self.metric == "loss" else 1 - accuracy

    def _step(self, clients: int) -> float:
        """Return the largest change of a weight in this round."""
        return self.strength / clients * max(0.0, 1 - self.round.progress)

"""FedDG-GA: clients that aggregation hurts weigh more in the next one."""

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
        The most that a weight changes before it is clipped, at least 0.

    Returns
    -------
    Tensor
        ``[K]``, on the simplex; unchanged if all gaps are equal.
    """
    gaps = gaps - gaps.mean()
    largest = gaps.abs().max()
    if float(largest) < 1e-12:  # of rounding: no gap stands out
        return weights
    moved = (weights + step * gaps / largest).clamp(0, 1)
    return moved / moved.sum()


@register
class FedGA(FedAvg):
    """FedAvg with generalisation adjustment: averaging weights that follow generalisation gaps.

    Zhang, Xu, Yao, Zhang, Tian & Wang: Federated Domain Generalization with Generalization
    Adjustment, CVPR 2023 (FedDG-GA). A client's gap is the loss of the global model on its
    validation samples minus that of the local model which it uploaded for it; a client whose
    loss rises by aggregation gets a larger weight in the next one (:func:`adjusted`). The step
    is ``strength / K · (1 − (r − 1) / R)`` in round r of R with K clients taking part. Clients
    measure both figures of a round in the next one, when they share; without validation
    samples on their training samples.

    Different from the paper's code: it measures gaps in accuracy by default, here
    ``metric="accuracy"``. It writes 1/3 for 1/K, divides by 0 if all gaps are 0, and does not
    subtract the mean gap, so equal gaps move its weights towards equality. It measures both
    models in the same round and adjusts after each of R + 1 rounds, with steps that fall from 1 +
    1/R to 1/R times the given one; here the first adjustment comes in round 2, with 1 − 1/R, and
    the last in round R, with 1/R. Its weights start equal; these start as FedAvg's. Between
    rounds a weight is kept as a number of examples, at first the client's own: a client that did
    not take part in the round before keeps its, and its gap counts as the mean one.
    ``metric="accuracy"`` takes 1 − accuracy for the loss.

    Bytes a round and client, P parameters: up 4P + 16, down 4P (broadcast); 4P more down as in
    FedAvg. The 16 are two losses and two accuracies, all that is told of the labels.

    Parameters
    ----------
    metric : {"loss", "accuracy"}
        What gaps are measured in.
    strength : float
        The first step times K, in [0, 1].
    local_epochs : int
        Passes over the private data a round.
    local_samples : int
        How many samples, drawn anew, a pass sees; 0 = all.
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
        """Start from the global weights, train, share the weights and how both models do."""
        return Recipe.sharing_weights(self.private_step(), also=[Validation()])

    def fuse(self, uploads: Uploads) -> Fused:
        """Adjust the weights by the gaps of the round before, then average with them."""
        gaps = self._gaps(uploads)
        examples: dict[int, float] = self.memory.setdefault("examples", {})
        for upload in uploads:
            examples.setdefault(upload.client, float(upload.num_examples))
        own = torch.tensor([examples[c] for c in uploads.clients], dtype=torch.float64)
        if len(gaps) and own.sum() > 0:
            known = torch.tensor(list(gaps.values()), dtype=torch.float64).mean()
            every = torch.stack([gaps.get(c, known) for c in uploads.clients])
            own = adjusted(own / own.sum(), every, self._step(len(own))) * own.sum()
            examples.update(zip(uploads.clients, own.tolist(), strict=True))
        stack = replace(uploads["weights"], num_examples=own.float())
        shares = own / own.sum() if own.sum() > 0 else torch.full_like(own, 1 / len(own))
        return mean_by_examples(stack).with_diagnostics(
            clients=list(uploads.clients), weights=shares, gaps=[*map(float, gaps.values())]
        )

    def _gaps(self, uploads: Uploads) -> Mapping[int, Tensor]:
        """Return the last round's gaps of the clients in both rounds, and note this one's."""
        told = uploads["validation"].tensors
        own, received = self._errors(told["own"]), self._errors(told["received"])
        before: dict[int, float] = self.memory.get("errors", {})
        now = dict(zip(uploads.clients, own.tolist(), strict=True))
        self.memory["errors"] = now
        pairs = zip(uploads.clients, received, strict=True)
        return {c: error - before[c] for c, error in pairs if c in before}

    def _errors(self, told: Tensor) -> Tensor:
        """Return the loss or error rate of what clients told, ``[K, 2]``."""
        loss, accuracy = told.double().unbind(-1)
        return loss if self.metric == "loss" else 1 - accuracy

    def _step(self, clients: int) -> float:
        """Return the most that a weight may change in this round."""
        exchange = self.exchange
        behind = (exchange.report.round - 1) / exchange.rounds if exchange.rounds else 0.0
        return self.strength / clients * max(0.0, 1 - behind)

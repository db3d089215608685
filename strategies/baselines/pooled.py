"""Training on everybody's data (baseline)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedkt.data.priors import empirical_bayes_prior
from fedkt.objectives import CrossEntropy
from fedkt.options import Count
from fedkt.readouts import Ask, ReadOut
from fedkt.readouts.readout import SettleWork
from fedkt.recipe import Recipe, Train
from fedkt.registry import register
from fedkt.strategies.server.strategy import KnowledgeStrategy

PRIOR = "of-own-prior/trained"


@register(name="of-own-prior")
@dataclass(frozen=True)
class OfOwnPrior(ReadOut):
    """z + log π - log π_train, for a model trained on other samples than its client's.

    π is the client's class prior, π_train that of the samples that its model is trained on
    (Saerens et al. 2002, equation 2.4).
    """

    def settle(self, learner: Any, work: SettleWork) -> None:
        """Keep the log prior of the training samples, float32 ``[C]``."""
        labels = work.data.train.y
        assert labels is not None
        counts = torch.bincount(labels, minlength=work.data.num_classes)
        work.keep(PRIOR, empirical_bayes_prior(counts).log())

    def answer(self, x: Tensor, ask: Ask, own: Mapping[str, Any], log_prior: Tensor) -> Tensor:
        """Return the corrected logits ``[n, C]``; as they are before the first training."""
        logits = ask(None, x).logits
        return logits + log_prior - own[PRIOR] if PRIOR in own else logits


@register
class Pooled(KnowledgeStrategy):
    """Train each client's model on the private data of all clients; not federated.

    A reference for simulations: what could be had if data might be shared, with as many private
    steps as one client makes. The share of the way from ``local`` to it is the gap that a method
    closes. The models of clients of one architecture differ in their first weights and batches
    alone, so a mean over clients is one over initialisations, too. For itself a client answers
    with its own class prior in place of that of all data.

    Bytes a round and client: none.

    Parameters
    ----------
    local_epochs : int
        Passes of a round, each of as many batches as a pass over a client's own samples has.
    local_steps : int
        Batches of a round; 0 takes ``local_epochs`` times a client's in the mean.
    """

    name = "pooled"
    pools = True

    def __init__(self, local_epochs: Count = 5, local_steps: Count = 0) -> None:
        self.local_epochs, self.local_steps = local_epochs, local_steps

    def recipe(self) -> Recipe:
        """Return the recipe: train on what the simulation gives a client."""
        # Without a simulation that fills in the steps, the epochs are whole.
        epochs = 0 if self.local_steps else self.local_epochs
        step = Train("private", [CrossEntropy()], epochs, least_steps=self.local_steps)
        return Recipe(learn=[step], readout=OfOwnPrior())

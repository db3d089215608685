"""FedProto (Tan et al., AAAI 2022, arXiv:2105.00243)."""

from __future__ import annotations

from typing import Literal

from fedkt.fusion import mean, mean_by_counts
from fedkt.knowledge import Fused, Uploads
from fedkt.objectives import CrossEntropy, Term
from fedkt.objectives.prototype_distance import PrototypeDistance
from fedkt.options import Count, Factor
from fedkt.readouts import ReadOut
from fedkt.recipe import Prototypes, Recipe, Train, Weighted
from fedkt.registry import register
from fedkt.strategies.server.strategy import KnowledgeStrategy


@register
class FedProto(KnowledgeStrategy):
    """Draw features to the prototypes of classes, means over all clients.

    Tan, Long, Liu, Zhou, Lu, Jiang and Zhang, "FedProto: Federated Prototype Learning across
    Heterogeneous Clients", AAAI 2022, arXiv:2105.00243. A prototype is the mean feature of a
    client's samples of a class (equation 3). The global one is the mean over the clients that have
    the class, weighted by their samples of it (equation 6). Clients minimise
    CE + λ d(z, C̄_y) (equation 7), from the second round on. A class without a prototype adds
    nothing. A client answers for itself with the class of the nearest prototype.

    Bytes a round and client, C classes, d features: up at most 4Cd + 16C (ids and counts
    included), down at most 4Cd + 16C (broadcast); classes that a client lacks are not sent.

    Differences: d is the mean squared difference of each sample's features, as in the authors'
    program, where the paper has the distance of the batch's mean features. Prototypes are made by
    the trained model; the authors' program takes them while the last epoch moves the weights.
    Models may be of any architecture whose features are equally wide.

    Parameters
    ----------
    factor : float
        λ ≥ 0.
    weighting : {"samples", "clients"}
        Weigh clients by their samples of the class (the paper), or equally (the authors' program).
    readout : ReadOut or str
        The personal answer: ``nearest-prototype``, or ``raw`` for the model's own classifier.
    local_epochs : int
        Passes over the private data a round.
    """

    name = "fedproto"

    def __init__(
        self,
        factor: Factor = 1.0,
        weighting: Literal["samples", "clients"] = "samples",
        readout: ReadOut | str = "nearest-prototype",
        local_epochs: Count = 1,
    ) -> None:
        self.factor, self.weighting, self.readout = factor, weighting, readout
        self.local_epochs = local_epochs

    def recipe(self) -> Recipe:
        """Return the recipe: train near the prototypes, share those of the trained model."""
        terms: list[Term | Weighted] = [CrossEntropy(), Weighted(self.factor, PrototypeDistance())]
        return Recipe(
            learn=[Train(on="private", terms=terms, epochs=self.local_epochs)],
            share=[Prototypes()],
            readout=self.readout,
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of each class's prototypes; broadcast."""
        average = mean_by_counts if self.weighting == "samples" else mean
        return average(uploads["prototypes"])

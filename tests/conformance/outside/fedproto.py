"""Prototype learning: clients share mean features of classes."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from fedkt import KnowledgeStrategy, Prototypes, Recipe, Train, register
from fedkt.fusion import mean_by_counts
from fedkt.objectives import CrossEntropy, weighted_mean
from fedkt.recipe import Weighted

Epochs = Annotated[int, Ge(0)]
Factor = Annotated[float, Ge(0)]


@register
@dataclass(frozen=True)
class PrototypeDistance:
    """Mean squared distance of the features from the global prototype of the sample's class."""

    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "prototype-distance"
    needs_features: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True
    source: str = "prototypes"

    def needs(self):
        return (self.source,)

    def __call__(self, outputs, batch, knowledge):
        prototypes, known = knowledge[self.source].known_at(batch.y)
        distance = (outputs.features - prototypes).square().mean(-1)
        return weighted_mean(torch.where(known, distance, 0.0), batch.weight)


@register
class FedProto(KnowledgeStrategy):
    """FedProto: features are drawn to the prototypes of all clients.

    Tan et al. (2022), "FedProto: Federated Prototype Learning across Heterogeneous Clients", AAAI,
    arXiv:2105.00243. A prototype is the mean feature of a client's samples of a class (equation 3),
    the global one the mean over the clients that have the class, weighted by their samples of it
    (equation 6); the loss is CE + λ d(z, C̄_y) (equation 7), d the mean squared difference of the
    authors' code. A class that nobody has yet adds nothing. A client answers for itself by the
    nearest global prototype. Clients may be of any architecture
    whose features are equally wide. A client answers for itself with the class of the nearest
    global prototype.
    """

    name = "fedproto"

    def __init__(self, local_epochs: Epochs = 1, factor: Factor = 1.0):
        self.local_epochs, self.factor = local_epochs, factor

    def recipe(self):
        terms = [CrossEntropy(), Weighted(self.factor, PrototypeDistance())]
        return Recipe(
            learn=[Train("private", terms, epochs=self.local_epochs)],
            share=[Prototypes()],
            readout="nearest-prototype",
        )

    def fuse(self, uploads):
        return mean_by_counts(uploads["prototypes"])

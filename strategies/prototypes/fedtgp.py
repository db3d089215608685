"""FedTGP, trainable global prototypes (Zhang et al., AAAI 2024, arXiv:2401.03230)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from fedkt.context import ServerNet
from fedkt.fusion import mean
from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.objectives import Batch, CrossEntropy, Outputs, Term, weighted_mean
from fedkt.objectives.prototype_distance import PrototypeDistance
from fedkt.options import AtLeastOne, Count, Factor, Positive
from fedkt.readouts import ReadOut
from fedkt.recipe import Prototypes, Recipe, Train, Weighted
from fedkt.registry import register
from fedkt.strategies.prototypes.class_pairs import feature_width, labelled_prototypes, margin
from fedkt.strategies.server.strategy import KnowledgeStrategy
from fedkt.training import TrainingOptions


class PrototypeNet(nn.Module):
    """A vector for each class, mapped by two layers to its global prototype.

    Its answers to prototypes ``[n, d]`` are the negative distances from all global ones.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(classes, width)
        self.hidden, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the negative distances, ``[n, C]``."""
        squares = (x[:, None] - generated(dict(self.named_parameters()))).square().sum(-1)
        return -squares.clamp_min(1e-12).sqrt()


def generated(weights: Mapping[str, Tensor]) -> Tensor:
    """Return the global prototypes of a generator's weights, ``[C, d]``."""
    hidden = F.linear(weights["vectors.weight"], weights["hidden.weight"], weights["hidden.bias"])
    return F.linear(F.relu(hidden), weights["out.weight"], weights["out.bias"])


@register
@dataclass(frozen=True)
class MarginCrossEntropy:
    """Cross-entropy of answers from which δ is subtracted at the sample's own class."""

    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "margin-cross-entropy"
    needs_labels: ClassVar[bool] = True
    per_sample: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return the name of the margin."""
        return ("margin",)

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        assert batch.y is not None
        at_label = F.one_hot(batch.y, outputs.logits.shape[1])
        logits = outputs.logits - knowledge["margin"].tensors["margin"] * at_label
        return weighted_mean(F.cross_entropy(logits, batch.y, reduction="none"), batch.weight)


@register
class FedTGP(KnowledgeStrategy):
    """Draw features to prototypes that the server trains to lie far apart.

    Zhang, Liu, Hua and Cao, "FedTGP: Trainable Global Prototypes with Adaptive-Margin-Enhanced
    Contrastive Learning for Data and Model Heterogeneity in Federated Learning", AAAI 2024,
    arXiv:2401.03230. The server maps a trainable vector of each class to its global prototype P̂_c
    by two layers, and minimises over the clients' prototypes P_{i,c} (equation 9)
    -log(exp(-(φ(P, P̂_c) + δ)) / (exp(-(φ(P, P̂_c) + δ)) + Σ_{c' ≠ c} exp(-φ(P, P̂_c')))), φ the
    Euclidean distance and δ = min(max_c min_{c' ≠ c} φ(Q_c, Q_c'), τ) of the classes' means Q
    (equation 8). Clients minimise CE + λ d(z, P̂_y) (equation 11) with the mean squared difference
    as d, and answer by the nearest prototype.

    Bytes a round and client, C classes, d features: up at most 4Cd + 16C (ids and counts
    included), down at most 4Cd + 16C (broadcast), for the classes that any client of the round has.

    Parameters
    ----------
    factor : float
        λ ≥ 0.
    most_margin : float
        τ > 0.
    server_epochs, server_batch : int
        Passes over the prototypes of a round, and prototypes in a batch.
    server_rate : float
        Learning rate of the server, by plain gradient descent.
    readout : ReadOut or str
        The personal answer; ``raw`` is the model's own classifier.
    local_epochs : int
        Passes over the private data a round.
    """

    name = "fedtgp"
    exempt: ClassVar[Mapping[str, str]] = {
        "cohorts_learn_what_the_loop_learns": "the server's hundreds of steps enlarge rounding: "
        "prototypes 2e-5 apart, within the law's 1e-5 after a twentieth of the steps"
    }

    def __init__(
        self,
        factor: Factor = 10.0,
        most_margin: Positive = 100.0,
        server_epochs: Count = 100,
        server_batch: AtLeastOne = 10,
        server_rate: Positive = 0.01,
        readout: ReadOut | str = "nearest-prototype",
        local_epochs: Count = 1,
    ) -> None:
        self.factor, self.most_margin, self.readout = factor, most_margin, readout
        self.server_epochs, self.server_batch = server_epochs, server_batch
        self.server_rate, self.local_epochs = server_rate, local_epochs

    def recipe(self) -> Recipe:
        """Return the recipe: train near the prototypes, share those of the trained model."""
        terms: list[Term | Weighted] = [CrossEntropy(), Weighted(self.factor, PrototypeDistance())]
        train = Train(on="private", terms=terms, epochs=self.local_epochs)
        return Recipe(learn=[train], share=[Prototypes()], readout=self.readout)

    def models(self) -> Mapping[str, ServerNet]:
        """Return the generator of prototypes."""
        return {
            "generator": ServerNet(self._generator, TrainingOptions("sgd", self.server_rate, 0))
        }

    def _generator(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        return PrototypeNet(feature_width(self.round.about), classes)

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the generated prototypes of the classes that somebody has; broadcast."""
        stack = uploads["prototypes"]
        means = mean(stack).shared["prototypes"]
        assert means.ids is not None
        delta = margin(means.values[stack.covered], self.most_margin)
        told = Knowledge("statistics", {"margin": delta})
        step = Train("public", [MarginCrossEntropy()], self.server_epochs, self.server_batch)
        generator = self.model["generator"]
        loss = generator.train(step, {"margin": told}, "prototypes", labelled_prototypes(stack))
        values = generated(generator.weights().tensors)[means.ids]
        fused = {"prototypes": means.with_tensors({"values": values})}
        return Fused(fused).with_diagnostics(server_loss=loss, margin=float(delta))

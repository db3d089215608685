"""FedGH, a generalised global header (Yi et al., ACM MM 2023, arXiv:2303.13137)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fedkt.context import ServerNet
from fedkt.knowledge import Fused, Kind, Knowledge, Uploads
from fedkt.objectives import CrossEntropy
from fedkt.options import AtLeastOne, Count, Positive
from fedkt.recipe import Prototypes, Recipe, Step, Train
from fedkt.registry import register
from fedkt.steps.train import StepWork, Trainee
from fedkt.strategies.prototypes.class_pairs import feature_width, labelled_prototypes
from fedkt.strategies.server.strategy import KnowledgeStrategy
from fedkt.training import TrainingOptions


@register
@dataclass(frozen=True)
class LoadHeader(Step):
    """A step that puts the server's header in place of the model's layer that classifies.

    Its tensors are called ``weight`` and ``bias``, whatever the layer is called in the model.
    """

    name: ClassVar[str] = "load-header"

    def needs(self) -> tuple[str, ...]:
        """Return the name of the header."""
        return ("header",)

    def loads(self) -> tuple[str, ...]:
        """Return the name of the header."""
        return ("header",)

    def run(self, learner: Trainee, work: StepWork, stream: str) -> float | None:
        """Load the header, if it has arrived."""
        if "header" in work.knowledge:
            header = work.knowledge["header"].tensors
            own = {n: n.rpartition(".")[2] for n in learner.weights(of="@head").tensors}
            tensors = {name: header[last] for name, last in own.items() if last in header}
            learner.load_weights(Knowledge("weights", tensors))
        return None


@register
class FedGH(KnowledgeStrategy):
    """Train the layer that classifies on all clients' prototypes, and send it to everyone.

    Yi, Wang, Liu, Shi and Yu, "FedGH: Heterogeneous Federated Learning with Generalized Global
    Header", ACM MM 2023, arXiv:2303.13137, algorithm 1. Clients share the mean features of their
    classes (equation 5). The server takes steps down the cross-entropy of its header, a linear
    layer, on the pairs of prototype and class (equations 6 and 7). Clients put it in the place of
    their own, and train the whole model. Bodies may be of any architecture whose features are
    equally wide.

    Bytes a round and client, C classes, d features: up at most 4Cd + 16C (ids and counts
    included), down 4C(d + 1) (broadcast), from the second round on.

    Differences: prototypes are drawn in mixed batches, where the authors' program goes client by
    client and takes a step for each.

    Parameters
    ----------
    server_epochs : int
        Passes over the prototypes of a round.
    server_rate : float
        Learning rate of the header, by plain gradient descent.
    server_batch : int
        Prototypes in a batch.
    local_epochs : int
        Passes over the private data a round.
    """

    name = "fedgh"

    def __init__(
        self,
        server_epochs: Count = 1,
        server_rate: Positive = 0.01,
        server_batch: AtLeastOne = 10,
        local_epochs: Count = 5,
    ) -> None:
        self.server_epochs, self.server_rate = server_epochs, server_rate
        self.server_batch, self.local_epochs = server_batch, local_epochs

    def recipe(self) -> Recipe:
        """Return the recipe: take the header, train, share prototypes."""
        train = Train(on="private", terms=[CrossEntropy()], epochs=self.local_epochs)
        return Recipe(learn=[LoadHeader(), train], share=[Prototypes()], given=["header"])

    @property
    def fused_kinds(self) -> Mapping[str, Kind]:
        """The kind of the header."""
        return {"header": "weights"}

    def models(self) -> Mapping[str, ServerNet]:
        """Return the header, which is trained by plain gradient descent."""
        options = TrainingOptions("sgd", self.server_rate, momentum=0.0)
        return {"header": ServerNet(self._header, options)}

    def _header(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        return nn.Linear(feature_width(self.round.about), classes)

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the header after its steps on the prototypes; broadcast."""
        header, stack = self.model["header"], uploads["prototypes"]
        terms, batch = [CrossEntropy()], self.server_batch
        step = Train("public", terms, epochs=self.server_epochs, batch_size=batch)
        loss = header.train(step, {}, "header", labelled_prototypes(stack))
        return Fused(shared={"header": header.weights()}).with_diagnostics(header_loss=loss)

"""Federated averaging (McMahan et al., AISTATS 2017, arXiv:1602.05629)."""

from __future__ import annotations

from fedkt.fusion import mean_by_examples
from fedkt.knowledge import Fused, Uploads
from fedkt.objectives import CrossEntropy
from fedkt.options import Count
from fedkt.recipe import Recipe, Train
from fedkt.registry import register
from fedkt.strategies.server.strategy import KnowledgeStrategy


@register
class FedAvg(KnowledgeStrategy):
    """Average the clients' weights by their number of examples.

    Algorithm 1 of the paper. A weight-sharing baseline: it needs one architecture. Float
    buffers (running statistics) are averaged with the parameters; integer buffers stay
    at the client. The clients of a round evaluate the new global weights without fine-tuning.
    With partial participation the others evaluate an older model, so the server's accuracy
    is then the figure to read.

    Bytes a round and client, P parameters in float32: up 4P, down 4P (broadcast); 4P more
    down for a client that did not take part in the round before, and in the first round.

    Parameters
    ----------
    local_epochs : int
        E, passes over the private data a round.
    local_samples : int
        Number of samples, drawn anew, in a pass; 0 = all.
    """

    name = "fedavg"

    def __init__(self, local_epochs: Count = 5, local_samples: Count = 0) -> None:
        self.local_epochs, self.local_samples = local_epochs, local_samples

    def private_step(self) -> Train:
        """Return the training step on private data, which subclasses change."""
        epochs, samples = self.local_epochs, self.local_samples
        return Train(on="private", terms=[CrossEntropy()], epochs=epochs, samples=samples)

    def recipe(self) -> Recipe:
        """Return the recipe: load the global weights, train, share the weights."""
        return Recipe.sharing_weights(self.private_step())

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of the weights by number of examples; broadcast."""
        return mean_by_examples(uploads["weights"])

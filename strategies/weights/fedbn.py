"""FedBN (Li et al., ICLR 2021, arXiv:2102.07623)."""

from __future__ import annotations

from fedkt.recipe import Recipe
from fedkt.registry import register
from fedkt.strategies.weights.fedavg import FedAvg


@register
class FedBN(FedAvg):
    """Average the clients' weights without batch normalisation, which stays at the clients.

    Algorithm 1 of the paper: affine map and running statistics of every batch normalisation
    are neither shared nor averaged, so that each client keeps the feature scale of its own
    data. So the server has no model to evaluate: its accuracy is left empty, and the clients'
    accuracies are the figures to read. With a model without batch normalisation the clients
    are those of :class:`~fedkt.strategies.FedAvg`, bit for bit.

    Differences: the average is by number of examples; the clients of the paper all have equally
    many. Neither the paper nor this class defines how a client unseen in training normalises.

    Bytes a round and client, P parameters and B of them, running statistics included, in
    batch normalisation: up 4(P - B), down 4(P - B) (broadcast), and once more as in FedAvg.

    Parameters
    ----------
    local_epochs : int
        Passes over the private data a round.
    local_samples : int
        Number of samples, drawn anew, in a pass; 0 = all.
    """

    name = "fedbn"

    def recipe(self) -> Recipe:
        """Return the recipe: load the global weights, train, share all but normalisation."""
        return Recipe.sharing_weights(self.private_step(), local_norms=True)

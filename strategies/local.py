"""Local training: every client alone. The baseline of all other methods."""

from __future__ import annotations

from fedkt.objectives import CrossEntropy
from fedkt.recipe import Recipe, Train
from fedkt.registry import register
from fedkt.strategies.base import KnowledgeStrategy


@register
class Local(KnowledgeStrategy):
    """Each client trains on its own data; nothing is shared.

    Bytes a round: none.

    Parameters
    ----------
    local_epochs : int
        Passes over the private data a round.
    """

    name = "local"

    def __init__(self, local_epochs: int = 5) -> None:
        self.local_epochs = local_epochs

    def recipe(self) -> Recipe:
        """Train on private data."""
        return Recipe(learn=[Train(on="private", terms=[CrossEntropy()], epochs=self.local_epochs)])

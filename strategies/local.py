"""Local training: every client alone. The baseline of all other methods."""

from __future__ import annotations

from fedkt.errors import ConfigError
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
    times : int
        Multiplies them: ``times=2`` is the baseline with twice the budget, for methods that
        train on public data as well.
    """

    name = "local"

    def __init__(self, local_epochs: int = 5, times: int = 1) -> None:
        if times < 1:
            raise ConfigError(f"local: times must be at least 1, not {times}.")
        self.local_epochs, self.times = local_epochs, times

    def recipe(self) -> Recipe:
        """Train on private data."""
        epochs = self.local_epochs * self.times
        return Recipe(learn=[Train(on="private", terms=[CrossEntropy()], epochs=epochs)])

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
    local_samples : int
        How many samples, drawn anew, a pass sees; 0 = all.
    times : int
        Multiplies them: ``times=2`` is the baseline with twice the budget, for methods that
        train on public data as well.
    """

    name = "local"

    def __init__(self, local_epochs: int = 5, local_samples: int = 0, times: int = 1) -> None:
        if times < 1:
            raise ConfigError(f"local: times must be at least 1, not {times}.")
        self.local_epochs, self.local_samples, self.times = local_epochs, local_samples, times

    def recipe(self) -> Recipe:
        """Train on private data."""
        epochs, samples = self.local_epochs * self.times, self.local_samples
        step = Train(on="private", terms=[CrossEntropy()], epochs=epochs, samples=samples)
        return Recipe(learn=[step])

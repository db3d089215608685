"""Local training (baseline): every client alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedkt.objectives import CrossEntropy
from fedkt.options import AtLeastOne, Count
from fedkt.recipe import Recipe, Step, Train, trainings
from fedkt.recipe.budget import alone
from fedkt.registry import register
from fedkt.strategies.construction import make_strategy
from fedkt.strategies.server.strategy import KnowledgeStrategy


@register
class Local(KnowledgeStrategy):
    """Train each client on its own data alone; nothing is shared.

    Bytes a round and client: none.

    Parameters
    ----------
    local_epochs : int
        Passes over the private data a round.
    local_samples : int
        Number of samples, drawn anew, in a pass; 0 = all.
    times : int
        Factor of the epochs: ``times=2`` is the baseline with twice the budget, for methods that
        also train on public data.
    like : str or Mapping
        Another strategy: its name, or its ``name`` and options. Then each client trains on as many
        private samples as under that strategy, rehearsal included, whatever ``local_epochs`` and
        ``local_samples`` are (``fedkt.recipe.budget.alone``).
    rehearsal : bool
        Whether rehearsal is included.
    """

    name = "local"
    alone = True

    def __init__(
        self,
        local_epochs: Count = 5,
        local_samples: Count = 0,
        times: AtLeastOne = 1,
        like: str | Mapping[str, Any] = "",
        rehearsal: bool = True,
    ) -> None:
        self.local_epochs, self.local_samples, self.times = local_epochs, local_samples, times
        self.like, self.rehearsal = like, rehearsal
        self.recipe()  # a bad strategy shows here

    def recipe(self) -> Recipe:
        """Return the recipe: train on private data."""
        epochs, samples = self.local_epochs, self.local_samples
        step = Train(on="private", terms=[CrossEntropy()], epochs=epochs, samples=samples)
        whole = Recipe(learn=[step])
        if self.like:
            whole = alone(_recipe_of(self.like), self.rehearsal)
        return Recipe(start=self._repeated(whole.start), learn=self._repeated(whole.learn))

    def _repeated(self, steps: Sequence[Step]) -> list[Train]:
        n = self.times
        return [
            replace(step, epochs=n * step.epochs, least_steps=n * step.least_steps)
            for step in trainings(steps)
        ]


def _recipe_of(like: str | Mapping[str, Any]) -> Recipe:
    """Return the recipe of a strategy, from its name or its name and options."""
    return make_strategy({"name": like} if isinstance(like, str) else like).recipe()

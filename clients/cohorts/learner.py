"""One client of a cohort, as the rest of the library sees a learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from fedkt.clients.learners.base import Learner, Work
from fedkt.clients.learners.torch import TorchLearner
from fedkt.knowledge import Knowledge
from fedkt.recipe import Recipe, Train
from fedkt.shares import Question

T = TypeVar("T")


class CohortLearner(Learner):
    """A client's state beside the learner that it shares with its cohort.

    Results that the cohort computed for all clients are kept here. Everything else is done by
    the learner itself, loaded with the state.

    Parameters
    ----------
    learner : TorchLearner
        Learner of the client's architecture.
    """

    def __init__(self, learner: TorchLearner) -> None:
        self.learner = learner
        self.architecture, self.num_classes = learner.architecture, learner.num_classes
        self.current: dict[str, Any] = {}  # replaced, never changed in place
        self._answers: list[tuple[Question, Tensor]] = []

    def refuses(self, recipe: Recipe) -> str | None:
        """Return why the learner cannot follow the recipe; None if it can."""
        return self.learner.refuses(recipe)

    def follow(self, recipe: Recipe) -> None:
        """Prepare the learner for a recipe."""
        self.learner.follow(recipe)

    def reset(self, seed: int, client: int) -> None:
        """Become the untrained model of a client."""
        self.learner.reset(seed, client)
        self.take(self.learner.state())

    def train(self, step: Train, work: Work, stream: str) -> float | None:
        """Train without the cohort; return the loss if there is one."""
        return self._alone(lambda: self.learner.train(step, work, stream))

    def predict(self, x: Tensor, world: str = "model") -> Tensor:
        """Return logits ``[n, C]``: those that the cohort computed, else the learner's."""
        answer = self._remembered(x, features=False) if world == "model" else None
        if answer is not None:
            return answer
        self.learner.load_state(self.current)
        return self.learner.predict(x, world)

    def features(self, x: Tensor) -> Tensor:
        """Return features ``[n, d]``: those that the cohort computed, else the learner's."""
        answer = self._remembered(x, features=True)
        if answer is not None:
            return answer
        self.learner.load_state(self.current)
        return self.learner.features(x)

    def adapt_norms(self, x: Tensor) -> None:
        """Replace the statistics of batch normalisation by those of samples ``[n, ...]``."""
        self._alone(lambda: self.learner.adapt_norms(x))

    def weights(self, local_norms: bool = False, of: str = "", but: str = "") -> Knowledge:
        """Return the weights."""
        return self.learner.weights_in(self.current, local_norms, of, but)

    def load_weights(
        self, weights: Knowledge, of: str = "", rate: float = 1.0, moments: bool = False
    ) -> None:
        """Load weights; see :meth:`TorchLearner.load_weights`."""
        model, before = self.current["model"], self.current["optimiser"]
        tensors, kept = self.learner.loaded(model, before, weights, of, rate)
        self.take({"model": {**model, **tensors}, "optimiser": before if moments else kept})

    def state(self) -> dict[str, Any]:
        """Return the state; it is never changed in place."""
        return self.current

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become the client that ``state`` describes."""
        self.take(dict(state))

    def take(self, state: dict[str, Any]) -> None:
        """Replace the state; answers of the old state are dropped."""
        self.current, self._answers = state, []

    def remember(self, question: Question, answer: Tensor) -> None:
        """Keep the cohort's answer; it is found by the identity of the inputs."""
        self._answers.append((question, answer))

    def _remembered(self, x: Tensor, features: bool) -> Tensor | None:
        asked = ((q, answer) for q, answer in self._answers if q.features == features)
        return next((answer for q, answer in asked if q.x is x), None)

    def _alone(self, act: Callable[[], T]) -> T:
        self.learner.load_state(self.current)
        result = act()
        self.take(self.learner.state())
        return result

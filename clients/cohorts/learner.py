"""One client of a cohort, as the rest of the library sees a learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from fedkt.clients.learners.base import Work
from fedkt.clients.learners.torch import TorchLearner
from fedkt.knowledge import Knowledge
from fedkt.recipe import Recipe, Train

T = TypeVar("T")


class CohortLearner:
    """A client's state beside the learner that it shares with its cohort.

    What the cohort has done for all stands here; everything else is done by the learner
    itself, loaded with the state.

    Parameters
    ----------
    learner : TorchLearner
        Of the client's architecture.
    """

    def __init__(self, learner: TorchLearner) -> None:
        self.learner = learner
        self.current: dict[str, Any] = {}  # replaced, never changed in place
        self._answers: list[tuple[Tensor, Tensor]] = []

    @property
    def architecture(self) -> str:
        """Name and fingerprint of the state's names and shapes."""
        return self.learner.architecture

    @property
    def num_classes(self) -> int:
        """Width of the logits."""
        return self.learner.num_classes

    def refuses(self, recipe: Recipe) -> str | None:
        """Follow what the learner follows."""
        return self.learner.refuses(recipe)

    def follow(self, recipe: Recipe) -> None:
        """Get ready for a recipe."""
        self.learner.follow(recipe)

    def reset(self, seed: int, client: int) -> None:
        """Become the untrained model of a client."""
        self.learner.reset(seed, client)
        self.take(self.learner.state())

    def train(self, step: Train, work: Work, stream: str) -> float | None:
        """Train alone."""
        return self._alone(lambda: self.learner.train(step, work, stream))

    def predict(self, x: Tensor) -> Tensor:
        """Return logits ``[n, C]``: those the cohort found for all, else asked for alone."""
        for asked, logits in self._answers:
            if asked is x:
                return logits
        self.learner.load_state(self.current)
        return self.learner.predict(x)

    def features(self, x: Tensor) -> Tensor:
        """Return features ``[n, d]``."""
        self.learner.load_state(self.current)
        return self.learner.features(x)

    def adapt_norms(self, x: Tensor) -> None:
        """Take the statistics of batch normalisation from other samples."""
        self._alone(lambda: self.learner.adapt_norms(x))

    def weights(self, local_norms: bool = False) -> Knowledge:
        """Return the weights."""
        return self.learner.weights_in(self.current, local_norms)

    def load_weights(self, weights: Knowledge) -> None:
        """Take other weights; the optimiser begins anew."""
        known = weights.tensors
        model = {
            n: known[n].to(t.dtype) if n in known else t for n, t in self.current["model"].items()
        }
        self.take({"model": model, "optimiser": {}})

    def state(self) -> dict[str, Any]:
        """Return the state; it is never changed in place."""
        return self.current

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become the client that ``state`` describes."""
        self.take(dict(state))

    def take(self, state: dict[str, Any]) -> None:
        """Go on with another state; answers of the one before are forgotten."""
        self.current, self._answers = state, []

    def remember(self, x: Tensor, logits: Tensor) -> None:
        """Note what the cohort found for inputs, which are known by being the same object."""
        self._answers.append((x, logits))

    def _alone(self, act: Callable[[], T]) -> T:
        self.learner.load_state(self.current)
        result = act()
        self.take(self.learner.state())
        return result

"""Taking a step towards fused weights, as far as they are good for the client."""

from __future__ import annotations

from dataclasses import dataclass

from fedkt.knowledge import Knowledge
from fedkt.options import Fraction, Positive
from fedkt.registry import register
from fedkt.shares.share import Question
from fedkt.steps.load import Load
from fedkt.steps.train import StepWork, Trainee


@register(name="gated-load")
@dataclass(frozen=True)
class GatedLoad(Load):
    """A step towards fused weights, gated by their accuracy on the client's training samples.

    θ ← θ + rate g (θ_fused - θ), g = clip((ρ - low) / width, 0, 1), where ρ is the accuracy with
    the fused weights divided by that with the client's own. Weights that do not suit a client's
    data so leave it alone. The optimiser's moments stay.

    Parameters
    ----------
    low, width : float
        The gate is closed up to ``low``, and open from ``low + width`` on.
    prior : bool
        Whether both answer with the client's class prior, z + log π, as models that learn z free
        of it do.
    """

    low: Fraction = 0.8
    width: Positive = 0.15
    prior: bool = True

    def questions(self, work: StepWork) -> tuple[Question, ...]:
        """Return the training samples, which the model as it is answers."""
        return (Question(work.data.train.x),)

    def run(self, learner: Trainee, work: StepWork, stream: str) -> float | None:
        """Take the step, if weights have arrived and the client has samples to judge them by."""
        weights, train = work.knowledge.get(self.source), work.data.train
        if weights is None or train.y is None or not len(train):
            return None
        rate = self.rate * self._gate(learner, work, weights)
        if rate:
            learner.load_weights(weights, self.of, rate, moments=True)
        return None

    def _gate(self, learner: Trainee, work: StepWork, weights: Knowledge) -> float:
        """Return g; the learner ends as it was."""
        before, own = learner.state(), self._accuracy(learner, work)
        learner.load_weights(weights, self.of)
        fused = self._accuracy(learner, work)
        learner.load_state(before)
        if not own:  # nothing is worse
            return 1.0
        return min(max((fused / own - self.low) / self.width, 0.0), 1.0)

    def _accuracy(self, learner: Trainee, work: StepWork) -> float:
        """Return the accuracy of a model on the client's training samples."""
        x, y = work.data.train.x, work.data.train.y
        assert y is not None
        logits = learner.predict(x)
        if self.prior:
            logits = logits + work.data.log_prior
        return float(logits.argmax(-1).eq(y).double().mean())

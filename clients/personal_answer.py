"""A client's personal answer: settled after its model has changed, kept with its state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedkt.clients.learners.base import Learner, Work
from fedkt.clients.phases import PersonalAnswer, run_steps
from fedkt.readouts.blends import FIXED, Blend, choose, held_out_losses
from fedkt.recipe import Recipe, trainings


@dataclass(frozen=True)
class Settled:
    """The personal answer of one client, valid until its model changes.

    Parameters
    ----------
    blend : Blend
        The read-out.
    copy : Mapping, optional
        Learner state of the model after more private training, if the blend uses it.
    losses : Tensor, optional
        float32 ``[75]``: held-out losses of the gate's choice, for its next share.
    """

    blend: Blend
    copy: Mapping[str, Any] | None = None
    losses: Tensor | None = None

    @property
    def own(self) -> bool:
        """Whether it depends on more than the recipe."""
        return self.copy is not None or self.losses is not None

    def readout(self, learner: Learner, log_prior: Tensor) -> PersonalAnswer:
        """Return the personal answer of a learner that is loaded with the client's state."""
        blend, copy = self.blend, self.copy
        if copy is None:
            return lambda x, logits: blend(logits, None, log_prior)
        return lambda x, logits: blend(logits, _predict_as(learner, copy, x), log_prior)

    def state(self) -> dict[str, Any]:
        """Return blend and copy as plain data; see ``fedkt.snapshot`` for types."""
        blend = self.blend
        numbers = {"scale": blend.scale, "prior": blend.prior, "refreshed": blend.refreshed}
        return {"blend": numbers, "copy": None if self.copy is None else dict(self.copy)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Settled:
        """Return the personal answer in a :meth:`state`."""
        return cls(Blend(**state["blend"]), state["copy"])


def unsettled(name: str) -> Settled:
    """Return the personal answer of a client whose read-out is not settled for its model yet.

    Parameters
    ----------
    name : str
        The recipe's read-out; all but ``raw`` fall back to ``prior``.
    """
    return Settled(FIXED["raw" if name == "raw" else "prior"])


def settle(learner: Learner, recipe: Recipe, work: Work) -> Settled:
    """Return the personal answer by the recipe's read-out; the learner ends unchanged."""
    if recipe.readout == "gate":
        return _gated(learner, recipe, work)
    blend = FIXED[recipe.readout]
    return Settled(blend, _refreshed(learner, recipe, work) if blend.refreshed else None)


def _gated(learner: Learner, recipe: Recipe, work: Work) -> Settled:
    validation = work.data.validation
    if validation.y is None or not len(validation):
        return Settled(choose(None, None))
    copy = _refreshed(learner, recipe, work)
    both = learner.predict(validation.x), _predict_as(learner, copy, validation.x)
    losses = held_out_losses(*both, validation.y, work.data.log_prior)
    (name,) = (s.name for s in recipe.share if s.readout == recipe.readout)
    blend = choose(losses, work.knowledge.get(name))
    return Settled(blend, copy if blend.refreshed else None, losses)


def _refreshed(learner: Learner, recipe: Recipe, work: Work) -> dict[str, Any]:
    """Return the learner's state after the recipe's private training, done once more."""
    private = [step for step in trainings(recipe.learn) if step.on == "private"]
    current = learner.state()
    run_steps(learner, private, work, "readout")
    refreshed = learner.state()
    learner.load_state(current)
    return refreshed


def _predict_as(learner: Learner, state: Mapping[str, Any], x: Tensor) -> Tensor:
    """Return logits ``[n, C]`` of another state; the learner ends unchanged."""
    current = learner.state()
    learner.load_state(state)
    logits = learner.predict(x)
    learner.load_state(current)
    return logits

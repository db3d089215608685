"""A client's personal answer: its read-out, settled after the model has changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

from torch import Tensor

from fedkt.clients.client import Client
from fedkt.clients.learners.base import Learner, Work
from fedkt.clients.phases import Answers, PersonalAnswer, answers, global_logits, run_steps
from fedkt.clients.state import ClientState
from fedkt.data.samples import ClientData
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.readouts import ReadOut
from fedkt.recipe import Recipe, trainings
from fedkt.recipe.json import build

T = TypeVar("T")


def personal_answer(
    readout: ReadOut, learner: Learner, own: Mapping[str, Any], log_prior: Tensor
) -> PersonalAnswer:
    """Return the personal answer of a learner that is loaded with the client's state.

    Parameters
    ----------
    readout : ReadOut
        The recipe's.
    learner : Learner
        The learner; it ends as it was.
    own : Mapping[str, Any]
        What the client keeps; empty if the read-out is not settled for its model.
    log_prior : Tensor
        ``[C]``.
    """

    def answer(x: Tensor, logits: Tensor) -> Tensor:
        return readout.answer(x, partial(_ask, learner, (x, logits)), own, log_prior)

    return answer


def predict_from(
    state: ClientState,
    learner: Learner,
    log_prior: Tensor,
    x: Tensor,
    readout: str,
    world: str = "model",
) -> Tensor:
    """Return the logits of a client as its state describes it, ``[n, C]``.

    Parameters
    ----------
    state : ClientState
        The client's, from a store or a checkpoint.
    learner : Learner
        Of the client's model; it ends loaded with the state.
    log_prior : Tensor
        ``[C]``; see :attr:`fedkt.data.samples.ClientData.log_prior`.
    x : Tensor
        ``[n, ...]``, preprocessed as the training data.
    readout : {"personal", "global"}
        See :func:`fedkt.clients.predict`.
    world : str
        Whose logits are the global ones; see ``Recipe``.

    Raises
    ------
    ConfigError
        If the read-out is unknown.
    """
    if readout not in ("personal", "global"):
        raise ConfigError(f"readout must be personal or global, not {readout!r}.")
    learner.load_state(state["learner"])
    if readout == "global":
        return global_logits(learner, x, world)
    return _answer_of(state, learner, log_prior)(x, learner.predict(x))


def answers_from(state: ClientState, client: Client, world: str = "model") -> dict[str, Answers]:
    """Return the answers that a client, as its state describes it, is measured by.

    Parameters
    ----------
    state : ClientState
        The client's, from a store or a checkpoint.
    client : Client
        The client; its learner ends loaded with the state.
    world : str
        Whose logits count as global; see ``Recipe``.
    """
    client.learner.load_state(state["learner"])
    answer = _answer_of(state, client.learner, client.data.log_prior)
    return answers(client.learner, client.data, client.personalised, answer, world)


def _answer_of(state: ClientState, learner: Learner, log_prior: Tensor) -> PersonalAnswer:
    """Return the personal answer of a client as its state, which is loaded, describes it."""
    own = state["own"] if state["settled"] else {}
    return personal_answer(build(json.loads(state["readout"])), learner, own, log_prior)


def settle(learner: Learner, recipe: Recipe, work: Work) -> bool:
    """Settle the recipe's read-out; return whether it keeps anything. The learner ends as it was.

    What it keeps is in ``work.own``.
    """
    before = dict(work.own)
    recipe.personal.settle(learner, _Settling(learner, recipe, work))
    return any(value is not before.get(name) for name, value in work.own.items())


@dataclass(frozen=True)
class _Settling:
    """The work of a read-out; see ``fedkt.readouts.SettleWork``."""

    learner: Learner
    recipe: Recipe
    work: Work

    @property
    def data(self) -> ClientData:
        """The client's data."""
        return self.work.data

    @property
    def knowledge(self) -> Mapping[str, Knowledge]:
        """Fused knowledge by name."""
        return self.work.knowledge

    def keep(self, name: str, value: Any) -> None:
        """Keep a value with the client's state."""
        self.work.keep(name, value)

    def ask(self, state: Mapping[str, Any] | None, x: Tensor) -> _Answers:
        """Return the answers of the client's model, or of another state of it."""
        return _ask(self.learner, None, state, x)

    def trained_again(self) -> dict[str, Any]:
        """Return the learner's state after the recipe's private training, done once more."""
        private = [step for step in trainings(self.recipe.learn) if step.on == "private"]
        current = self.learner.state()
        run_steps(self.learner, private, self.work, "readout")
        refreshed = self.learner.state()
        self.learner.load_state(current)
        return refreshed


@dataclass(frozen=True)
class _Answers:
    """A learner's answers to some inputs; see ``fedkt.readouts.Answers``."""

    learner: Learner
    state: Mapping[str, Any] | None
    x: Tensor

    @cached_property
    def logits(self) -> Tensor:
        """Logits ``[n, C]``."""
        return self._as_asked(lambda: self.learner.predict(self.x))

    @cached_property
    def features(self) -> Tensor:
        """Features ``[n, d]``."""
        return self._as_asked(lambda: self.learner.features(self.x))

    def _as_asked(self, act: Callable[[], T]) -> T:
        """Return a result in the state that is asked; the learner ends as it was."""
        if self.state is None:
            return act()
        current = self.learner.state()
        self.learner.load_state(self.state)
        result = act()
        self.learner.load_state(current)
        return result


def _ask(
    learner: Learner,
    known: tuple[Tensor, Tensor] | None,
    state: Mapping[str, Any] | None,
    x: Tensor,
) -> _Answers:
    """Return the answers of a learner; ``known`` are inputs and their logits."""
    answers = _Answers(learner, state, x)
    if known is not None and state is None and x is known[0]:
        vars(answers)["logits"] = known[1]
    return answers

"""Turns of many clients together: the cohort executor for messages of one kind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar, cast

from flwr.app import ConfigRecord, Context, Message, MessageType

from fedkt.clients.client import Client
from fedkt.clients.cohorts import cohort
from fedkt.clients.cohorts.learner import CohortLearner
from fedkt.clients.learners.torch import TorchLearner
from fedkt.clients.phases import run_step, sound
from fedkt.clients.state import StateStore
from fedkt.clients.turn import Turn, begin, error_reply
from fedkt.knowledge import Knowledge
from fedkt.recipe import Step
from fedkt.shares import Question
from fedkt.text import one_line

KINDS = (MessageType.TRAIN, MessageType.EVALUATE)

T = TypeVar("T")

logger = logging.getLogger("fedkt")

_warned: set[str] = set()


def handle(
    connect: Callable[[Context], Client],
    cohort_of: Callable[[Context], int | None],
    store: StateStore,
    messages: Sequence[Message],
    contexts: Sequence[Context],
) -> dict[int, Message]:
    """Return the replies of clients that are in cohorts.

    Parameters
    ----------
    connect : callable
        Returns the client of a context.
    cohort_of : callable
        Returns the number of the cohort of a context's client; None if it has none.
    store : StateStore
        Store of client state.
    messages, contexts : Sequence
        A message and a context for each client.

    Returns
    -------
    dict[int, Message]
        Replies by the place of the message, without those of clients in no cohort.
    """
    replies: dict[int, Message] = {}
    groups: dict[Hashable, list[tuple[int, Client]]] = {}
    for place, (message, context) in enumerate(zip(messages, contexts, strict=True)):
        number = cohort_of(context)
        if number is None or message.metadata.message_type not in KINDS:
            continue
        try:
            client = connect(context)
        except Exception as error:
            logger.debug("client failed", exc_info=error)
            replies[place] = error_reply(error, message)
            continue
        config = cast(ConfigRecord, message.content["config"])
        key = number, id(client.learner), client.options, repr(sorted(config.items()))
        groups.setdefault(key, []).append((place, client))
    for group in groups.values():
        group.sort(key=lambda pair: pair[1].id)  # sums must not depend on the order of arrival
        replies.update(_Cohort(store, messages, contexts, group).replies())
    return replies


class _Cohort:
    """Clients of one cohort with the same task."""

    def __init__(
        self,
        store: StateStore,
        messages: Sequence[Message],
        contexts: Sequence[Context],
        group: Sequence[tuple[int, Client]],
    ) -> None:
        self._messages = messages
        self._failed: dict[int, Message] = {}
        self._shared = cast(TorchLearner, group[0][1].learner)
        self._turns: dict[int, Turn] = {}
        self._learners: dict[int, CohortLearner] = {}
        decoded: dict[int, Knowledge] = {}
        for place, client in group:
            learner = CohortLearner(self._shared)
            member = replace(client, learner=learner)
            arguments = member, store, messages[place], contexts[place], decoded
            turn = self._guarded(place, partial(begin, *arguments))
            if turn is not None:
                self._turns[place], self._learners[place] = turn, learner

    def replies(self) -> dict[int, Message]:
        """Run the steps; return the replies by place."""
        losses: dict[int, float | None] = dict.fromkeys(self._turns)
        for phase in ("start", "learn", "absorb"):
            places = [p for p, turn in self._turns.items() if phase in turn.phases]
            steps = self._turns[places[0]].phases[phase] if places else ()
            for p in places:
                losses[p] = None
            for index, step in enumerate(steps):
                results = self._step(step, [p for p in places if p in self._turns], phase, index)
                losses.update({p: loss for p, loss in results.items() if loss is not None})
        self._ask({place: turn.questions for place, turn in self._turns.items()})
        replies = dict(self._failed)
        for place, turn in list(self._turns.items()):
            content = self._guarded(place, partial(turn.answer, losses[place]))
            if content is not None:
                replies[place] = Message(content, reply_to=self._messages[place])
        return {**replies, **self._failed}

    def _step(
        self, step: Step, places: Sequence[int], phase: str, index: int
    ) -> Mapping[int, float | None]:
        training = step.as_train()
        if training is not None and places:
            rows = [cohort.Row(self._learners[p].current, self._turns[p].work) for p in places]
            try:
                losses = cohort.train(self._shared, training, rows, f"{phase}/{index}")
            except Exception as error:
                _warn_once(self._shared.architecture, error)
            else:
                for p, row in zip(places, rows, strict=True):
                    self._learners[p].take(row.state)
                pairs = zip(places, losses, strict=True)
                return {p: self._guarded(p, partial(self._sound, p, phase, x)) for p, x in pairs}
        self._ask({p: partial(step.questions, self._turns[p].work) for p in places})
        there = [p for p in places if p in self._turns]  # after the questions
        return {p: self._guarded(p, partial(self._alone, p, step, phase, index)) for p in there}

    def _alone(self, place: int, step: Step, phase: str, index: int) -> float | None:
        learner, work = self._learners[place], self._turns[place].work
        with self._turns[place].named(phase):
            return run_step(learner, step, work, f"{phase}/{index}")

    def _sound(self, place: int, phase: str, loss: float | None) -> float | None:
        with self._turns[place].named(phase):
            return sound(loss)

    def _ask(self, questions_of: Mapping[int, Callable[[], Sequence[Question]]]) -> None:
        """Answer at once the questions that the clients at some places will ask their learners."""
        numbered: dict[tuple[int, bool], list[tuple[int, Question]]] = {}
        for place, act in questions_of.items():
            for number, question in enumerate(self._guarded(place, act) or ()):
                key = number, question.features
                numbered.setdefault(key, []).append((place, question))
        for (_, features), questions in numbered.items():
            states = [self._learners[p].current for p, _ in questions]
            xs = [question.x for _, question in questions]
            try:
                answers = cohort.answer(self._shared, states, xs, features)
            except Exception as error:
                _warn_once(self._shared.architecture, error)
                return
            for (place, question), answer in zip(questions, answers, strict=True):
                self._learners[place].remember(question, answer)

    def _guarded(self, place: int, act: Callable[[], T]) -> T | None:
        """Return the result of an action; an exception ends the turn with an error reply."""
        try:
            return act()
        except Exception as error:
            logger.debug("client failed", exc_info=error)
            self._failed[place] = error_reply(error, self._messages[place])
            self._turns.pop(place, None)
            return None


def _warn_once(architecture: str, error: Exception) -> None:
    name, reason = architecture.partition("#")[0], one_line(error)[:200]
    if name not in _warned:
        _warned.add(name)
        logger.warning("%s: a step runs in the loop, client by client: %s", name, reason)

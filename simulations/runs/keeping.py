"""The answers of a run's clients at its end, asked of the models in its last checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path

from fedkt.clients.personal_answer import answers_from
from fedkt.clients.phases import Answers
from fedkt.errors import NotFiniteError
from fedkt.machine import one_thread
from fedkt.simulations.engines.population import Population
from fedkt.simulations.results.checkpoints import CHECKPOINTS, newest
from fedkt.simulations.results.predictions import Predictions, write_predictions
from fedkt.simulations.runs.plan import Plan

logger = logging.getLogger("fedkt")


def keep_predictions(plan: Plan, folder: Path) -> None:
    """Write the answers of all clients that a run's last checkpoint has a model of.

    Parameters
    ----------
    plan : Plan
        The plan of the run.
    folder : Path
        The run directory, with the checkpoint of the last round.
    """
    saved = newest(folder / CHECKPOINTS, at_most=plan.experiment.rounds)
    assert saved is not None  # the last round has one
    population, kept = Population(plan.population, plan.federation), {}
    with one_thread():
        for number, state in sorted(saved[1]["clients"].items()):
            client = population.client(number)
            client.learner.follow(plan.recipe)
            try:
                answers = answers_from(state, client, plan.recipe.world)
            except NotFiniteError as error:
                logger.warning(f"no predictions of client {number} are kept: {error}")
            else:
                kept[number] = {on: _plain(part) for on, part in answers.items()}
    write_predictions(folder, kept)


def _plain(answers: Answers) -> Predictions:
    logits = answers.logits.float().numpy()
    return Predictions(logits, answers.labels.numpy(), answers.ids.numpy())

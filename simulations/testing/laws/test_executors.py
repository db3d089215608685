"""A method is the same whether its clients run one by one or together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from fedkt.clients import TrainingOptions
from fedkt.clients.cohorts import trial
from fedkt.data.federation import Federation
from fedkt.simulations.engines.population import learner_for, some_samples
from fedkt.testing.kit import Method, deal, federate, leaves, plan_for

TOLERANCE = 1e-5  # of float32 weights after two rounds
# Adam's first steps turn the rounding error of a vanishing gradient into a step of full size.
PLAIN = TrainingOptions("sgd", learning_rate=0.05, batch_size=8, public_batch_size=16)
SIZES = (24, 9, 31, 8, 17)


def uneven(federation: Federation) -> Federation:
    """Deal the clients hands of different sizes."""
    rows, hands = iter(federation.rows.tolist()), []
    for size in SIZES:
        train, validation, test = ([next(rows) for _ in range(n)] for n in (size, 2, 4))
        hands.append((train, validation, test))
    return deal(federation, hands)


def test_cohorts_learn_what_the_loop_learns(method: Method) -> None:
    law = f"{method}: cohorts and the loop agree up to rounding"
    federation = uneven(plan_for(method, clients=len(SIZES) + 2).federation)
    options: dict[str, Any] = {"clients": len(SIZES), "federation": federation}
    plans = [plan_for(method, executor=e, **options) for e in ("loop", "cohort")]
    plans = [replace(p, population=replace(p.population, training=PLAIN)) for p in plans]
    learner = learner_for("mlp", federation).as_network()
    assert learner is not None
    public = federation.client(0).public
    refused = trial.refuses(learner, method.recipe, some_samples(federation), public)
    assert [p.population.cohorts for p in plans] == [(0,), (0 if refused else len(SIZES),)]
    loop, cohort = (federate(plan) for plan in plans)
    assert [r["failures"] for r in cohort.rows] == [r["failures"] for r in loop.rows], law
    assert cohort.rows[-1]["traffic"] == loop.rows[-1]["traffic"], law
    ours, theirs = leaves(cohort.states[-1]), leaves(loop.states[-1])
    assert ours.keys() == theirs.keys(), law
    for path, value in ours.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            apart = float((value - theirs[path]).abs().max()) if value.numel() else 0.0
            assert apart < TOLERANCE, f"{law}; but {path} is {apart} apart"

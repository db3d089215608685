"""The runs that laws of a method are read from, each made once in a process.

One run is recorded, and each of the others differs from it by what one law speaks of. All have
the same five clients with odd data, of which three take part in a round.
"""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

from fedkt.data.federation import Federation
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.simulations.results.checkpoints import newest
from fedkt.simulations.runs import checkpoint
from fedkt.simulations.runs.plan import Plan
from fedkt.testing.grids import Disorderly, Meter
from fedkt.testing.kit import Method, Outcome, federate, plan_for
from fedkt.testing.odd import all_odd, ordinary

CLIENTS, ROUNDS, PARTICIPATION = 5, 3, 0.6
STOPPED = 2  # the round after which the repeated run is stopped
SEED, OTHER_SEED = 3, 2  # who takes part: 0, 3, 4 and 0, 1, 4 and 0, 2, 3; with the other 1, 3, 4


@lru_cache(maxsize=1)
def _odd() -> Federation:
    return all_odd(ordinary(CLIENTS))


def plan_of(method: Method, seed: int = SEED) -> Plan:
    """Return the plan of a recorded run: all kinds of models that the method accepts."""
    quick = method.recipe.needs_one_architecture and not method.chosen
    models = ("mlp",) if quick else method.slow_models
    return plan_for(
        method,
        clients=CLIENTS,
        models=models,
        rounds=ROUNDS,
        federation=_odd(),
        seed=seed,
        participation=PARTICIPATION,
    )


@lru_cache
def recorded(method: Method) -> Outcome:
    """Return the recorded run."""
    return federate(plan_of(method), grid=Meter, globally=1)


@lru_cache
def repeated(method: Method) -> Outcome:
    """Return the same run with other global random numbers and messages in disorder.

    It is stopped after two rounds, and goes on from a checkpoint on disk with new objects.
    """
    first = federate(plan_of(method), grid=Disorderly, globally=2, until=STOPPED)
    assert first.strategy is not None
    state = {"strategy": first.strategy.state_dict(), "clients": first.engine.snapshot()}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), STOPPED, state)
        saved = newest(Path(folder), at_most=STOPPED)
    assert saved is not None
    rest = federate(plan_of(method), grid=Disorderly, globally=3, saved=saved[1])
    first.reports += rest.reports
    first.rows += rest.rows
    first.states += rest.states
    return first


def another(method: Method) -> Outcome:
    """Return the first round of a run that differs by its seed, and not by its data."""
    return federate(plan_of(method, seed=OTHER_SEED), until=1)


def beginning(method: Method, grid: type[InProcessGrid]) -> Outcome:
    """Return the first two rounds on another grid."""
    return federate(plan_of(method), grid=grid, globally=1, until=STOPPED)

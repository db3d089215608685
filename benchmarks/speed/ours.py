"""fedkt itself, on its two grids."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from meters import Laps, peak_mb
from workloads import Case, experiment_of

from fedkt.clients.cohorts import cohort
from fedkt.clients.learners import batches, loop
from fedkt.clients.learners.base import Work
from fedkt.clients.state import StateStore
from fedkt.machine import one_thread
from fedkt.recipe import Train
from fedkt.simulations.engines.grid import InProcessGrid, SimulationGrid
from fedkt.simulations.engines.population import Population
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.runs.plan import Plan, prepare, strategy_of
from fedkt.simulations.runs.run import server_app
from fedkt.strategies import KnowledgeStrategy, Observer
from fedkt.strategies.server.round import RoundReport

Grid = Literal["ray", "in-process"]


class Watch(Observer):
    """Follows a run: clocks and accuracy of every round.

    Parameters
    ----------
    laps : Laps
        The clocks.
    after : callable, optional
        What else belongs to a round.
    """

    def __init__(self, laps: Laps, after: Callable[[], object] | None = None) -> None:
        self.laps, self.after = laps, after
        self.accuracies, self.failures = list[float](), 0

    def round_finished(self, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        """Take note of a finished round."""
        known = [a for a in report.per_client("global-accuracy") if a is not None]
        self.accuracies.append(sum(known) / len(known))
        self.failures += len(report.failures)
        if self.after is not None:
            self.after()
        self.laps.mark()


class Training:
    """CPU seconds and steps spent in the executors, of an in-process run."""

    def __init__(self) -> None:
        self.cpu, self.steps = 0.0, 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count while the block runs."""
        before = cohort.train, loop.train
        cohort.train, loop.train = (self._counting(train) for train in before)
        try:
            yield
        finally:
            cohort.train, loop.train = before

    def _counting(self, train: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap what trains: among its arguments are a step, and one client's work or rows of it."""

        def counting(*arguments: Any) -> Any:
            began = time.process_time()
            try:
                found = train(*arguments)
            finally:
                self.cpu += time.process_time() - began
            step = next(a for a in arguments if isinstance(a, Train))
            works = [a for a in arguments if isinstance(a, Work)]
            works += [row.work for a in arguments if isinstance(a, list) for row in a]
            self.steps += sum(_steps(step, work) for work in works)
            return found

        return counting


def _steps(step: Train, work: Work) -> int:
    """Return how many batches a step has for one client."""
    data = work.data.train if step.on == "private" else work.data.public
    return 0 if data is None else step.epochs * -(-len(data) // batches.batch_size(step, work))


def plan_of(case: Case, grid: Grid, strategy: str, training: Mapping[str, Any], **run: Any) -> Plan:
    """Return fedkt's plan for a case, and check that it is the case."""
    experiment = experiment_of(case, strategy, grid=grid, **run)
    experiment["training"].update(training)
    plan = prepare(parse(experiment))
    sizes = {len(plan.federation.client(k).train) for k in range(min(case.clients, 10))}
    if sizes != {case.private} or len(plan.federation.public_x) != case.public:
        raise RuntimeError(f"The federation has {sizes} private samples a client, not those asked.")
    return plan


def run_ours(
    case: Case,
    grid: Grid,
    strategy: str = "Personalised",
    store: Callable[[], StateStore] | None = None,
    training: Mapping[str, Any] | None = None,
    snapshots: bool = False,
    **run: Any,
) -> dict[str, Any]:
    """Measure fedkt.

    Parameters
    ----------
    case : Case
        What to measure.
    grid : {"ray", "in-process"}
        Where the clients are.
    strategy : str
        A class of ``methods.py``.
    store : callable, optional
        Makes the store of client state, in-process only; by default it is in memory.
    training : Mapping, optional
        More of the experiment's section ``training``. With ``compile`` the first round compiles.
    snapshots : bool
        Whether client state is fetched after every round, as for a checkpoint; the Ray grid
        then forgets the messages that it keeps for the case that a worker dies.
    **run
        Of the experiment's section ``run``.

    Returns
    -------
    dict
        Seconds of a round (``cpu``, ``wall``, in-process also ``training``: CPU seconds of the
        executors alone), ``losses`` and ``accuracies`` of the rounds, ``peak_mb``.
    """
    plan = plan_of(case, grid, strategy, training or {}, **run)
    population, trained = Population(plan.population, plan.federation), Training()
    engine = _engine(case, grid, plan, population, store)
    watch = Watch(Laps(training=lambda: trained.cpu), engine.snapshot if snapshots else None)
    try:
        with one_thread(), trained.counted():
            found = _run(case, plan, population, engine, watch)
    finally:
        engine.close()
    if grid == "ray":
        return {k: v for k, v in found.items() if k != "training"}  # which happens elsewhere
    return {**found, "steps": trained.steps / case.clients / case.rounds}


def _run(
    case: Case, plan: Plan, population: Population, engine: SimulationGrid, watch: Watch
) -> dict[str, Any]:
    method = strategy_of(plan)
    method.observers = [watch]
    engine.run_server(server_app(method, plan, population))
    if watch.failures:
        raise RuntimeError(f"{watch.failures} messages failed.")
    return {
        **watch.laps.result(case.rounds),
        "peak_mb": peak_mb(),  # while the workers are there
        "clients": case.clients,
        "executors": sorted(plan.experiment.run.plan.values()),
        "losses": getattr(method, "losses", []),
        "accuracies": watch.accuracies,
    }


def _engine(
    case: Case,
    grid: Grid,
    plan: Plan,
    population: Population,
    store: Callable[[], StateStore] | None,
) -> SimulationGrid:
    if grid == "in-process":
        return InProcessGrid(population.app(store() if store else None), case.clients)
    from fedkt.simulations.engines.ray_grid import RayGrid

    return RayGrid(plan.population, plan.federation, case.workers)

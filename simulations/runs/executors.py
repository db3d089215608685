"""The plan of a run: the executor of every model, by a fixed rule or a measured trial.

The plan is part of the resolved configuration, because the executors agree only up to
rounding: equal plans give equal bits, whatever the workers.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial

from torch import nn

from fedkt.clients import TorchLearner, TrainingOptions, Work
from fedkt.clients.cohorts import cohort, trial
from fedkt.clients.learners.devices import CPU
from fedkt.data.federation import Federation
from fedkt.errors import ConfigError, without_digest
from fedkt.machine import one_thread
from fedkt.objectives import CrossEntropy
from fedkt.recipe import Recipe, Train
from fedkt.simulations.engines.engine import kind_of
from fedkt.simulations.engines.population import learner_for, some_samples
from fedkt.simulations.experiment.config import RunSection
from fedkt.simulations.experiment.references import absolute

logger = logging.getLogger("fedkt")

# Clients of a cohort: more leave a CPU's cache, fewer leave its vector units idle.
LEAST, USUAL, LARGEST = 16, 100, 250
TRIAL_STEPS, TRIAL_SIZES = 4, (LEAST, 50, USUAL, LARGEST)  # batches a client; clients
SMALL = 200_000  # parameters, up to which a network's training step is mostly overhead
LOOP = "loop"
# Why a network cannot train in cohorts, by network, data and recipe; it is tried once.
_refusals: dict[Hashable, str | None] = {}
_told: set[str] = set()
_COHORT = re.compile(r"cohort:([1-9]\d*)")


def size_of(plan: str) -> int:
    """Return the clients of a cohort that an entry of a plan asks for; 0 is the loop.

    Raises
    ------
    ConfigError
        If it is neither ``loop`` nor ``cohort:N``.
    """
    if plan == LOOP:
        return 0
    if match := _COHORT.fullmatch(plan):
        return int(match[1])
    raise ConfigError(f"run.plan: {plan!r} is neither 'loop' nor 'cohort:N'.")


def resolve(
    run: RunSection,
    models: Sequence[str],
    federation: Federation,
    training: TrainingOptions,
    recipe: Recipe,
    device: str = "cpu",
) -> dict[str, str]:
    """Return the executor of every model.

    Parameters
    ----------
    run : RunSection
        Its ``executor``: ``auto`` takes cohorts for small networks without convolutions or
        recurrence, for whose small steps the overhead is most of the cost; ``tune`` measures.
        Entries of its ``plan`` are settled already. An engine that passes clients on one by one
        has no cohorts. In any case a network gets a cohort only if a trial
        gives what the loop gives (``fedkt.clients.cohorts.trial``); else a warning
        says why.
    models : Sequence[str]
        Client i trains ``models[i % len(models)]``.
    federation : Federation
        The data.
    training : TrainingOptions
        How clients train.
    recipe : Recipe
        What they do.
    device : {"cpu", "cuda"}
        Where it runs. On a GPU a single client's steps leave most of it idle, so there ``auto``
        takes cohorts of every network that can be in one.

    Returns
    -------
    dict[str, str]
        ``"loop"`` or ``"cohort:N"`` by model.

    Raises
    ------
    ConfigError
        For a plan that does not fit, or a network that cannot serve several clients.
    """
    settled, plan = _settled(run, models, training.loop_only), {}
    for model in dict.fromkeys(models):
        clients = [c for c in range(federation.num_clients) if models[c % len(models)] == model]
        learner: TorchLearner | None = learner_for(model, federation, device).as_network()
        if training.loop_only or kind_of(run).one_by_one or len(clients) < 2 or learner is None:
            plan[model] = LOOP
        elif absolute(model) in settled:
            plan[model] = settled[absolute(model)]
        else:
            data = (federation.client(c) for c in clients[:LARGEST])
            works = (Work(d, {}, training, 0, 0, 0) for d in data)
            plan[model] = _chosen(run.executor, learner, works, len(clients))
        if plan[model] != LOOP and learner is not None:
            plan[model] = _tried(plan[model], model, learner, federation, recipe, training)
    return plan


def _settled(run: RunSection, models: Sequence[str], loop_only: str) -> dict[str, str]:
    """Return the entries of a run's plan by model; refuse a plan that does not fit."""
    settled = {absolute(name): entry for name, entry in run.plan.items()}
    if loop_only and (run.executor == "cohort" or any(map(size_of, settled.values()))):
        raise ConfigError(f"run.executor: no cohort can train as [training] says: {loop_only}.")
    for name, entry in settled.items():
        size_of(entry)
        if name not in map(absolute, models):
            raise ConfigError(f"run.plan names {name!r}; the models are {', '.join(models)}.")
    return settled


def _tried(
    entry: str,
    model: str,
    learner: TorchLearner,
    federation: Federation,
    recipe: Recipe,
    training: TrainingOptions,
) -> str:
    """Return the entry of the plan, or the loop where a cohort's result would differ."""
    options = [getattr(training, name) for name in training.additions]
    key = learner.build, federation.token, recipe.to_json(), *options
    if key not in _refusals:
        public = federation.client(0).public
        _refusals[key] = trial.refuses(
            learner, recipe, some_samples(federation), public, training=training
        )
        what = f"{without_digest(model)} runs in the loop, client by client: {_refusals[key]}"
        if _refusals[key] and what not in _told:
            _told.add(what)
            logger.warning(what)
    return LOOP if _refusals[key] else entry


def measured(learner: TorchLearner, works: Sequence[Work]) -> str:
    """Return the faster executor of a network, by the CPU time of a short trial.

    Parameters
    ----------
    learner : TorchLearner
        The network.
    works : Sequence[Work]
        Of the first clients that have it, at most 250.
    """
    step = Train("private", [CrossEntropy()], samples=TRIAL_STEPS * works[0].options.batch_size)
    learner.follow(Recipe())
    learner.reset(0, 0)
    state = learner.state()

    def alone() -> None:
        for work in works[:LEAST]:
            learner.load_state(state)
            learner.train(step, work, "tune")

    def together(size: int) -> None:
        cohort.train(learner, step, [cohort.Row(state, work) for work in works[:size]], "tune")

    costs = {LOOP: _cost(alone, min(len(works), LEAST))}
    for size in sorted({min(len(works), size) for size in TRIAL_SIZES}):
        try:
            costs[f"cohort:{size}"] = _cost(partial(together, size), size)
        except Exception as error:  # whatever vmap raises: then it is the loop
            logger.info("no cohort of %s: %s", learner.architecture, error)
            break
    return min(costs, key=lambda entry: costs[entry])


def _cost(act: Callable[[], None], clients: int) -> float:
    """Return CPU seconds a client: the best of three, after one that warms up."""
    times = []
    for _ in range(4):
        began = time.process_time()
        act()
        times.append(time.process_time() - began)
    return min(times[1:]) / clients


def _chosen(executor: str, learner: TorchLearner, works: Iterable[Work], count: int) -> str:
    """Return the entry of a network with ``count`` clients; ``works`` are read for trials."""
    if executor != "tune":
        return _rule(executor, learner, count)
    with one_thread():
        return measured(learner, list(works))


def _rule(executor: str, learner: TorchLearner, count: int) -> str:
    pays = _is_small(learner.model) if learner.device == CPU else not learner.nature().refusal
    if executor == LOOP or (executor == "auto" and not pays):
        return LOOP
    return f"cohort:{cohort_size(count)}"


def cohort_size(count: int) -> int:
    """Return how many of ``count`` clients of one network form a cohort.

    With enough clients there are at least two cohorts, so that two workers have work. More than a
    hundred clients in each, which saves up to a tenth of the time, are only used if eight workers
    would have work. The actual number of workers has no influence: the last digits of a result can
    depend on the members of a cohort.
    """
    size = max(LEAST, min(USUAL, -(-count // 2)), min(LARGEST, -(-count // 8)))
    return min(count, size)


def _is_small(model: nn.Module) -> bool:
    """Return whether a network's steps are mostly overhead: few parameters in plain layers."""
    if sum(parameter.numel() for parameter in model.parameters()) > SMALL:
        return False
    large = (nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention)
    return not any(isinstance(module, large) for module in model.modules())

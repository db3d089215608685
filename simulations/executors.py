"""Which executor runs which model: a fixed rule, or a short measured trial, written down.

The plan is part of the resolved configuration, because the executors agree only up to
rounding: equal plans give equal bits, whatever the workers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import nn

from fedkt.clients import TorchLearner, cohort
from fedkt.errors import ConfigError

LARGEST = 100  # clients; more leave a CPU's cache, fewer leave its vector units idle
LEAST = 16
SMALL = 200_000  # parameters, up to which a network's training step is mostly overhead
LOOP = "loop"
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


def plan(
    executor: str,
    given: Mapping[str, str],
    models: Sequence[str],
    clients: int,
    learners: Mapping[str, object],
) -> dict[str, str]:
    """Return the executor of every model.

    Parameters
    ----------
    executor : {"auto", "loop", "cohort"}
        What is asked for; ``auto`` takes cohorts for networks without convolutions or
        recurrence, for whose small steps the overhead is most of the cost.
    given : Mapping[str, str]
        Entries that are settled already.
    models : Sequence[str]
        Client i trains ``models[i % len(models)]``.
    clients : int
        How many there are.
    learners : Mapping[str, Learner]
        By model.

    Returns
    -------
    dict[str, str]
        ``"loop"`` or ``"cohort:N"`` by model.
    """
    for name, entry in given.items():
        size_of(entry)
        if name not in models:
            raise ConfigError(f"run.plan names {name!r}; the models are {', '.join(models)}.")
    found = {}
    for model in dict.fromkeys(models):
        count = sum(models[i % len(models)] == model for i in range(clients))
        found[model] = given.get(model) or _rule(executor, learners[model], count)
    return found


def _rule(executor: str, learner: object, count: int) -> str:
    if executor == LOOP or count < 2 or not isinstance(learner, TorchLearner):
        return LOOP
    if executor == "auto" and not _is_small(learner.model):
        return LOOP
    # Two cohorts at least where there are enough clients, so that two workers have work.
    return f"cohort:{min(count, max(LEAST, min(LARGEST, -(-count // 2))))}"


def _is_small(model: nn.Module) -> bool:
    """Tell whether a network's steps are mostly overhead: few parameters in plain layers."""
    if sum(parameter.numel() for parameter in model.parameters()) > SMALL:
        return False
    large = (nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention)
    if any(isinstance(module, large) for module in model.modules()):
        return False
    return cohort.refuses(model) is None

"""The built-in partitions, on top of flwr-datasets' partitioners.

Each function takes dense labels ``[n]`` (every class from 0 occurs) in random order, the
argument after the colon, the number of clients, a seed and the number of samples per client
(0 = all there is); it returns row numbers per client. A partition that hands out more than
the samples per client is cut down by :func:`fedkt.data.partition.partition`.

A function decorated with :func:`overlapping` lets clients draw instead of sharing out.

flwr-datasets is imported only when needed: that takes seconds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from fedkt.data.splits import Array, Ints
from fedkt.errors import ConfigError, unknown
from fedkt.registry import register

# Beyond these bounds a Dirichlet draw is one-hot, exactly uniform, or overflows.
SMALLEST_ALPHA, LARGEST_ALPHA = 1e-4, 1e6

# (argument, clients, classes, seed) -> the class shares that clients draw by [clients, classes]
ClassShares = Callable[[str, int, int, int], Array]
T = TypeVar("T")


def overlapping(class_shares: ClassShares) -> Callable[[T], T]:
    """Return a decorator for partitions under which two clients may hold the same sample.

    Parameters
    ----------
    class_shares : callable
        From the argument, the number of clients, the number of classes and the seed to the class
        shares that each client draws its samples by, float64 ``[clients, classes]``: what
        ``personalised = "matched"`` measures against.
    """

    def mark(function: T) -> T:
        vars(function)["class_shares"] = class_shares
        return function

    return mark


def following_data(function: T) -> T:
    """Return a partition as one whose number of clients is that of the data; a decorator."""
    vars(function)["follows_data"] = True
    return function


@register(part="partitions")
def iid(
    labels: Ints, argument: str, clients: int, seed: int, samples_per_client: int
) -> list[Ints]:
    """Equal shares at random: every client sees the distribution of the whole."""
    from flwr_datasets.partitioner import IidPartitioner

    if argument:
        raise ConfigError(f"Partition 'iid' takes no argument, not {argument!r}.")
    dealt = labels[: samples_per_client * clients] if samples_per_client else labels
    return _rows(IidPartitioner(clients), dealt)


@register(part="partitions")
def dirichlet(
    labels: Ints, argument: str, clients: int, seed: int, samples_per_client: int
) -> list[Ints]:
    """Label skew: dirichlet:ALPHA draws shares; the smaller alpha, the more unequal the clients.

    Without ``samples_per_client`` each class is divided among the clients by one draw
    (Yurochkin et al., 2019, arXiv:1905.12022), and sizes vary as well. With it each client's
    class shares are one draw (Acar et al., 2021, arXiv:2111.04263).
    """
    from flwr_datasets.partitioner import DirichletPartitioner, InnerDirichletPartitioner

    alpha = alpha_of("dirichlet", argument)
    if not samples_per_client:
        # A minimum size makes the partitioner draw again, and give up after ten draws.
        return _rows(DirichletPartitioner(clients, "label", alpha, 0, seed=seed), labels)
    sizes = [samples_per_client] * clients
    try:
        return _rows(InnerDirichletPartitioner(sizes, "label", alpha, seed=seed), labels)
    except ValueError as error:
        raise ConfigError(
            f"Partition 'dirichlet:{argument}' cannot give each of {clients} clients "
            f"{samples_per_client} of {len(labels)} samples: the classes that a client draws run "
            "out; use a larger alpha or fewer samples."
        ) from error


@register(part="partitions")
def pathological(
    labels: Ints, argument: str, clients: int, seed: int, samples_per_client: int
) -> list[Ints]:
    """Label skew: pathological:N gives every client samples of exactly N classes.

    A client's first class is its id modulo the number of classes, so that every class has
    an owner; the others are drawn. The clients that hold a class divide it equally.
    """
    from flwr_datasets.partitioner import PathologicalPartitioner

    each = _count("pathological", "a number of classes per client", argument)
    classes = int(labels.max()) + 1
    if each > classes:
        raise ConfigError(
            f"Partition 'pathological:{argument}' wants {each} classes per client; the data have "
            f"{classes}."
        )
    mode = "first-deterministic"
    return _rows(PathologicalPartitioner(clients, "label", each, mode, seed=seed), labels)


@register(part="partitions")
def shards(
    labels: Ints, argument: str, clients: int, seed: int, samples_per_client: int
) -> list[Ints]:
    """Label skew: shards:N deals every client N equal shards of the data sorted by label.

    As in McMahan et al., 2017, arXiv:1602.05629. What is left after cutting equal shards is
    not used.
    """
    from flwr_datasets.partitioner import ShardPartitioner

    each = _count("shards", "a number of shards per client", argument)
    if each * clients > len(labels):
        raise ConfigError(
            f"Partition 'shards:{argument}' for {clients} clients needs {each * clients} shards; "
            f"there are only {len(labels)} samples."
        )
    return _rows(ShardPartitioner(clients, "label", each, seed=seed), labels)


@register(part="partitions")
def quantity(
    labels: Ints, argument: str, clients: int, seed: int, samples_per_client: int
) -> list[Ints]:
    """Quantity skew: quantity:linear, :square or :exponential growth of size with client id."""
    from flwr_datasets import partitioner

    growths = {
        "linear": partitioner.LinearPartitioner,
        "square": partitioner.SquarePartitioner,
        "exponential": partitioner.ExponentialPartitioner,
    }
    if argument not in growths:
        raise unknown("growth of partition 'quantity'", argument, growths)
    if samples_per_client:
        raise ConfigError(
            f"Partition 'quantity:{argument}' makes clients of different sizes and cannot give "
            f"each exactly {samples_per_client} samples; leave samples_per_client at 0."
        )
    try:
        with np.errstate(all="ignore"):
            return _rows(growths[argument](clients), labels)
    except ValueError as error:
        raise ConfigError(
            f"Partition 'quantity:{argument}' leaves the smallest of {clients} clients without a "
            f"single one of {len(labels)} samples; use fewer clients or a slower growth."
        ) from error


def alpha_of(partition: str, argument: str) -> float:
    """Return the alpha of a Dirichlet distribution; ConfigError if there is none."""
    try:
        alpha = float(argument)
    except ValueError:
        alpha = math.nan
    if not SMALLEST_ALPHA <= alpha <= LARGEST_ALPHA:
        raise ConfigError(
            f"Partition '{partition}:{argument}': alpha must be a number from {SMALLEST_ALPHA:g} "
            f"to {LARGEST_ALPHA:g}, such as {partition}:0.5."
        )
    return alpha


def _count(name: str, what: str, argument: str) -> int:
    if not argument.isascii() or not argument.isdigit() or int(argument) < 1:
        raise ConfigError(f"Partition '{name}:{argument}' needs {what}, such as {name}:2.")
    return int(argument)


def _rows(partitioner: Any, labels: Ints) -> list[Ints]:
    """Run a flwr-datasets partitioner; the row numbers travel as a column of their own."""
    import datasets  # a dependency of flwr-datasets

    columns = {"row": np.arange(len(labels)), "label": labels}
    partitioner.dataset = datasets.Dataset.from_dict(columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # our notes say what they warn of
        return [
            np.asarray(partitioner.load_partition(i)[:]["row"], dtype=np.int64)
            for i in range(partitioner.num_partitions)
        ]

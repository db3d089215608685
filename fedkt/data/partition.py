"""Partitions: how the training data are shared out among the clients.

The rules themselves are in :mod:`fedkt.data.partitioners`. This module shuffles before, so
that no client depends on the order of the stored rows, and afterwards makes sure that every
client has samples.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedkt.data.partitioners import ClassShares
from fedkt.data.splits import Array, Ints, stratified
from fedkt.errors import ConfigError, unknown
from fedkt.registry import lookup, split_argument
from fedkt.rng import derive, numpy_rng
from fedkt.text import one_line, raised

# (labels [n], argument, clients, seed, samples per client or 0) -> row numbers per client. Or a
# function that names what it wants of these and of BESIDE.
Partition = Callable[..., Sequence[Array]]
PARAMETERS = ("labels", "argument", "clients", "seed", "samples_per_client")
# What else is known of each sample.
BESIDE = ("rows", "domains", "owners")


def partition(
    labels: Array,
    spec: str,
    clients: int,
    seed: int,
    samples_per_client: int = 0,
    min_samples: int = 1,
) -> list[Ints]:
    """Share out samples among clients.

    Parameters
    ----------
    labels : ndarray
        int ``[n]``.
    spec : str
        ``iid``, ``dirichlet:ALPHA``, ``draw:ALPHA``, ``pathological:CLASSES_PER_CLIENT``,
        ``shards:SHARDS_PER_CLIENT``, ``quantity:linear|square|exponential``, ``natural``, or
        ``NAME[:ARGUMENT]`` or ``path/to/file.py:function[:ARGUMENT]`` for your own.
    clients : int
        How many clients.
    seed : int
        The seed of the run.
    samples_per_client : int
        0: share out all there is. Else every client gets exactly this many, with the same
        kind of skew.
    min_samples : int
        Clients with fewer samples, in the order of their ids, receive some from the client that
        has most at that moment (the lowest id among equals). Dirichlet shares with a small alpha
        leave many of a thousand clients empty. Without effect if ``samples_per_client`` is
        given.

    Returns
    -------
    list[ndarray]
        For each client int64 row numbers, ascending; no row belongs to two clients, except
        under ``draw``, where a client may also hold a row twice.

    Raises
    ------
    ConfigError
        If the partition is unknown or impossible.
    """
    return partition_with_notes(labels, spec, clients, seed, samples_per_client, min_samples)[0]


def partition_with_notes(
    labels: Array,
    spec: str,
    clients: int,
    seed: int,
    samples_per_client: int = 0,
    min_samples: int = 1,
    beside: Mapping[str, Array] | None = None,
) -> tuple[list[Ints], list[str]]:
    """Share out samples among clients, with notes for the reader of the results.

    Parameters
    ----------
    labels, spec, clients, seed, samples_per_client, min_samples
        As for :func:`partition`.
    beside : Mapping[str, ndarray], optional
        What else a partition may ask for by the names of its parameters, each ``[n]``: ``rows``,
        the numbers of the samples in the training part, ``domains``, their names as text, and
        ``owners``, the natural client of each.

    Returns
    -------
    tuple[list[ndarray], list[str]]
        The row numbers per client, and notes: clients that received samples because
        they had too few, samples that no client holds.
    """
    function, argument = _resolve(spec)
    n = len(labels)
    shared_out = samples_per_client if not overlaps(spec) else 0
    least = 0 if follows_data(spec) else min_samples  # what is done to small ones is decided
    _check_counts(n, clients, shared_out, least)
    _, dense = np.unique(labels, return_inverse=True)
    dense = dense.astype(np.int64)
    named = _named(spec, function)
    order = np.arange(n) if named else numpy_rng(seed, "partition-order").permutation(n)
    # The partitioners expect every class to occur, and partly keep the order of rows.
    common = argument, clients, _inner_seed(seed), samples_per_client
    try:
        if named:
            known = {**dict(zip(PARAMETERS, (labels, *common), strict=True)), **(beside or {})}
            dealt = function(**_asked(spec, named, known))
        else:
            dealt = function(dense[order], *common)
    except ConfigError:
        raise
    except Exception as error:  # a user's code may raise anything
        is_refusal = isinstance(error, ValueError | AssertionError | ArithmeticError)
        text = one_line(error).split(". ")[0].rstrip(".") if is_refusal else ""
        reason = text or raised(error)
        raise ConfigError(
            f"Partition {spec!r} cannot share out {n} samples among {clients} clients: {reason}."
        ) from error
    parts = [np.sort(order[rows]) for rows in _checked(spec, dealt, n, clients)]
    if samples_per_client:
        return _subsampled(parts, dense, spec, samples_per_client, seed), []
    parts, repaired = _repaired(parts, least, seed)
    return parts, _notes(parts, repaired, n, min_samples)


def overlaps(spec: str) -> bool:
    """Return whether two clients may hold the same sample."""
    return _class_shares(spec) is not None


def asks_for(spec: str) -> tuple[str, ...]:
    """Return what a partition asks for by name; nothing where it sees labels in random order."""
    return _named(spec, _resolve(spec)[0])


def follows_data(spec: str) -> bool:
    """Return whether the number of clients is that of the natural clients of the data."""
    return getattr(_resolve(spec)[0], "follows_data", False)


def drawn_shares(
    labels: Array, spec: str, clients: int, seed: int, num_classes: int
) -> Array | None:
    """Return the class shares that clients draw their samples by; None for other partitions.

    Returns
    -------
    ndarray or None
        float64 ``[clients, num_classes]``, rows sum to 1; None for partitions that share out
        the samples there are.
    """
    class_shares, argument = _class_shares(spec), _resolve(spec)[1]
    if class_shares is None:
        return None
    present = np.unique(labels)
    shares = np.zeros((clients, num_classes))
    shares[:, present] = class_shares(argument, clients, len(present), _inner_seed(seed))
    return shares


def _class_shares(spec: str) -> ClassShares | None:
    """Return by which class shares a partition's clients draw; None where they share out."""
    return getattr(_resolve(spec)[0], "class_shares", None)


def _inner_seed(seed: int) -> int:
    return derive(seed, "partition") % 2**31


def _resolve(spec: str) -> tuple[Partition, str]:
    name, argument = split_argument(spec)
    function: Partition = lookup("partitions", name)
    return function, argument


def _named(spec: str, function: Partition) -> tuple[str, ...]:
    """Return the parameters of a partition that takes them by name; none for the others.

    A function that has all of ``PARAMETERS``, in order and no other, sees labels alone, in
    random order.
    """
    parameters = tuple(inspect.signature(function).parameters)
    known = (*PARAMETERS, *BESIDE)
    unknown_names = [name for name in parameters if name not in known]
    if unknown_names and not set(BESIDE).isdisjoint(parameters):
        raise unknown(f"parameter of partition {spec!r}", unknown_names[0], known)
    return () if unknown_names or parameters == PARAMETERS else parameters


def _asked(spec: str, named: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a partition asks for by name."""
    if known["argument"] and "argument" not in named:
        raise ConfigError(f"Partition {spec!r} takes no argument, not {known['argument']!r}.")
    for name in named:
        if name not in known:
            raise ConfigError(
                f"Partition {spec!r} asks for {name}, and the data set does not say them."
            )
    return {name: known[name] for name in named}


def _check_counts(n: int, clients: int, samples_per_client: int, min_samples: int) -> None:
    if clients < 1:
        raise ConfigError(f"clients is {clients}; at least 1 is needed.")
    if samples_per_client < 0 or min_samples < 0:
        raise ConfigError("samples_per_client and min_samples cannot be negative.")
    if clients > n:
        raise ConfigError(f"{clients} clients cannot share {n} samples: each needs at least one.")
    if samples_per_client * clients > n:
        raise ConfigError(
            f"{clients} clients with {samples_per_client} samples each need "
            f"{samples_per_client * clients} samples; there are {n}."
        )
    if not samples_per_client and min_samples * clients > n:
        raise ConfigError(
            f"{clients} clients with at least {min_samples} samples each need "
            f"{min_samples * clients} samples; there are {n}."
        )


def _checked(spec: str, dealt: Sequence[Array], n: int, clients: int) -> list[Ints]:
    try:
        parts = [np.asarray(rows, dtype=np.int64).reshape(-1) for rows in dealt]
    except (TypeError, ValueError):  # no arrays of row numbers
        parts = []
    rows = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
    twice = not overlaps(spec) and len(np.unique(rows)) < len(rows)
    faulty = len(rows) and (rows.min() < 0 or rows.max() >= n or twice)
    if len(parts) != clients or faulty:
        raise ConfigError(
            f"Partition {spec!r} must return {clients} arrays of row numbers in [0, {n - 1}] with "
            "no row in two of them."
        )
    return parts


def _subsampled(
    parts: list[Ints], labels: Ints, spec: str, samples_per_client: int, seed: int
) -> list[Ints]:
    smallest = min(range(len(parts)), key=lambda i: len(parts[i]))
    if len(parts[smallest]) < samples_per_client:
        raise ConfigError(
            f"Partition {spec!r} leaves client {smallest} with {len(parts[smallest])} samples, "
            f"fewer than the {samples_per_client} asked for; use fewer samples or clients."
        )
    return [
        rows[stratified(labels[rows], samples_per_client, numpy_rng(seed, "partition-sub", 0, i))]
        for i, rows in enumerate(parts)
    ]


def _repaired(parts: list[Ints], min_samples: int, seed: int) -> tuple[list[Ints], int]:
    if sum(len(rows) for rows in parts) < min_samples * len(parts):
        raise ConfigError(
            f"The partition holds {sum(len(rows) for rows in parts)} samples in all, too few for "
            f"{min_samples} per client."
        )
    sizes = np.array([len(rows) for rows in parts])
    poor = np.flatnonzero(sizes < min_samples)
    if not len(poor):
        return parts, 0
    rng = numpy_rng(seed, "partition-repair")
    pools = [rng.permutation(rows).tolist() for rows in parts]
    for client in poor:
        while sizes[client] < min_samples:
            richest = int(sizes.argmax())
            pools[client].append(pools[richest].pop())
            sizes[client] += 1
            sizes[richest] -= 1
    return [np.sort(np.array(pool, dtype=np.int64)) for pool in pools], len(poor)


def _notes(parts: list[Ints], repaired: int, n: int, min_samples: int) -> list[str]:
    notes = []
    if repaired:
        had = "no sample" if min_samples == 1 else f"fewer than {min_samples} samples"
        notes.append(
            f"{repaired} of {len(parts)} clients had {had} and received some of the largest clients"
        )
    left = n - sum(len(rows) for rows in parts)
    if left:
        notes.append(f"{left} of {n} training samples belong to no client under this partition")
    return notes

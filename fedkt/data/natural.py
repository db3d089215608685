"""Natural clients: the data say which rows are whose, and how many clients there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedkt.data.columns import values_of
from fedkt.data.dataset import Dataset
from fedkt.data.partition import follows_data
from fedkt.data.partitioners import following_data
from fedkt.data.spec import FederationSpec
from fedkt.data.splits import Array, Ints
from fedkt.errors import ConfigError
from fedkt.registry import register

NOBODY = -1  # the owner of rows whose client was dropped
MOST_JOINED = 3  # names of merged clients that are written out


@register(part="partitions")
@following_data
def natural(owners: Ints, clients: int) -> list[Ints]:
    """Rows as the data set says: its client column, or one data set for each client."""
    order = np.argsort(owners, kind="stable")
    ends = np.searchsorted(owners[order], np.arange(1, clients))
    return np.split(order, ends)


@dataclass(frozen=True, eq=False)
class Owners:
    """The natural clients of a data set.

    Parameters
    ----------
    names : tuple[str, ...]
        One for each client.
    rows : ndarray
        int64 ``[N]``: the client of each training row, a place in ``names``; -1 for rows of
        clients that were dropped.
    notes : tuple[str, ...]
        What a reader of the results should know.
    """

    names: tuple[str, ...]
    rows: Ints
    notes: tuple[str, ...] = ()

    def may_be_public(self, rng: np.random.Generator) -> Array:
        """Return which training rows a public set may have, bool ``[N]``: each client keeps one."""
        order = rng.permutation(len(self.rows))
        _, first = np.unique(self.rows[order], return_index=True)
        allowed: Array = self.rows != NOBODY
        allowed[order[first]] = False
        return allowed


def check_natural(spec: FederationSpec) -> None:
    """Check the options of natural clients, as far as that needs no data.

    Raises
    ------
    ConfigError
        Naming the values at fault.
    """
    natural = follows_data(spec.partition)
    if natural and spec.domains:
        raise ConfigError(
            f"partition is {spec.partition!r}, by the client column of one data set, and "
            f"domains has {', '.join(map(repr, spec.domains))}; give dataset instead, or "
            "another partition."
        )
    if not natural and spec.small != "keep":
        raise ConfigError(
            f"small is {spec.small!r}, which is for natural clients, and partition is "
            f"{spec.partition!r}; leave small out."
        )


def owners_of(dataset: Dataset, spec: FederationSpec) -> Owners:
    """Return the natural clients of a data set: ascending, those too small as the options say.

    Raises
    ------
    ConfigError
        If the set has no client column, none is large enough, or ``clients`` is another number.
    """
    column = client_column(dataset, "train")
    values, rows = np.unique(column, return_inverse=True)
    names = tuple(str(value) for value in values)
    owners = SMALL[spec.small](Owners(names, rows.astype(np.int64)), spec.min_samples)
    if not owners.names:
        raise ConfigError(
            f"min_samples is {spec.min_samples}; none of the {len(names)} natural clients of "
            f"{dataset.name} has as many."
        )
    if spec.clients not in (None, len(owners.names)):
        raise ConfigError(
            f"clients is {spec.clients}; {dataset.name} has {len(owners.names)} natural clients. "
            "Leave clients out."
        )
    return owners


def client_column(dataset: Dataset, split: str) -> Array:
    """Return the natural client of each row of the training or test part, ``[N]``.

    Raises
    ------
    ConfigError
        If there is no such column, or it does not fit the rows.
    """
    absent = (
        f"{dataset.name} has no natural clients: name the column of a table (data.client), give "
        "arrays client_train and client_test, or one data set for each client."
    )
    return values_of(dataset, "client", split, absent)


def _kept(owners: Owners, least: int) -> Owners:
    few = _few(owners, least)
    return replace(owners, notes=(_said(owners, few, least),)) if len(few) else owners


def _dropped(owners: Owners, least: int) -> Owners:
    few = _few(owners, least)
    if not len(few):
        return owners
    left = np.setdiff1d(np.arange(len(owners.names)), few)
    places = np.full(len(owners.names), NOBODY)
    places[left] = np.arange(len(left))
    lost = int(np.isin(owners.rows, few).sum())
    note = f"{_said(owners, few, least)}; they were dropped, and {lost:,} samples with them"
    return Owners(tuple(owners.names[k] for k in left), places[owners.rows], (note,))


def _merged(owners: Owners, least: int) -> Owners:
    """Return the clients with small ones joined, in order, until each group is large enough."""
    few = _few(owners, least)
    if not len(few):
        return owners
    sizes = np.bincount(owners.rows, minlength=len(owners.names))
    groups: list[list[int]] = [[]]
    for client in few:
        if sum(sizes[groups[-1]]) >= least:
            groups.append([])
        groups[-1].append(int(client))
    rest = groups.pop() if sum(sizes[groups[-1]]) < least else []
    large = [[k] for k in np.setdiff1d(np.arange(len(owners.names)), few)]
    whole = [*large, *groups]
    if rest and whole:  # too few even together: to the smallest that is large enough
        min(whole, key=lambda group: sum(sizes[group])).extend(rest)
    whole = sorted(whole, key=min)
    places = np.full(len(owners.names), NOBODY)
    for place, group in enumerate(whole):
        places[group] = place
    names = tuple(_joined([owners.names[k] for k in group]) for group in whole)
    note = f"{_said(owners, few, least)}; merged, there are {len(names)} clients"
    return Owners(names, places[owners.rows], (note,))


SMALL: dict[str, Callable[[Owners, int], Owners]] = {
    "keep": _kept,
    "drop": _dropped,
    "merge": _merged,
}


def _few(owners: Owners, least: int) -> Ints:
    """Return the clients with fewer training samples than a number."""
    sizes = np.bincount(owners.rows, minlength=len(owners.names))
    return np.flatnonzero(sizes < least)


def _said(owners: Owners, few: Sequence[Any] | Ints, least: int) -> str:
    have = "has" if len(few) == 1 else "have"
    return (
        f"{len(few)} of {len(owners.names)} natural clients {have} fewer than {least} samples "
        "of the training part"
    )


def _joined(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_JOINED} more" if len(names) > MOST_JOINED else ""
    return " + ".join(names[:MOST_JOINED]) + more

"""Notes on a federation's rows and classes for the reader of results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from fedkt.data.domains import Domains
from fedkt.data.splits import Array

MOST_NAMED = 10


def class_notes(labels: Mapping[str, Array], classes: Sequence[str]) -> list[str]:
    """Return notes about classes that lack samples.

    Parameters
    ----------
    labels : Mapping[str, ndarray]
        The labels of each set whose labels may be known: ``training``, ``test``, ``public``.
    classes : Sequence[str]
        The class names.

    Returns
    -------
    list[str]
        One about classes without any sample, and one for each choice of sets that have
        samples of some classes while the others have none.
    """
    present_in = {name: np.isin(np.arange(len(classes)), y) for name, y in labels.items() if len(y)}
    groups: dict[tuple[str, ...], list[int]] = {}
    for c in range(len(classes)):
        groups.setdefault(tuple(name for name in present_in if present_in[name][c]), []).append(c)
    notes = []
    if nowhere := groups.pop((), None):
        notes.append(
            f"{len(nowhere)} of {len(classes)} classes have no samples at all: "
            f"{_listed(nowhere, classes)}"
        )
        if all(name.isdecimal() for name in classes):
            notes[0] += "; if labels have gaps, number them 0, ..., K - 1"
    for present, some in groups.items():
        absent = [name for name in present_in if name not in present]
        if absent:
            notes.append(
                f"{_listed(some, classes)} {'have' if len(some) > 1 else 'has'} "
                f"{' and '.join(present)} samples, but no {' or '.join(absent)} samples"
            )
    return notes


def domain_notes(domains: Domains) -> list[str]:
    """Return a note for each domain that lacks classes; the target's labels are not looked at."""
    notes = []
    for d in domains.sources:
        dataset = domains.datasets[d]
        labels = np.concatenate([dataset.y_train, dataset.y_test])
        lacking = np.setdiff1d(np.arange(len(domains.classes)), labels)
        if len(lacking):
            notes.append(f"{dataset.name} has no samples of {_listed(lacking, domains.classes)}")
    return notes


def duplicate_notes(tests: Sequence[bytes], train: Collection[bytes]) -> list[str]:
    """Return a note if test rows are training rows too, by the digests of their content."""
    twice = sum(digest in train for digest in tests)
    return [f"{twice:,} of {len(tests):,} test samples equal training samples"] if twice else []


def _listed(chosen: Iterable[int], classes: Sequence[str]) -> str:
    names = [classes[c] for c in chosen]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"class{'es' if len(names) > 1 else ''} {', '.join(names[:MOST_NAMED])}{more}"

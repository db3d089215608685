"""Choosing rows: stratified draws, train/validation/test splits, and rows in common."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]

# The least samples of a client that gives one to testing, and one to validation.
SMALLEST_TESTED = 3
SMALLEST_VALIDATED = 5
HASHED_AT_ONCE = 1024


def stratified(labels: Array, count: int, rng: np.random.Generator) -> Ints:
    """Return rows drawn so that every class keeps its share, to within one row.

    The rows are sorted by class, shuffled within, and every (n / count)-th is taken
    (systematic sampling with a random start), which hits ``count`` exactly.

    Parameters
    ----------
    labels : ndarray
        int ``[n]``.
    count : int
        How many rows, at most n.
    rng : numpy.random.Generator
        Where the randomness comes from.

    Returns
    -------
    ndarray
        int64 ``[count]``, row numbers, ascending.
    """
    n = len(labels)
    if count >= n:
        return np.arange(n, dtype=np.int64)
    if count == 0:
        return np.empty(0, dtype=np.int64)
    order = rng.permutation(n)
    order = order[np.argsort(labels[order], kind="stable")]
    places = np.floor((np.arange(count) + rng.random()) * (n / count)).astype(np.int64)
    return np.sort(order[np.minimum(places, n - 1)]).astype(np.int64)


def split_sizes(n: int, validation: float, test: float) -> tuple[int, int, int]:
    """Return how many of ``n`` samples are for training, validation and testing.

    Fractions are rounded to the nearest count. A client with at least 3 samples gives one
    to testing and with at least 5 one to validation (where the fraction is above 0), and
    one sample always stays for training.
    """
    for_test = _at_least_one(n, test, SMALLEST_TESTED)
    for_validation = _at_least_one(n, validation, SMALLEST_VALIDATED)
    for_test = min(for_test, n - 1)
    for_validation = min(for_validation, n - 1 - for_test)
    return n - for_test - for_validation, for_validation, for_test


def sizes_around(train: int, validation: float, test: float) -> tuple[int, int, int]:
    """Return the sizes of a split with exactly ``train`` training samples.

    Validation and test come on top, in the proportions of the fractions of the whole, and
    are at least 1 where their fraction is above 0.
    """
    whole = train / (1 - validation - test)
    return train, _at_least_one(whole, validation, 0), _at_least_one(whole, test, 0)


def split_rows(
    labels: Array, sizes: tuple[int, int, int], rng: np.random.Generator
) -> tuple[Ints, Ints, Ints]:
    """Split rows into training, validation and test rows of the same class shares.

    Parameters
    ----------
    labels : ndarray
        int ``[n]``.
    sizes : tuple[int, int, int]
        Training, validation and test; they sum to n.
    rng : numpy.random.Generator
        Where the randomness comes from.

    Returns
    -------
    tuple of three ndarrays
        int64, ascending and disjoint; together all rows.
    """
    everything = np.arange(len(labels), dtype=np.int64)
    test = stratified(labels, sizes[2], rng)
    rest = np.setdiff1d(everything, test, assume_unique=True)
    validation = rest[stratified(labels[rest], sizes[1], rng)]
    train = np.setdiff1d(rest, validation, assume_unique=True)
    return train, validation, test


def row_digests(x: Array) -> Iterator[bytes]:
    """Yield a 16-byte digest of each row's content; equal rows have equal digests."""
    for start in range(0, len(x), HASHED_AT_ONCE):
        block = np.ascontiguousarray(x[start : start + HASHED_AT_ONCE])
        for row in block:
            yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _at_least_one(n: float, fraction: float, smallest: int) -> int:
    rounded = int(n * fraction + 0.5)
    return max(rounded, 1) if fraction > 0 and n >= smallest else rounded

"""Federations with odd clients: one class, one sample, less than a batch, a class nobody has."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from fedkt.data.federation import Federation, FederationSpec, build_federation
from fedkt.testing.kit import BATCH, CLASSES, deal

Hand = tuple[list[int], list[int], list[int]]  # rows to train on, to validate on, to test on


def ordinary(clients: int) -> Federation:
    """Return clients with a bit of everything."""
    return build_federation(
        FederationSpec(
            clients=clients,
            samples_per_client=60,
            public_samples=40,
            test_samples=60,
            partition="iid",
        )
    )


def hands_of(federation: Federation) -> list[Hand]:
    """Return an ordinary hand for each client: two batches and three samples more to train on."""
    return [_of_classes(federation, c, range(CLASSES)) for c in range(federation.num_clients)]


def one_class(federation: Federation) -> Federation:
    """Let client 0 hold one class."""
    hands = hands_of(federation)
    return deal(federation, [_of_classes(federation, 0, {7}), *hands[1:]])


def everyone_one_class(federation: Federation) -> Federation:
    """Let every client hold one class, each another."""
    return deal(federation, [_of_classes(federation, c, {c}) for c in range(4)])


def one_sample(federation: Federation) -> Federation:
    """Let client 0 hold one sample, and none to test on."""
    hands = hands_of(federation)
    return deal(federation, [(hands[0][0][:1], [], []), *hands[1:]])


def less_than_a_batch(federation: Federation) -> Federation:
    """Let client 0 hold five samples."""
    hands = hands_of(federation)
    return deal(federation, [(hands[0][0][:5], hands[0][1][:1], hands[0][2][:1]), *hands[1:]])


def one_more_than_a_batch(federation: Federation) -> Federation:
    """Let client 0's last batch hold a single sample."""
    hands = hands_of(federation)
    return deal(federation, [(hands[0][0][: BATCH + 1], *hands[0][1:]), *hands[1:]])


def class_nobody_has(federation: Federation) -> Federation:
    """Leave class 9 to the public and the common test set alone."""
    return deal(federation, [_of_classes(federation, c, range(9)) for c in range(4)])


def nothing_to_test_on(federation: Federation) -> Federation:
    """Leave nobody a sample to validate or test on."""
    return deal(federation, [(hand[0], [], []) for hand in hands_of(federation)])


def _of_classes(federation: Federation, client: int, classes: Collection[int]) -> Hand:
    """Return up to 19 rows to train on, 3 to validate and 6 to test on, of some classes."""
    starts, parts = federation.bounds[client], []
    for part, most in enumerate((19, 3, 6)):
        rows = federation.rows[starts[part] : starts[part + 1]]
        parts.append(rows[np.isin(federation.pool_y[rows], list(classes))][:most].tolist())
    return parts[0], parts[1], parts[2]


ODD: tuple[Callable[[Federation], Federation], ...] = (
    one_class,
    everyone_one_class,
    one_sample,
    less_than_a_batch,
    one_more_than_a_batch,
    class_nobody_has,
    nothing_to_test_on,
)


def all_odd(federation: Federation) -> Federation:
    """Let five clients be odd in five ways at once, and leave class 9 to the public and the test.

    The first holds one class, the second one sample and none to test on, the third less than a
    batch; the fourth's last batch holds a single sample, and the fifth is ordinary.
    """
    hands = [_of_classes(federation, c, range(9)) for c in range(5)]
    hands[0] = _of_classes(federation, 0, {7})
    hands[1] = hands[1][0][:1], [], []
    hands[2] = hands[2][0][:5], hands[2][1][:1], hands[2][2][:1]
    hands[3] = hands[3][0][: BATCH + 1], *hands[3][1:]
    return deal(federation, hands)

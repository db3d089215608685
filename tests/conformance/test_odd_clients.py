"""Clients with odd data: one class, one sample, less than a batch, a class nobody has."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import pytest

from fedkt.data.federation import Federation, FederationSpec, build_federation

from .kit import BATCH, CLASSES, Method, assert_sound, deal, federate, plan_for

Hand = tuple[list[int], list[int], list[int]]  # rows to train on, to validate on, to test on


@pytest.fixture(scope="module")
def ordinary() -> Federation:
    """Four clients with a bit of everything."""
    return build_federation(
        FederationSpec(
            clients=4, samples_per_client=60, public_samples=40, test_samples=60, partition="iid"
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


@pytest.mark.parametrize("odd", ODD, ids=lambda f: f.__name__)
def test_odd_client(
    method: Method, odd: Callable[[Federation], Federation], ordinary: Federation
) -> None:
    federation = odd(ordinary)
    assert federation.label_counts().shape == (4, CLASSES)
    outcome = federate(plan_for(method, federation=federation, models=method.models))
    law = f"{method}: a federation where {(odd.__doc__ or '').rstrip('.').lower()} is sound"
    assert_sound(outcome, 2, law)
    taking_part = [report.participants for report in outcome.reports]
    assert taking_part == [[0, 1, 2, 3]] * 2, f"{law}; but not everyone took part"


def test_odd_federations_are_what_they_say(ordinary: Federation) -> None:
    counts = {odd.__name__: odd(ordinary).label_counts() for odd in ODD}
    assert np.count_nonzero(counts["one_class"][0]) == 1
    assert (np.count_nonzero(counts["everyone_one_class"], axis=1) == 1).all()
    assert counts["one_sample"][0].sum() == 1
    assert 1 < counts["less_than_a_batch"][0].sum() < BATCH
    assert counts["one_more_than_a_batch"][0].sum() == BATCH + 1
    assert counts["class_nobody_has"][:, 9].sum() == 0
    assert (counts["class_nobody_has"].sum(1) > BATCH).all()
    assert np.diff(nothing_to_test_on(ordinary).bounds, axis=1)[:, 1:].sum() == 0


def test_one_sample_and_batch_normalisation(method: Method, ordinary: Federation) -> None:
    """Statistics of one sample are no statistics: its variance is 0, or not a number."""
    federation = one_sample(ordinary)
    plan = plan_for(method, federation=federation, models=("resnet8-bn",), rounds=1)
    law = f"{method}: a client with one sample and batch normalisation is sound"
    assert_sound(federate(plan), 1, law)

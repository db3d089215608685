"""Clients with odd data: one class, one sample, less than a batch, a class nobody has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedkt.data.federation import Federation
from fedkt.testing import odd as odd_
from fedkt.testing.kit import BATCH, CLASSES, Method, assert_sound, federate, plan_for
from fedkt.testing.odd import ODD, nothing_to_test_on, one_sample


@pytest.fixture(scope="module")
def ordinary() -> Federation:
    """Four clients with a bit of everything."""
    return odd_.ordinary(4)


@pytest.mark.full
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


def test_one_sample_and_batch_normalisation(method: Method) -> None:
    """Statistics of one sample are no statistics: its variance is 0, or not a number."""
    federation = one_sample(odd_.ordinary(2))
    plan = plan_for(method, federation=federation, models=("resnet8-bn",), rounds=1)
    law = f"{method}: a client with one sample and batch normalisation is sound"
    assert_sound(federate(plan), 1, law)

"""The labels of an unlabelled target are never training input, for any strategy."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from fedkt.data.federation import Federation, FederationSpec, build_federation
from fedkt.errors import RunFailedError

from .kit import Method, difference, federate, plan_for


@lru_cache
def adapting() -> Federation:
    """Return two source domains of two clients each, and a target."""
    return build_federation(
        FederationSpec(
            domains=("digits-plain", "digits-inverted", "digits-rotated"),
            target="digits-inverted",
            clients=4,
            samples_per_client=24,
            public_samples=40,
            test_samples=60,
            seed=3,
        )
    )


def test_shuffled_target_labels_change_no_bit_of_a_model(method: Method) -> None:
    """The pool's labels are not in the federation at all; those that test decide nothing."""
    federation = adapting()
    assert federation.public_y is None
    order = np.random.default_rng(0).permutation(len(federation.test_y))
    assert not np.array_equal(federation.test_y, federation.test_y[order])
    shuffled = replace(federation, test_y=federation.test_y[order], token="")
    run = {"personalised": "split", "group_effect": True}
    outcomes = []
    for data in (federation, shuffled):
        plan = plan_for(method, models=method.models, federation=data, **run)
        try:
            outcomes.append(federate(plan))
        except RunFailedError as error:
            assert "needs labels" in str(error)
            pytest.skip(f"{method} trains on public labels, which a target does not have")
    found = difference(*(outcome.states for outcome in outcomes))
    assert found is None, f"{method}: models know the target's labels; {found}"
    figures = [outcome.rows[-1]["global_accuracy"] for outcome in outcomes]
    assert figures[0] != figures[1], "the labels that were shuffled are not the ones that test"

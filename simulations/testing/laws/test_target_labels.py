"""The labels of an unlabelled target are never training input, for any strategy."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from fedkt.data.federation import Federation, FederationSpec, build_federation
from fedkt.testing.kit import Method, difference, federate, plan_for


@lru_cache
def both() -> tuple[Federation, Federation]:
    """Return two source domains of two clients each and a target, and its labels shuffled."""
    federation = build_federation(
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
    assert federation.public_y is None
    order = np.random.default_rng(0).permutation(len(federation.test_y))
    return federation, replace(federation, test_y=federation.test_y[order], token="")


@pytest.mark.parametrize("mixed", [False, pytest.param(True, marks=pytest.mark.full)])
def test_shuffled_target_labels_change_no_bit_of_a_model(method: Method, mixed: bool) -> None:
    """The pool's labels are not in the federation at all; those that test decide nothing."""
    models = method.models if mixed else ("mlp",)
    run: dict[str, Any] = {"personalised": "split", "group_effect": True}
    after = []
    for data in both():
        outcome = federate(plan_for(method, models=models, federation=data, **run))
        assert outcome.strategy is not None
        weights = outcome.strategy.server_weights()
        server = {} if weights is None else dict(weights.tensors)
        after.append({"clients": outcome.states, "server": server})
    found = difference(*after)
    assert found is None, f"{method}: models know the target's labels; {found}"


def test_the_shuffled_labels_are_those_that_test() -> None:
    figures = [federate(plan_for(Method("local"), federation=f)).rows[-1] for f in both()]
    assert figures[0]["global_accuracy"] != figures[1]["global_accuracy"]

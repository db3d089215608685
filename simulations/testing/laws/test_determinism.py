"""The seed alone decides what comes out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt.recipe import Recipe
from fedkt.testing.grids import Disorderly
from fedkt.testing.kit import Method, assert_same, difference, federate, plan_for


@pytest.mark.full
def test_same_seed_same_run(variant: Method) -> None:
    plan = plan_for(variant, models=variant.slow_models, participation=0.5)
    once = federate(plan, globally=1)
    again = federate(plan, globally=2)
    assert_same(once, again, f"{variant}: the same seed gives the same run")


@pytest.mark.full
def test_other_seed_other_run(method: Method) -> None:
    one, other = (federate(plan_for(method, rounds=1, seed=s)) for s in (1, 2))
    found = difference(one.states, other.states)
    assert found, f"{method}: another seed gives another run; but the clients' states are equal"


@pytest.mark.full
def test_order_of_replies_does_not_matter(variant: Method) -> None:
    plan = plan_for(variant, models=variant.models, clients=5)
    orderly, disorderly = federate(plan), federate(plan, grid=Disorderly)
    law = f"{variant}: the order in which clients answer does not matter"
    assert_same(orderly, disorderly, law)


def test_recipe_is_constant_plain_data(variant: Method) -> None:
    before = (
        torch.random.get_rng_state(),
        np.random.get_state(legacy=False)["state"]["key"].tolist(),
    )
    recipe = variant.make().recipe()
    after = torch.random.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].tolist()
    drawn = not torch.equal(before[0], after[0]) or before[1] != after[1]
    assert not drawn, f"{variant}: making a strategy and its recipe draws no random numbers"
    law = f"{variant}: two objects with the same options do the same"
    assert recipe == variant.make().recipe(), law
    travelled = Recipe.from_json(recipe.to_json())
    assert travelled == recipe, f"{variant}: the recipe travels to the clients unchanged"

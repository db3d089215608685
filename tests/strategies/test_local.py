from __future__ import annotations

import pytest

from fedkt.errors import ConfigError
from fedkt.strategies.baselines.local import Local


def test_times_multiplies_the_budget_and_nothing_else() -> None:
    assert Local(local_epochs=3, times=2).recipe() == Local(local_epochs=6).recipe()
    assert Local(local_epochs=3).recipe().share == ()


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"times must be .* at least 1, not 0"):
        Local(times=0)


def test_what_a_subclass_sets_is_in_the_recipe() -> None:
    class Longer(Local):
        def __init__(self) -> None:
            super().__init__()
            self.local_epochs = 7

    assert Longer().settled_recipe == Local(7).recipe()

from __future__ import annotations

from fedkt import registry
from fedkt.strategies.baselines.local import Local
from fedkt.strategies.baselines.source_only import SourceOnly


def test_it_is_local_training_under_another_name() -> None:
    assert registry.lookup("strategies", "source-only") is SourceOnly
    assert registry.lookup("strategies", "local") is Local
    assert SourceOnly().title == "source-only"
    assert SourceOnly().recipe() == Local(local_epochs=1).recipe()
    options = {"local_epochs": 2, "local_samples": 30, "times": 3}
    assert SourceOnly(**options).recipe() == Local(**options).recipe()

"""Flower's own simulation engine, which hands clients on one by one, gives the bits of the loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedkt.testing.kit import Method, difference
from fedkt.testing.on_engines import plan_on, run_in


@pytest.mark.flower
def test_flower_engine(representative: Method, tmp_path: Path) -> None:
    import ray

    # Flower would join a running Ray and wait for CPUs that are all taken.
    assert not ray.is_initialized(), "another test has left Ray running"
    here = run_in(tmp_path / "here", plan_on(representative, "in-process", executor="loop"))
    there = run_in(tmp_path / "flower", plan_on(representative, "flower", 2))
    found = difference(here, there)
    law = f"{representative}: Flower's own engine gives the bits of one process"
    assert found is None, f"{law}; but {found}"

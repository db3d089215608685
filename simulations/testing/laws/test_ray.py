"""Ray gives the same bits as one process, whatever the number of workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedkt.testing.kit import Method, difference
from fedkt.testing.laws.test_resume import StopAfterRound
from fedkt.testing.on_engines import plan_on, run_in

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("two_workers")]


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """Keep one Ray with two workers for all strategies: starting it takes seconds."""
    from fedkt.simulations.engines.ray_session import session

    with session(workers=2):
        yield


def test_workers_have_as_many_threads_as_these_tests() -> None:
    import ray

    def threads() -> tuple[str | None, int]:
        return os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()

    asked = os.environ["OMP_NUM_THREADS"]  # 1, unless the one who runs the tests says otherwise
    assert threads() == (asked, int(asked))
    assert ray.get(ray.remote(threads).remote()) == (asked, int(asked))


def test_any_number_of_workers(exchange: Method, tmp_path: Path) -> None:
    here = run_in(tmp_path / "here", plan_on(exchange, "in-process"))
    for workers in (1, 2):
        there = run_in(tmp_path / f"ray-{workers}", plan_on(exchange, "ray", workers))
        found = difference(here, there)
        law = f"{exchange}: Ray with {workers} workers gives the bits of one process"
        assert found is None, f"{law}; but {found}"


def test_stopped_in_process_goes_on_on_ray(exchange: Method, tmp_path: Path) -> None:
    plan = plan_on(exchange, "in-process")
    whole = run_in(tmp_path / "whole", plan)
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path / "moved", plan, StopAfterRound(1))
    found = difference(whole, run_in(tmp_path / "moved", plan_on(exchange, "ray", 2)))
    assert found is None, f"{exchange}: a run stopped on one grid goes on on another; but {found}"

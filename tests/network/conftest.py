"""Which tests of federations of real processes run, and one after the other."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from .harness import LIGHT_APP, Federation, federation

sys.path.append(str(LIGHT_APP))  # the tests run the same light clients in process

# What runs without being asked for, by the marks that a test does not have.
ASKED = {
    "network_long": "takes minutes; `make test-network-long` runs it",
    "network": "starts a federation of processes; `make test-network` runs it",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is not asked for by its mark; the quick ones run always."""
    asked = config.getoption("markexpr") or ""
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        if "network_quick" in marks:
            continue
        for mark, reason in ASKED.items():
            if mark in marks:
                wanted = mark in asked.replace(f"not {mark}", "").replace("network_quick", "")
                if not wanted:
                    item.add_marker(pytest.mark.skip(reason=reason))
                break


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show the logs of the federation of a test that fails."""
    report = yield
    if report.when == "call" and report.failed and isinstance(item, pytest.Function):
        for value in item.funcargs.values():
            if isinstance(value, Federation):
                report.sections.append(("the federation", value.logs()))
    return report


@pytest.fixture
def alone() -> Iterator[None]:
    """Let one federation run at a time on this machine."""
    with FileLock(Path(tempfile.gettempdir()) / "fedkt-network-tests.lock"):
        yield


@pytest.fixture
def net(alone: None, tmp_path: Path) -> Iterator[Federation]:
    """Yield a federation whose SuperLink runs."""
    with federation(tmp_path / "federation") as made:
        yield made


@pytest.fixture
def unhurried(alone: None, tmp_path: Path) -> Iterator[Federation]:
    """Yield a federation that asks for messages no more often than Flower's do."""
    with federation(tmp_path / "federation", hurried=False) as made:
        yield made

"""Which tests of federations of real processes run, and one after the other."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

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
        mark = next((mark for mark in ASKED if mark in marks), None)
        if mark is None or "network_quick" in marks:
            continue
        if not re.search(rf"(?<!not )\b{mark}\b", asked):
            item.add_marker(pytest.mark.skip(reason=ASKED[mark]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show the logs of the federation of a test that fails."""
    report = yield
    if report.when == "call" and report.failed and isinstance(item, pytest.Function):
        for value in item.funcargs.values():
            if isinstance(value, Federation):
                report.sections.append(("the federation", value.logs()))
    return report


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """Let no more federations run at a time on this machine than it has room for.

    By default one. ``FEDKT_TEST_FEDERATIONS`` says how many.
    """
    folder, room = Path(tempfile.gettempdir()), int(os.environ.get("FEDKT_TEST_FEDERATIONS", "1"))
    while True:
        for place in range(room):
            lock = FileLock(folder / f"fedkt-federation-{place}.lock")
            with contextlib.suppress(Timeout), lock.acquire(timeout=0):
                yield
                return
        time.sleep(0.5)


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

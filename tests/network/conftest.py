"""Which tests of federations of real processes run, and one after the other."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Federation]:
    """Yield a federation whose SuperLink runs; there is one at a time on this machine."""
    lock = FileLock(Path(tempfile.gettempdir()) / "fedkt-network-tests.lock")
    with lock, federation(tmp_path / "federation") as made:
        yield made

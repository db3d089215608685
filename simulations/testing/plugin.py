"""The plugin of pytest by which the laws are checked on strategies of one's own.

pytest finds it wherever fedkt is installed (entry point ``pytest11``), so it imports nothing of
fedkt before an option asks for it.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

OPTION = "--fedkt-strategy"
LAWS = Path(__file__).parent / "laws"
MARKERS = (
    "ray: starts a Ray cluster (slower)",
    "flower: starts Flower's own simulation engine (slower)",
    "full: runs at level full only (make test-all)",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    group = parser.getgroup("fedkt")
    group.addoption(
        OPTION,
        action="append",
        default=[],
        metavar="REFERENCE",
        help="run the laws on this strategy, and nothing else: NAME, NAME(key=value) or "
        "path/to/file.py:Class; may be repeated",
    )
    group.addoption(
        "--fedkt-executor",
        choices=("auto", "loop", "cohort"),
        default="auto",
        help="run the laws with this executor",
    )
    group.addoption(
        "--fedkt-models",
        metavar="NAMES",
        help="the clients' models, separated by commas; by default the richest mixture of quick "
        "models that the strategy accepts",
    )
    group.addoption(
        "--fedkt-level",
        choices=("quick", "full"),
        help="quick: laws of methods, read from one recorded run of each, and laws of messages on "
        "one method of each kind of exchange; full: all laws on every method (the default with "
        f"{OPTION})",
    )
    parser.addini(
        "fedkt_strategy_files",
        "Files with one strategy each, on which the laws of methods are checked beside the "
        "registered strategies: patterns relative to the configuration file.",
        type="args",
        default=[],
    )


def pytest_configure(config: pytest.Config) -> None:
    """Turn the run on the strategies that the option names; refuse wrong references in one line."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if not config.getoption(OPTION):
        return
    with warnings.catch_warnings():  # of other libraries, before pytest collects them
        warnings.simplefilter("ignore")
        from fedkt.errors import ConfigError
        from fedkt.simulations.experiment.references import read_strategy
        from fedkt.strategies.construction import make_strategy

    for reference in config.getoption(OPTION):
        try:
            make_strategy(read_strategy(reference))
        except ConfigError as error:
            raise pytest.UsageError(f"{OPTION} {reference}: {error}") from error
    config.args = [str(LAWS)]


def files_with_strategies(config: pytest.Config) -> list[str]:
    """Return references to the strategies in the files of ``fedkt_strategy_files``."""
    root = config.rootpath
    patterns: list[str] = config.getini("fedkt_strategy_files")
    files = [file for pattern in patterns for file in sorted(root.glob(pattern))]
    return [reference for file in files for reference in references_in(file)]


def references_in(file: Path) -> list[str]:
    """Return references to the strategies that a file defines."""
    text = file.read_text(encoding="utf-8")
    names = re.findall(r"^class (\w+)\((?:\w+\.)?KnowledgeStrategy\):", text, re.MULTILINE)
    return [f"{file}:{name}" for name in names]

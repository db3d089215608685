"""The laws of strategies as one call."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from fedkt import registry
from fedkt.errors import ConfigError
from fedkt.strategies import KnowledgeStrategy
from fedkt.testing.plugin import LAWS

LEVELS = "quick", "full"

Strategy = str | type[KnowledgeStrategy] | KnowledgeStrategy


def check_strategy(
    strategy: Strategy,
    models: Sequence[str] = (),
    level: str = "quick",
    executor: str = "auto",
) -> None:
    """Require that a strategy keeps the laws of the conformance suite.

    Parameters
    ----------
    strategy : str, class or object
        A reference (``knfu(beta=2)``, ``mine.py:Mine``), or the class, or an object.
    models : Sequence[str]
        The clients' models, by name or ``file.py:Class``; by default the richest mixture of quick
        models that the strategy accepts.
    level : {"quick", "full"}
        The laws of methods, in a few seconds; or all laws, in minutes.
    executor : {"auto", "loop", "cohort"}
        How the clients are run.

    Raises
    ------
    AssertionError
        If a law is broken; names every one.
    ConfigError
        For an unknown level.
    """
    if level not in LEVELS:
        raise ConfigError(f"level {level!r}: must be one of {', '.join(LEVELS)}.")
    failures = _Failures()
    with registered(strategy) as reference:
        options = {"strategy": reference, "level": level, "executor": executor}
        code = pytest.main([str(LAWS), *_arguments(options, models)], [failures])
    if code != pytest.ExitCode.OK:
        raise AssertionError("\n".join(failures.lines) or f"pytest ends with {code!r}")


def _arguments(options: Mapping[str, str], models: Sequence[str]) -> list[str]:
    """Return the arguments of a run of pytest."""
    arguments = [f"--fedkt-{name}={value}" for name, value in options.items()]
    if models:
        arguments.append(f"--fedkt-models={','.join(models)}")
    # Options of the project whose test calls this are not meant for the laws.
    return [*arguments, "-q", "-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider"]


@contextmanager
def registered(strategy: Strategy) -> Iterator[str]:
    """Give a reference to a strategy, which has a name only while inside if it had none before."""
    before = set(registry.names("strategies"))
    reference = reference_of(strategy)
    try:
        yield reference
    finally:
        if reference not in before and not isinstance(strategy, str):
            registry.forget("strategies", reference)


def reference_of(strategy: Strategy) -> str:
    """Return a reference to a strategy; a class or an object is registered under a name for it."""
    if isinstance(strategy, str):
        return strategy
    kind = strategy if isinstance(strategy, type) else _copies_of(strategy)
    name = f"{kind.__module__}:{kind.__qualname__}"
    registry.register_as(kind, "strategies", name)
    return name


def _copies_of(strategy: KnowledgeStrategy) -> type[KnowledgeStrategy]:
    """Return a class without options, every object of which is a copy of this one."""
    kind = type(strategy)

    def copied(cls: type[KnowledgeStrategy]) -> KnowledgeStrategy:
        return copy.deepcopy(strategy)

    def begin(self: KnowledgeStrategy) -> None:
        """Take no options: the copy has those of the original."""

    about = {"__new__": copied, "__init__": begin, "__module__": kind.__module__, "tried_with": {}}
    return type(f"{kind.__qualname__}-{id(strategy)}", (kind,), about)


class _Failures:
    """A plugin of pytest that keeps the last word of every failure."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.lines.append(crash.message if crash else report.longreprtext)

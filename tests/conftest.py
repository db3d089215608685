"""How the tests are spread over processes, and which compare up to rounding."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from typing import Any

import pytest

# Small tensors are slower on two threads, and several processes test at once. torch reads it when
# it is imported; worker processes, Ray's and pytest-xdist's, inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes ``-n auto`` means: one more than CPUs.

    A quarter of the suite's time is waiting, for engines to start and signals to arrive.
    """
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under ``--dist loadfile`` keep the laws of a method in one process, like the tests of a file.

    They share its recorded run. Ray and Flower's engine start for a whole file.
    """
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByFileOrMethod(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByFileOrMethod(config, log)


def group_of(nodeid: str) -> str:
    """Return the file of a test; of a law of a method, the method up to the first dash."""
    file, _, test = nodeid.partition("::")
    over = re.search(r"\[([^-\]]+)", test)
    by_method = "testing/laws/" in file and not file.endswith(("test_ray.py", "test_flower.py"))
    return over[1] if over and by_method else file


# What compares numbers up to rounding, which differs between processors and numbers of threads.
ROUNDING = re.compile(r"\b(approx|allclose|assert_close|isclose|apart)\(|[<>] *[\d.]*e-\d")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what belongs to level full, and mark what compares up to rounding."""
    if config.getoption("--fedkt-level") != "full":
        here = Path(__file__).parent
        left = [i for i in items if i.path.is_relative_to(here) and i.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in set(left)]
    _mark_numeric(config, items)


def _mark_numeric(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as ``numeric``, when that is asked for, every test that compares up to rounding.

    Found in the test's own text and in that of the functions of its module that it calls, so that
    no test can be forgotten.
    """
    if "numeric" not in (config.getoption("markexpr") or ""):
        return
    helpers: dict[str, re.Pattern[str]] = {}
    for item in items:
        assert isinstance(item, pytest.Function)
        module = item.module
        if module.__name__ not in helpers:
            functions = [f for f in vars(module).values() if inspect.isfunction(f)]
            names = [f.__name__ for f in functions if ROUNDING.search(_source(f))]
            calls = "|".join(rf"\b{name}\(" for name in names)
            helpers[module.__name__] = re.compile(f"{ROUNDING.pattern}|{calls or '(?!)'}")
        if helpers[module.__name__].search(inspect.getsource(item.function)):
            item.add_marker(pytest.mark.numeric)


def _source(function: Any) -> str:
    """Return the text of a function; empty for what hypothesis makes, which is in no file."""
    try:
        return inspect.getsource(function)
    except OSError:
        return ""

"""Which strategies the laws are checked on."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from fedkt import registry

from . import kit
from .faults import RUBBISH
from .kit import Method

# Options of the built-in strategies that change what is kept from round to round or what is
# sent; checked where that matters (fixture `variant`). The last keeps all kinds of things.
VARIANTS = (
    "knfu(neighbours=all, age_decay=0.5)",
    "knfu(epd_from=pre_distill, public_samples=16)",
    "fedmd(form=probabilities, transfer_epochs=1, public_samples=16)",
    "fedmd(form=probabilities, trust=root, root=20)",
    "fedpf(readout=gate)",
    "fada(disentangle=False, target_samples=16)",
    f"{Path(__file__).parent / 'remembering_strategy.py'}:Remembering",
)
# One strategy that shares knowledge and one that shares weights stand for all on Flower's
# own engine, which takes seconds to start.
REPRESENTATIVES = ("knfu", "fedavg")


@lru_cache
def _groups(asked: tuple[str, ...]) -> dict[str, list[Any]]:
    """Return over what a test runs, by the fixture it asks for."""
    methods = [Method(reference) for reference in asked or registry.names("strategies")]
    kinds = list({_kind(m): m for m in reversed(methods)}.values())
    return {
        "method": methods,
        "sharing": [m for m in methods if m.recipe.share],
        "variant": methods if asked else [*methods, *map(Method, VARIANTS)],
        "kind": kinds,
        "spoiled": [(m, r) for m in kinds for r in RUBBISH if r.fits(m.recipe)],
        "representative": methods if asked else [Method(r) for r in REPRESENTATIVES],
    }


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test over strategies; the fixture it asks for says over which.

    ``method``: all. ``sharing``: those that share something. ``variant``: all, and the
    options in ``VARIANTS``. ``representative``: two, to save time. With the option they are
    the user's. ``kind``: one of each kind of exchange (what is shared, in which phases), for what
    belongs to messages and not to methods. ``spoiled``: pairs of one of each kind that shares
    and rubbish that it may be sent.
    """
    kit.EXECUTOR = metafunc.config.getoption("--fedkt-executor")
    groups = _groups(tuple(dict.fromkeys(metafunc.config.getoption("--fedkt-strategy"))))
    for name, group in groups.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, group, ids=_id)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With the option, leave out what tests the built-in strategies or the suite itself."""
    if not config.getoption("--fedkt-strategy"):
        return
    over = {"method", "sharing", "variant", "kind", "spoiled", "representative"}
    kept = [i for i in items if over & set(getattr(i, "fixturenames", ()))]
    config.hook.pytest_deselected(items=[i for i in items if i not in kept])
    items[:] = kept


def _kind(method: Method) -> tuple[Any, ...]:
    recipe = method.recipe
    shares = tuple((type(share), share.kind) for share in recipe.share)
    return shares, bool(recipe.start), bool(recipe.learn), bool(recipe.absorb), bool(recipe.given)


def _id(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)

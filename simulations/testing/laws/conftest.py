"""Which strategies the laws are checked on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

# Small tensors are slower on two threads, and several processes test at once. torch reads it when
# it is imported; worker processes, Ray's and pytest-xdist's, inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from fedkt import registry
from fedkt.testing.faults import RUBBISH
from fedkt.testing.kit import Method
from fedkt.testing.plugin import OPTION, files_with_strategies
from fedkt.testing.recorded import recorded, repeated

# Options of the built-in strategies that change what is kept from round to round or what is
# sent; checked where that matters (fixture `variant`).
HERE = Path(__file__).parent
VARIANTS = (
    "knfu(neighbours=all, age_decay=0.5)",
    "knfu(epd_from=pre_distill, public_samples=16)",
    "fedmd(form=probabilities, transfer_epochs=1, public_samples=16)",
    "fedmd(form=probabilities, trust=root, root=20)",
    "fedpf(readout=gate)",
    "fada(disentangle=False, target_samples=16)",
)
# One strategy that shares knowledge and one that shares weights stand for all on Flower's
# own engine, which takes seconds to start.
REPRESENTATIVES = ("knfu", "fedavg")


@dataclass(frozen=True)
class Asked:
    """What the options ask for."""

    strategies: tuple[str, ...]
    files: tuple[str, ...]
    executor: str
    models: tuple[str, ...]
    level: str

    @classmethod
    def by(cls, config: pytest.Config) -> Asked:
        """Return what a pytest run is asked for; of one's own strategies all, by default."""
        strategies = tuple(dict.fromkeys(config.getoption(OPTION)))
        level = config.getoption("--fedkt-level") or ("full" if strategies else "quick")
        models = (config.getoption("--fedkt-models") or "").split(",")
        return cls(
            strategies,
            () if strategies else tuple(files_with_strategies(config)),
            config.getoption("--fedkt-executor"),
            tuple(name.strip() for name in models if name.strip()),
            level,
        )


@lru_cache
def _groups(asked: Asked) -> dict[str, list[Any]]:
    """Return over what a test runs, by the fixture it asks for."""

    def of(references: Iterable[str]) -> list[Method]:
        return [Method(reference, asked.executor, asked.models) for reference in references]

    known = [name for name in registry.names("strategies") if ":" not in name]  # of no loaded file
    methods = of(asked.strategies or (*known, *asked.files))
    variants = [*methods, *of(() if asked.strategies else VARIANTS)]
    kinds = list({_kind(m): m for m in reversed(variants)}.values())
    if asked.level == "full":
        exchanges = variants
    else:
        exchanges = kinds = [] if asked.strategies else _covering(kinds)
    return {
        "method": methods,
        "sharing": [m for m in methods if m.recipe.share],
        "variant": variants,
        "exchange": exchanges,
        "parcel": [m for m in exchanges if m.recipe.share],
        "kind": kinds,
        "spoiled": [(m, r) for m in kinds for r in RUBBISH if r.fits(m.recipe)],
        "representative": exchanges if asked.strategies else of(REPRESENTATIVES),
    }


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test over strategies; the fixture it asks for says over which.

    For laws of methods: ``method`` (all), ``sharing`` (those that share something), ``variant``
    (all, and the options in ``VARIANTS``). For laws of messages and files: ``kind`` (at level full
    one of each kind of exchange: what is shared together, in which phases; at level quick a few
    that have among them every kind of knowledge and every phase), ``exchange`` (the same at level
    quick, every variant at level full), ``parcel`` (those that share something), ``spoiled`` (pairs
    of a kind and rubbish that it may be sent), ``representative`` (two, to save time). With
    ``--fedkt-strategy`` they are the user's; at level quick only laws of methods are checked then.
    """
    asked = Asked.by(metafunc.config)
    left_out = asked.level == "quick" and metafunc.definition.get_closest_marker("full")
    for name, group in _groups(asked).items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, [] if left_out else group, ids=_id)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what belongs to level full, and with strategies of one's own the suite's own tests.

    A test over an empty group is left out too.
    """
    asked = Asked.by(config)
    groups = _groups(asked)

    def kept(item: pytest.Item) -> bool:
        over = set(groups) & set(getattr(item, "fixturenames", ()))
        if asked.level == "quick" and item.get_closest_marker("full"):
            return False
        return all(map(groups.get, over)) and (bool(over) or not asked.strategies)

    found = [(item, not item.path.is_relative_to(HERE) or kept(item)) for item in items]
    config.hook.pytest_deselected(items=[item for item, stays in found if not stays])
    items[:] = [item for item, stays in found if stays]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Forget the recorded runs: the next strategy of a name may be another."""
    for cached in (_groups, recorded, repeated):
        cached.cache_clear()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a law that a strategy says it cannot meet."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    for value in parameters.values():
        method = value[0] if isinstance(value, tuple) else value  # a pair with rubbish
        reasons = getattr(method, "exempt", {})
        law = getattr(item, "originalname", item.name).removeprefix("test_")
        if law in reasons:
            pytest.skip(f"{method}: {reasons[law]}")


def _kind(method: Method) -> tuple[Any, ...]:
    recipe = method.recipe
    shares = tuple((share.kind, share.codec_up, share.codec_down) for share in recipe.share)
    return shares, bool(recipe.start), bool(recipe.learn), bool(recipe.absorb), bool(recipe.given)


def _traits(method: Method) -> frozenset[str]:
    """Return what a method's messages have, one by one."""
    shares, *phases = _kind(method)
    names = ("start", "learn", "absorb", "given")
    had = {name for name, there in zip(names, phases, strict=True) if there}
    return frozenset({*shares, *had, f"{min(len(shares), 2)} shares"})


def _covering(methods: Iterable[Method]) -> list[Method]:
    """Return a few of some methods that have all their traits, greedily; in their order."""
    given = list(methods)
    missing, chosen = set[str]().union(*map(_traits, given)), list[Method]()
    while missing:
        best = max(given, key=lambda method: len(_traits(method) & missing))
        missing -= _traits(best)
        chosen.append(best)
    return [method for method in given if method in chosen]


def _id(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)

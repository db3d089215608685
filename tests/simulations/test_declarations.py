"""Options are declared once: Python, TOML and the flags allow and refuse the same."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any

import pytest

from fedkt.clients import TrainingOptions
from fedkt.data.spec import DataOptions, FederationSpec
from fedkt.errors import ConfigError
from fedkt.options import AtLeastOne, Flag, checked
from fedkt.simulations.cli import flags
from fedkt.simulations.experiment import config
from fedkt.strategies import ServerOptions
from fedkt.strategies.construction import make_strategy
from fedkt.strategies.server.bounds import Bounds
from fedkt.strategies.weights.fedprox import FedProx

VALUES = (-1, 0, 1, 3, 0.5, 1.0, -0.5, math.nan, math.inf, True, "3", "none", "adam", [1], ["a"])


def refuses(make: Any, *args: Any, **options: Any) -> bool:
    try:
        make(*args, **options)
    except ConfigError:
        return True
    return False


@pytest.mark.parametrize(
    ("section", "options"), [("data", DataOptions), ("training", TrainingOptions)]
)
def test_python_and_toml_refuse_the_same(section: str, options: Any) -> None:
    for field in dataclasses.fields(options):
        for value in VALUES:
            in_toml = refuses(config.parse, {section: {field.name: value}})
            assert in_toml == refuses(options, **{field.name: value}), (field.name, value)


@pytest.mark.parametrize("option", ["participation", "codec", "quorum", "group_effect"])
def test_a_run_and_its_server_allow_the_same(option: str) -> None:
    for value in (*VALUES, "strict"):
        in_toml = refuses(config.parse, {"run": {option: value}})
        assert in_toml == refuses(ServerOptions, **{option: value}), value


def test_bounds_allow_the_same_in_a_run() -> None:
    for field in dataclasses.fields(Bounds):
        for value in VALUES:
            in_toml = refuses(config.parse, {"run": {"bounds": {field.name: value}}})
            assert in_toml == refuses(Bounds, **{field.name: value}), (field.name, value)


def test_hyper_parameters_allow_the_same_in_a_section() -> None:
    for option in ("mu", "local_epochs"):
        for value in VALUES:
            in_toml = refuses(make_strategy, {"name": "fedprox", option: value})
            assert in_toml == refuses(FedProx, **{option: value}), (option, value)


def test_the_seed_of_the_data_is_that_of_the_run() -> None:
    with pytest.raises(ConfigError, match=r"Unknown key in \[data\] 'seed'"):
        config.parse({"data": {"seed": 3}})
    assert {f.name for f in dataclasses.fields(FederationSpec)} - {
        f.name for f in dataclasses.fields(DataOptions)
    } == {"seed"}


def test_an_option_has_a_flag_where_it_declares_one() -> None:
    @checked
    @dataclasses.dataclass(frozen=True)
    class Options:
        copies: Annotated[AtLeastOne, Flag("How many.")] = 1
        plain: int = 2

    assert list(flags.declared_flags(Options)) == [("copies", Flag("How many."), int)]
    both = {name: {o.name for o in flags.options_of(name)} for name in ("simulate", "compare")}
    assert both["simulate"] - both["compare"] == {"strategy"}
    assert both["compare"] - both["simulate"] == {"strategies", "seeds"}
    assert {"clients", "data_dir", "grid", "attack", "seed"} <= both["simulate"]

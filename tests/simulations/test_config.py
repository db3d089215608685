from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedkt.errors import ConfigError
from fedkt.simulations.experiment import config
from fedkt.simulations.experiment.references import (
    read_assignment,
    read_strategy,
    split_references,
)
from fedkt.strategies.answers.knfu import KnFu
from fedkt.strategies.construction import make_strategy


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("rounds=3", "rounds", 3),
        ("training.learning_rate=1e-3", "training.learning_rate", 0.001),
        ("data.dataset=digits", "data.dataset", "digits"),
        ('data.dataset="3"', "data.dataset", "3"),
        ("run.oracle=true", "run.oracle", True),
        ("run.oracle=False", "run.oracle", False),
        ("training.momentum=.5", "training.momentum", 0.5),
        ("run.address=None", "run.address", "None"),
        ("run.address=007", "run.address", "007"),
        ('models=["cnn", "mlp"]', "models", ["cnn", "mlp"]),
        ("data.partition=dirichlet:0.3", "data.partition", "dirichlet:0.3"),
        ("data.partition = dirichlet:0.3 ", "data.partition", "dirichlet:0.3"),
        ("run.address=", "run.address", ""),
        ("data.data_dir=/a=b", "data.data_dir", "/a=b"),
    ],
)
def test_assignments(text: str, path: str, value: object) -> None:
    assert read_assignment(text) == (path, value)


@pytest.mark.parametrize("text", ["rounds", "", "=3", " = 3"])
def test_what_is_no_assignment(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write key\.path=value"):
        read_assignment(text)


def test_set_path_makes_sections_and_keeps_neighbours() -> None:
    values: dict[str, Any] = {"data": {"clients": 3}}
    config.set_path(values, "data.dataset", "digits")
    config.set_path(values, "run.grid", "ray")
    config.set_path(values, "rounds", 2)
    assert values == {
        "data": {"clients": 3, "dataset": "digits"},
        "run": {"grid": "ray"},
        "rounds": 2,
    }
    with pytest.raises(ConfigError, match="'rounds' is not a section"):
        config.set_path(values, "rounds.more", 1)


@pytest.mark.parametrize(
    ("reference", "section"),
    [
        ("knfu", {"name": "knfu"}),
        (" knfu( beta = 2 , divergence=js ) ", {"name": "knfu", "beta": 2, "divergence": "js"}),
        ("knfu()", {"name": "knfu"}),
        ("my/file.py:Mine(x=true)", {"name": "my/file.py:Mine", "x": True}),
    ],
)
def test_strategy_references(reference: str, section: dict[str, Any]) -> None:
    assert read_strategy(reference) == section


@pytest.mark.parametrize("reference", ["knfu(", "knfu(beta=2", "knfu(beta)", "knfu(beta=2)x"])
def test_what_is_no_strategy_reference(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"write (name|key)"):
        read_strategy(reference)


def test_references_split_outside_parentheses() -> None:
    text = "local, knfu(beta=1,temperature=2),,f.py:M(x=1) "
    assert split_references(text) == [
        "local",
        "knfu(beta=1,temperature=2)",
        "f.py:M(x=1)",
    ]
    assert split_references("") == []


def test_saved_experiments_read_back_equal(tmp_path: Path, tiny: Any) -> None:
    experiment = tiny(seed=3, data__public_dataset="other", compare={"strategies": ["a", "b"]})
    config.save(tmp_path / "c.toml", experiment)
    assert config.parse(config.load(tmp_path / "c.toml")) == experiment
    config.save(tmp_path / "d.toml", tiny())
    assert config.parse(config.load(tmp_path / "d.toml")) == tiny(), "absent values stay absent"


def test_defaults_of_the_contract() -> None:
    experiment = config.parse({})
    assert experiment.run.grid == "ray"
    assert experiment.strategy["name"] == "knfu"
    assert experiment.run.oracle is False
    assert experiment.data.dataset == "digits"


def test_experiments_are_immutable_and_copies_validated(tiny: Any) -> None:
    experiment = tiny()
    with pytest.raises(ValueError, match="frozen"):
        experiment.rounds = 5
    assert experiment.with_values(rounds=5).rounds == 5
    with pytest.raises(ConfigError, match="rounds = 0"):
        experiment.with_values(rounds=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rouds": 1}, "Unknown key 'rouds'. Did you mean 'rounds'?"),
        ({"run": {"grit": "ray"}}, r"\[run\] 'grit'. Did you mean 'grid'?"),
        ({"rounds": True}, "rounds = True"),
        ({"rounds": 2.5}, r"rounds = 2\.5"),
        ({"models": "cnn"}, "models = 'cnn'"),
        ({"data": {"clients": -1}}, r"data\.clients = -1"),
        ({"run": {"participation": 1.01}}, r"run\.participation = 1\.01"),
        (
            {"training": {"optimiser": "adamm"}},
            r"Unknown optimiser 'adamm'\. Did you mean 'adam'\? Known: adam, adamw, .*sgd\.",
        ),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        config.parse(values)
    assert len(str(raised.value).splitlines()) == 1


def test_strategies_get_checked_hyper_parameters() -> None:
    made = make_strategy({"name": "knfu", "beta": 2, "local_epochs": 3})
    assert isinstance(made, KnFu)
    assert (made.beta, made.local_epochs, made.temperature) == (2.0, 3, 1.0)
    for section, message in [
        ({"name": "knfu", "local_epochs": "many"}, r"strategy\.local_epochs = 'many' \(knfu\)"),
        ({"name": "knfu", "beta": float("inf")}, r"strategy\.beta = inf .* finite"),
        ({"name": "knfu", "self": 1}, "'self'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            make_strategy(section)

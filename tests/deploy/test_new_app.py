from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from fedkt.deploy.new_app import write_app
from fedkt.deploy.run_config import PLAIN, defaults_of, names_of, options_in
from fedkt.deploy.serving import TABLES
from fedkt.errors import ConfigError
from fedkt.training import TrainingOptions


def config_of(folder: Path) -> dict[str, Any]:
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    config: dict[str, Any] = project["tool"]["flwr"]["app"]["config"]
    return config


def test_all_keys_are_there_with_their_defaults(tmp_path: Path) -> None:
    write_app(tmp_path / "four-clinics", clients=4)
    config = config_of(tmp_path / "four-clinics")
    assert {k: v for k, v in config.items() if k not in TABLES} == dict(PLAIN)
    for name, options in TABLES.items():
        expected = {**defaults_of(options), **({"clients": 4} if name == "server" else {})}
        assert config[name] == expected
        flat = {f"{name}.{key}": value for key, value in config[name].items()}
        made = options(
            **{**options_in(flat, name, options), **({"clients": 0} if name == "server" else {})}
        )
        assert made == options()


def test_the_training_table_has_every_option() -> None:
    names = {field.name for field in fields(TrainingOptions)}
    assert set(names_of(TrainingOptions).values()) == names


def test_values_come_in_the_types_of_the_options() -> None:
    given = {"training.learning-rate": 1, "training.clip-norm": 2, "training.compile": True}
    values = options_in(given, "training", TrainingOptions)
    assert values == {"learning_rate": 1.0, "clip_norm": 2.0, "compile": True}
    assert {name: type(value) for name, value in values.items()} == {
        "learning_rate": float,
        "clip_norm": float,
        "compile": bool,
    }
    given = {"server.quorum": "2", "server.metrics": "macro-f1,log-loss", "server.wait": 5}
    values = options_in(given, "server", TABLES["server"])
    assert values == {"quorum": 2, "metrics": ("macro-f1", "log-loss"), "wait": 5.0}


def test_the_app_is_small(tmp_path: Path) -> None:
    write_app(tmp_path / "mine")
    lines = {
        file.name: [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        for file in (tmp_path / "mine" / "mine").glob("*_app.py")
    }
    assert len(lines["server_app.py"]) <= 3
    assert len(lines["client_app.py"]) <= 6


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="exists; name a new folder"):
        write_app(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]
    with pytest.raises(ConfigError, match="begins with a letter"):
        write_app(tmp_path / "3-clinics")


@pytest.mark.parametrize("name", ["class", "fedkt", "numpy", "json"])
def test_an_app_is_not_called_as_a_package_that_is_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"Python has a {name} already; name the app otherwise"):
        write_app(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_no_key_is_there_that_does_nothing(tmp_path: Path) -> None:
    """States lie where the node says, and the ids that a list over clients can hold are fixed."""
    write_app(tmp_path / "mine")
    config = config_of(tmp_path / "mine")
    assert "state" not in config
    assert "most-clients" not in config["server"]

"""Bad input: exit 2, one line that names the thing, and nothing written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkt.disk import only_user

STRATEGIES = """
from fedkt.strategies import KnowledgeStrategy

class Stranger:
    '''Not a strategy.'''

class Half(KnowledgeStrategy):
    '''Has no recipe.'''

def function():
    '''Not a class.'''
"""
MODELS = """
from torch import nn

def narrow(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))

def broken(shape, classes):
    raise RuntimeError("two\\nlines")
"""


@pytest.fixture(autouse=True)
def inputs(here: Path, write_toml: Any) -> Path:
    """Lay good and bad inputs into the working folder."""
    write_toml(here)
    (here / "mine.py").write_text(STRATEGIES, encoding="utf-8")
    (here / "models.py").write_text(MODELS, encoding="utf-8")
    (here / "syntax.py").write_text("class Mine(:\n", encoding="utf-8")
    (here / "syntax.toml").write_text("rounds = = 3\n", encoding="utf-8")
    (here / "latin.toml").write_bytes(b"rounds = 3 # caf\xe9\n")
    data = here / "data"
    data.mkdir()
    rng = np.random.default_rng(0)
    x, y = rng.random((300, 6), dtype=np.float32), np.arange(300) % 3
    good = {"x_train": x[:200], "y_train": y[:200], "x_test": x[200:], "y_test": y[200:]}
    np.savez(data / "a.npz", **good)
    shared = rng.random((100, 6), dtype=np.float32)
    shared[:60] = x[200:260]  # test rows of a
    np.savez(data / "b.npz", **{**good, "x_train": shared, "y_train": y[:100]})
    np.savez(data / "miskeyed.npz", **{k.replace("x_train", "x"): v for k, v in good.items()})
    whole = (data / "a.npz").read_bytes()
    (data / "torn.npz").write_bytes(whole[: len(whole) // 2])
    (data / "nonsense.npz").write_bytes(b"nonsense")
    return here


def everything(folder: Path) -> dict[str, bytes | None]:
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
        if "__pycache__" not in p.parts
    }


@pytest.fixture
def refused(here: Path, fedkt: Any) -> Callable[..., str]:
    """Run a command that must be refused without a trace; return its line."""

    def run(*arguments: object) -> str:
        before = everything(here)
        answer = fedkt(*arguments)
        lines = answer.err.splitlines()
        assert answer.code == 2, (answer.code, answer.err)
        assert len(lines) == 1, answer.err
        assert lines[0].startswith("error: ")
        assert everything(here) == before, "something was written"
        return str(lines[0])

    return run


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--strategy", "knfuu", ["strategy 'knfuu'", "'knfu'"]),
        ("--strategy", "knfu(bta=1)", ["knfu", "'bta'", "'beta'"]),
        ("--strategy", "knfu(beta=1", ["knfu(beta=1", "name(key=value"]),
        ("--strategy", "knfu(beta=much)", ["strategy.beta", "'much'", "number"]),
        ("--strategy", "knfu(local_epochs=1.5)", ["strategy.local_epochs", "1.5", "whole number"]),
        (
            "--strategy",
            "knfu(beta=-1)",
            ["strategy.beta = -1 (knfu): must be", "at least 0"],
        ),
        ("--strategy", "knfu(beta=nan)", ["strategy.beta", "finite"]),
        ("--strategy", "knfu(divergence=kk)", ["divergence", "'kk'", "'kl'"]),
        ("--strategy", "mine.py:Stranger", ["mine.py:Stranger", "not a KnowledgeStrategy"]),
        ("--strategy", "mine.py:function", ["mine.py:function", "not a KnowledgeStrategy"]),
        ("--strategy", "mine.py:Half", ["mine.py:Half", "recipe"]),
        ("--strategy", "mine.py:Strangr", ["'Strangr'", "'Stranger'"]),
        ("--strategy", "mine.py", ["'mine.py'", "file.py:Class"]),
        ("--strategy", "nowhere.py:Mine", ["nowhere.py"]),
        ("--strategy", "syntax.py:Mine", ["syntax.py", "SyntaxError"]),
        ("--strategy", "fedavg", ["fedavg", "one architecture", "linear, mlp", "--models linear"]),
        ("--dataset", "digitz", ["data set 'digitz'", "'digits'"]),
        ("--models", "mlpp", ["model 'mlpp'", "'mlp'"]),
        ("--models", "models.py:narrow", ["models.py:narrow", "width 7", "10 classes"]),
        ("--models", "models.py:broken", ["models.py:broken", "RuntimeError: two lines"]),
        ("--models", "", ["models"]),
        ("--partition", "dirichlett:0.3", ["partition 'dirichlett'", "'dirichlet'"]),
        ("--partition", "dirichlet:0", ["'dirichlet:0'", "alpha"]),
        ("--partition", "dirichlet:-0.5", ["'dirichlet:-0.5'", "alpha"]),
        ("--clients", 5000, ["5000 clients", "samples"]),
        ("--clients", 0, ["data.clients = 0", "1"]),
        ("--rounds", 0, ["rounds = 0", "1"]),
        ("--seed", -1, ["seed = -1", "0"]),
        (
            "--grid",
            "in-proces",
            ["run.grid", "'in-proces'", "flower, in-process, ray", "mean 'in-process'"],
        ),
        ("--executor", "loup", ["run.executor", "'loup'", "'loop'"]),
        ("--attack", "wrogn:1", ["attack 'wrogn'", "'wrong'"]),
        ("--attack", "wrong", ["'wrong'", "kind:how many"]),
        ("--attack", "wrong:all", ["'wrong:all'", "kind:how many"]),
        ("--attack", "wrong:0", ["attack.clients = 0", "1"]),
        ("--attack", "wrong:3", ["attack.clients = 3", "below the number of clients, 3"]),
        ("--set", "attack=wrong", ["'wrong'", "kind:how many"]),
        ("--set", "attack.kind=wrong", ["attack.clients is missing"]),
        ("--set", "data.clents=3", ["[data]", "'clents'", "'clients'"]),
        ("--set", "dta.clients=3", ["'dta'", "'data'"]),
        ("--set", "rounds", ["'rounds'", "key.path=value"]),
        ("--set", "rounds.x=1", ["rounds.x", "not a section"]),
        ("--set", "run.codec=float61", ["codec 'float61'", "'float16'"]),
        ("--set", "run.participation=0", ["run.participation = 0", "(0, 1]"]),
        ("--set", "training.learning_rate=nan", ["training.learning_rate = nan", "finite"]),
        ("--set", "data.samples_per_client=0.5", ["data.samples_per_client = 0.5", "whole number"]),
        ("--set", "data.public_samples=5000", ["public_samples is 5000", "1438"]),
        ("--set", "data.validation_fraction=0.9", ["validation_fraction 0.9", "below 1"]),
    ],
)
def test_a_bad_option_is_named(refused: Any, option: str, value: Any, named: list[str]) -> None:
    line = refused("simulate", "tiny.toml", option, value, "--out", "run")
    for part in named:
        assert part in line


@pytest.mark.parametrize("given", ["in-proces", "flowr"])
def test_a_bad_choice_hints_at_the_nearest(refused: Any, given: str) -> None:
    near = {"in-proces": "in-process", "flowr": "flower"}[given]
    line = refused("simulate", "tiny.toml", "--grid", given, "--out", "run")
    assert f"Did you mean {near!r}?" in line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["simulate", "--rouds", "3"], ["--rouds", "--rounds"]),
        (["simulate", "--rounds", "three"], ["--rounds", "three"]),
        (["simulat"], ["simulat"]),
        (["simulate", "a.toml", "b.toml"], ["b.toml"]),
        (["report"], ["FOLDER"]),
    ],
)
def test_a_mistyped_command_line_is_one_line(
    refused: Any, arguments: list[str], named: list[str]
) -> None:
    line = refused(*arguments)
    for part in named:
        assert part in line


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("sorce=3", ["attack flip", "'sorce'", "'source'"]),
        ("source=10", ["source 10", "10 classes 0 to 9"]),
        ("source=8", ["source 8", "target 8"]),
        ("source=three", ["attack.source = 'three'", "whole number"]),
    ],
)
def test_a_bad_option_of_an_attack_is_named(refused: Any, value: str, named: list[str]) -> None:
    options = ["--attack", "flip:1", "--set", f"attack.{value}", "--out", "run"]
    for command in (["simulate"], ["compare", "--strategies", "knfu"]):
        line = refused(*command, "tiny.toml", *options)
        for part in named:
            assert part in line


def test_weights_are_refused_under_attack(refused: Any) -> None:
    options = ["--models", "mlp", "--attack", "wrong:1", "--out", "run"]
    assert "fedavg shares weights" in refused(
        "compare", "tiny.toml", "--strategies", "knfu,fedavg", *options
    )


def test_more_clients_than_samples(refused: Any) -> None:
    values = ["--set", "data.samples_per_client=0", "--clients", 2000]
    line = refused("simulate", "tiny.toml", *values, "--out", "run")
    assert "2000 clients cannot share 1398 samples" in line


def test_hyper_parameters_need_no_strategy_name(
    here: Path, fedkt: Any, write_toml: Any, no_report: None
) -> None:
    """``[strategy]`` without a name is the default strategy with other hyper-parameters."""
    write_toml(here, strategy={"beta": 0.5, "local_epochs": 1, "distil_epochs": 1})
    answer = fedkt("simulate", "tiny.toml", "--out", "run")
    assert (answer.code, answer.err) == (0, "")


# --- files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("syntax.toml", ["syntax.toml", "not valid TOML", "line 1"]),
        ("latin.toml", ["latin.toml"]),
        ("data/a.npz", ["data/a.npz"]),
        ("nowhere.toml", ["nowhere.toml", "No such file"]),
        ("data", ["data", "directory"]),
    ],
)
def test_a_bad_experiment_file_is_named(refused: Any, file: str, named: list[str]) -> None:
    for part in named:
        assert part in refused("simulate", file, "--out", "run")


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("torn", ["torn.npz", "readable"]),
        ("nonsense", ["nonsense.npz", "readable"]),
        ("miskeyed", ["miskeyed.npz", "'x_train'"]),
        ("aa", ["data set 'aa'", "a.npz"]),
    ],
)
def test_a_bad_data_file_is_named(refused: Any, name: str, named: list[str]) -> None:
    options = ["--data-dir", "data", "--dataset", name, "--out", "run"]
    line = refused("simulate", "tiny.toml", *options)
    for part in named:
        assert part in line


def test_public_and_test_data_must_not_overlap(
    here: Path, refused: Any, fedkt: Any, no_report: None
) -> None:
    shared = ["simulate", "tiny.toml", "--data-dir", "data", "--dataset", "a", "--out", "run"]
    shared += ["--set", "data.public_samples=0", "--set", "data.test_samples=0", "--set"]
    for name in "ab":  # of images: rows of tables may be equal by chance
        with np.load(here / "data" / f"{name}.npz") as arrays:
            images = {k: v.reshape(-1, 2, 3) for k, v in arrays.items() if v.ndim == 2}
            np.savez(here / "data" / f"{name}.npz", **{**arrays, **images})
    line = refused(*shared, "data.public_dataset=b")
    assert "60 of 100 rows of public_dataset b are also test samples of a" in line
    assert "data.deduplicate = true drops them" in line
    with np.load(here / "data" / "b.npz") as b:
        np.savez(here / "data" / "c.npz", **{**b, "x_train": b["x_train"] + 1})
    answer = fedkt(*shared, "data.public_dataset=c")
    assert (answer.code, answer.err) == (0, "")


def test_the_folder_to_write_to_may_lie_under_no_file(refused: Any) -> None:
    assert "tiny.toml" in refused("simulate", "tiny.toml", "--out", "tiny.toml")
    assert "tiny.toml" in refused("simulate", "tiny.toml", "--out", "tiny.toml/run")


# --- existing folders ------------------------------------------------------------------------


@pytest.fixture
def finished(here: Path, fedkt: Any, no_report: None) -> Path:
    assert fedkt("simulate", "tiny.toml", "--rounds", 1, "--out", "run").code == 0
    return here / "run"


def test_an_existing_folder_is_left_alone(finished: Path, refused: Any) -> None:
    line = refused("simulate", "tiny.toml", "--rounds", 1, "--out", "run")
    assert "run exists" in line
    assert "--resume" in line
    assert "run exists" in refused("compare", "tiny.toml", "--strategies", "knfu", "--out", "run")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--seed", "1"], "seed"),
        (["--models", "linear"], "models"),
        (["--clients", "4"], "data"),
        (["--set", "strategy.beta=0.5"], "strategy"),
        (["--set", "training.learning_rate=0.5"], "training"),
        (["--set", "run.codec=float16"], "run"),
    ],
)
def test_resume_refuses_another_experiment(
    finished: Path, refused: Any, change: list[str], named: str
) -> None:
    resume = ["simulate", "tiny.toml", "--rounds", 1, "--out", "run", "--resume"]
    line = refused(*resume, *change)
    assert f"begun with another {named}" in line


def test_resume_accepts_another_grid_and_timeout(finished: Path, fedkt: Any) -> None:
    before = everything(finished)
    answer = fedkt(
        "simulate", "--out", "run", "--resume", "--set", "run.timeout=60", "--workers", 1
    )
    assert (answer.code, answer.err) == (0, "")
    assert everything(finished) == before, "a finished run is left as it is"


def test_nothing_to_resume(refused: Any) -> None:
    assert "nowhere does not exist" in refused("simulate", "--out", "nowhere", "--resume")
    assert "--out" in refused("simulate", "tiny.toml", "--resume")


@pytest.mark.parametrize("command", [["simulate"], ["compare", "--strategies", "knfu"]])
def test_a_folder_that_is_no_run_is_not_resumed(
    here: Path, refused: Any, command: list[str]
) -> None:
    (here / "photos").mkdir()
    (here / "photos" / "cat.png").write_bytes(b"cat")
    line = refused(*command, "tiny.toml", "--out", "photos", "--resume")
    assert "photos" in line


def test_report_of_no_run(refused: Any) -> None:
    assert "nowhere" in refused("report", "nowhere")
    assert "data" in refused("report", "data")


# --- comparisons -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategies", "named"),
    [
        ("local,knfuu", ["strategy 'knfuu'", "'knfu'"]),
        ("local,local", ["local", "twice"]),
        ("knfu(beta=1),knfu(beta=1)", ["knfu(beta=1)", "twice"]),
        ("", ["--strategies"]),
        ("knfu,mine.py:Stranger", ["mine.py:Stranger", "not a KnowledgeStrategy"]),
        ("knfu,knfu(beta=much)", ["strategy.beta", "'much'"]),
        ("local", ["'distil_epochs'"]),  # given in the file, and no strategy has it
    ],
)
def test_a_bad_comparison_is_named(refused: Any, strategies: str, named: list[str]) -> None:
    line = refused("compare", "tiny.toml", "--strategies", strategies, "--out", "cmp")
    for part in named:
        assert part in line


def test_weights_need_a_network(refused: Any) -> None:
    """Found before the first run, not after all that come before it."""
    forests = ["tiny.toml", "--models", "forest", "--out", "run"]
    assert "forest" in refused("compare", *forests, "--strategies", "knfu,fedavg")
    assert "forest" in refused("simulate", *forests, "--strategy", "fedavg")


def test_unknown_kind_of_part(refused: Any) -> None:
    assert "Did you mean 'models'?" in refused("list", "modles")


# --- tracebacks ------------------------------------------------------------------------------


def test_a_traceback_only_with_debug(fedkt: Any) -> None:
    plain = fedkt("simulate", "nowhere.toml")
    full = fedkt("simulate", "nowhere.toml", "--debug")
    assert plain.code == full.code == 2
    assert "Traceback" not in plain.err
    assert "Traceback" in full.err
    assert full.err.endswith(plain.err)


def test_as_a_process(here: Path) -> None:
    command = [sys.executable, "-m", "fedkt.simulations.cli", "simulate", "tiny.toml"]
    options = ["--set", "data.clents=3", "--out", "run"]
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    done = subprocess.run(
        [*command, *options], capture_output=True, encoding="utf-8", env=environment
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "'clients'" in done.stderr
    assert not (here / "run").exists()


@pytest.mark.parametrize("command", [["simulate"], ["compare", "--strategies", "local"]])
def test_two_processes_do_not_write_into_one_folder(
    here: Path, write_toml: Any, refused: Any, command: list[str]
) -> None:
    write_toml(here, strategy={"name": "local"})
    with only_user(here / "held"):
        line = refused(*command, "tiny.toml", "--out", "held")
    assert "another process" in line

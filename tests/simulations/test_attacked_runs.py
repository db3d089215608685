"""Runs with malicious clients: what is reported, kept and refused, on every engine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fedkt.errors import ConfigError, RunFailedError
from fedkt.simulations.experiment import config, references
from fedkt.simulations.report.pages import write_run_report
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.local_baseline import local_twin
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute

FEDMD = {"name": "fedmd", "local_epochs": 1, "distil_epochs": 1}
FIVE = {"models": ["mlp", "linear"], "data__clients": 5}


# --- what is reported ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Path:
    """Return the folder of an attacked run with its baseline; not to be changed."""
    folder = tmp_path_factory.mktemp("attacked")
    plan = prepare(tiny(strategy=FEDMD, **FIVE, attack="wrong:2"))
    execute(prepare(local_twin(plan)), folder / "baseline", label="local")
    execute(plan, folder, label="fedmd", baseline=folder / "baseline")
    return folder


def test_results_are_over_the_honest_clients(attacked: Path) -> None:
    local = read_rounds(attacked / "baseline")
    for row, alone in zip(read_rounds(attacked), local, strict=True):
        assert row["participants"] == [0, 1, 2, 3, 4]
        assert row["failures"] == []
        for name in ("personalised_accuracy", "global_accuracy", "validation_accuracy"):
            for figure in (row[name], alone[name]):
                values = figure["per_client"]
                assert values[:2] == [None, None]
                known = [v for v in values[2:] if v is not None]
                assert known
                assert math.isclose(figure["mean"], sum(known) / len(known))
        pairs = list(
            zip(
                row["personalised_accuracy"]["per_client"][2:],
                alone["personalised_accuracy"]["per_client"][2:],
                strict=True,
            )
        )
        assert row["negative_transfer"] == sum(a < b for a, b in pairs) / 3
    last = read_rounds(attacked)[-1]
    summary = json.loads((attacked / "summary.json").read_text(encoding="utf-8"))
    assert summary["last"]["global_accuracy"] == last["global_accuracy"]["mean"]


def test_the_report_says_who_lied(attacked: Path) -> None:
    page = write_run_report(attacked).read_text(encoding="utf-8")
    assert "wrong × 2 (clients 0–1); results over the honest clients" in page


def test_a_comparison_says_who_lied(here: Path, fedkt: Any, write_toml: Any) -> None:
    toml = write_toml(here, strategy={"local_epochs": 1}, rounds=1, compare={"seeds": 1})
    options = ["--strategies", "local,fedmd", "--attack", "on-off:1", "--out", "cmp"]
    answer = fedkt("compare", toml, *options)
    assert (answer.code, answer.err) == (0, "")
    said = "on-off × 1 (client 0); results over the honest clients"
    assert f"Attack: {said}" in " ".join(answer.out.split())
    assert said in fedkt("report", "cmp", "--markdown").out
    for run in ("local-seed0", "fedmd-seed0"):
        (row,) = read_rounds(here / "cmp" / "runs" / run)
        values = row["global_accuracy"]["per_client"]
        assert [v is None for v in values] == [True, False, False]


def test_the_resolved_attack_can_be_run_again(attacked: Path, tiny: Any, tmp_path: Path) -> None:
    again = config.parse(config.load(attacked / "config.toml"))
    assert again.attack is not None
    assert (again.attack.kind, again.attack.clients) == ("wrong", 2)
    plan = prepare(tiny(attack="flip:1"))
    assert plan.experiment.attack is not None
    assert plan.experiment.attack.options == {"source": 3, "target": 8}
    config.save(tmp_path / "c.toml", plan.experiment)
    assert config.parse(config.load(tmp_path / "c.toml")) == plan.experiment


def test_text_and_table_mean_the_same(tiny: Any) -> None:
    table = tiny(attack={"kind": "wrong", "clients": 2})
    assert tiny(attack="wrong:2") == table
    assert tiny(attack="none") == tiny()
    assert references.read_attack("my/file.py:function:2") == {
        "kind": "my/file.py:function", "clients": 2,
    }  # fmt: skip


# --- stopping and other engines --------------------------------------------------------------

HARD = {
    **FIVE,
    "rounds": 4,
    "strategy": {**FEDMD, "form": "probabilities", "public_samples": 25},
    "run__participation": 0.8,
}


@pytest.mark.parametrize("kind", ["replay", "adaptive-flip", "silent"])
def test_a_stopped_run_goes_on_to_the_same_end(
    tmp_path: Path, tiny: Any, figures: Any, final_state: Any, kind: str, stop_after: Any
) -> None:
    plan = prepare(tiny(**HARD, attack=f"{kind}:2"))
    execute(plan, tmp_path / "whole", label="x")
    for after in (1, 3):
        folder = tmp_path / f"stop{after}"
        with pytest.raises(KeyboardInterrupt):
            execute(plan, folder, label="x", progress=stop_after(after))
        execute(plan, folder, label="x")
        assert figures(folder) == figures(tmp_path / "whole")
        assert final_state(folder) == final_state(tmp_path / "whole")
    if kind != "silent":
        plain = prepare(tiny(**HARD))
        execute(plain, tmp_path / "plain", label="x")
        assert figures(tmp_path / "plain") != figures(tmp_path / "whole")


@pytest.mark.ray
def test_ray_gives_the_same_bits(tmp_path: Path, tiny: Any, figures: Any, final_state: Any) -> None:
    from fedkt.simulations.engines.ray_session import session

    with session(2):
        for kind in ("adaptive-flip", "mimic-noisy", "silent"):
            for grid in ("ray", "in-process"):
                plan = prepare(tiny(**HARD, attack=f"{kind}:2", run__grid=grid, run__workers=2))
                execute(plan, tmp_path / kind / grid, label="x")
            there, here = tmp_path / kind / "ray", tmp_path / kind / "in-process"
            assert figures(there) == figures(here)
            assert final_state(there) == final_state(here)


@pytest.mark.flower
def test_flowers_engine_gives_the_same_bits(
    tmp_path: Path, tiny: Any, figures: Any, final_state: Any
) -> None:
    for grid in ("flower", "in-process"):
        run = {"run__grid": grid, "run__workers": 1, "run__executor": "loop"}
        plan = prepare(tiny(**HARD, attack="adaptive-flip:2", **run))
        execute(plan, tmp_path / grid, label="x")
    assert figures(tmp_path / "flower") == figures(tmp_path / "in-process")
    assert final_state(tmp_path / "flower") == final_state(tmp_path / "in-process")


# --- what is refused -------------------------------------------------------------------------

OWN = """
def shy(view, after: int = 1):
    return view.own if view.round <= after else None

def narrow(view):
    return view.own[:, :-1]

def breaking(view):
    if view.round > 1:
        raise RuntimeError("out\\nof ideas")
    return view.own

nothing = 3
"""


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        ("mine.py:narrow:1", r"mine\.py:narrow: returned \[10, 9\]"),
        ("mine.py:nothing:1", "mine.py:nothing is not an attack"),
        ("mine.py:shi:1", "Did you mean 'shy'"),
        ({"kind": "mine.py:shy", "clients": 1, "after": "x"}, r"attack\.after = 'x'"),
    ],
)
def test_an_attack_that_does_not_fit_is_refused(
    here: Path, tiny: Any, attack: Any, named: str
) -> None:
    (here / "mine.py").write_text(OWN, encoding="utf-8")
    with pytest.raises(ConfigError, match=named):
        prepare(tiny(strategy=FEDMD, attack=attack))


def test_an_attack_that_breaks_stops_the_run(here: Path, tiny: Any) -> None:
    (here / "mine.py").write_text(OWN, encoding="utf-8")
    plan = prepare(tiny(strategy=FEDMD, attack="mine.py:breaking:1"))
    line = r"breaking, round 2, client 0: RuntimeError: out of ideas$"
    with pytest.raises(RunFailedError, match=line):
        execute(plan, here / "run", label="x")


@pytest.mark.parametrize("name", ["fedavg", "fedprox"])
def test_weights_are_not_lied_in(tiny: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=f"answers on the public set.*{name} shares weights"):
        prepare(tiny(strategy={"name": name}, models=["mlp"], attack="wrong:1"))


def test_local_training_has_nothing_to_lie_in(tiny: Any, tmp_path: Path, figures: Any) -> None:
    same = {"strategy": {"name": "local", "local_epochs": 1}}
    execute(prepare(tiny(**same, attack="wrong:1")), tmp_path / "lying", label="x")
    execute(prepare(tiny(**same)), tmp_path / "plain", label="x")
    for one, other in zip(figures(tmp_path / "lying"), figures(tmp_path / "plain"), strict=True):
        for name in ("personalised_accuracy", "global_accuracy", "validation_accuracy"):
            assert one[name]["per_client"] == [None, *other[name]["per_client"][1:]]

"""The leakage diagnostic in whole runs: in the file, in the figure, in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedkt.simulations.records import read_rounds
from fedkt.simulations.results import load_run


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, fedkt: Any, write_toml: Any) -> Path:
    here = tmp_path_factory.mktemp("leakage")
    strategies = ["local", "fedavg", "fedmd(form=probabilities)", "knfu", "fedpf"]
    toml = write_toml(
        here, models=["linear"], strategy={"local_epochs": 3}, rounds=3,
        data__samples_per_client=60, data__clients=5, data__partition="dirichlet:0.2",
        compare={"strategies": strategies, "seeds": 1},
    )  # fmt: skip
    answer = fedkt("compare", toml, "--out", here / "out")
    assert answer.code == 0, answer.err
    return here / "out"


@pytest.mark.parametrize("label", ["fedmd-form=probabilities", "knfu", "fedpf"])
def test_every_round_tells_what_answers_give_away(compared: Path, label: str) -> None:
    rows = read_rounds(compared / "runs" / f"{label}-seed0")
    for row in rows:
        found = row["leakage"]
        assert len(found["correlation"]["per_client"]) == 5
        assert all(-1 <= v <= 1 for v in found["correlation"]["per_client"] if v is not None)
        assert all(0 <= v <= 1 for v in found["total_variation"]["per_client"])
        assert 0 < found["total_variation_uniform"] <= 0.9
    run = load_run(compared / "runs" / f"{label}-seed0")
    assert run.leakage("total_variation") == (
        [1, 2, 3], [row["leakage"]["total_variation"]["mean"] for row in rows]
    )  # fmt: skip


def test_plain_answers_follow_the_label_histogram(compared: Path) -> None:
    first = read_rounds(compared / "runs" / "fedmd-form=probabilities-seed0")[0]["leakage"]
    assert first["correlation"]["mean"] > 0.5, "models of skewed clients answer what they have seen"
    assert first["total_variation"]["mean"] < first["total_variation_uniform"]


@pytest.mark.parametrize("label", ["local", "fedavg"])
def test_nothing_to_say_where_no_answers_are_shared(compared: Path, label: str) -> None:
    assert {row["leakage"] for row in read_rounds(compared / "runs" / f"{label}-seed0")} == {None}


def test_the_reports_show_it(compared: Path, fedkt: Any) -> None:
    assert (compared / "figures" / "leakage.png").stat().st_size > 10_000
    assert "one weak attack" in (compared / "report.html").read_text()
    run = compared / "runs" / "fedpf-seed0"
    assert fedkt("report", run).code == 0
    assert (run / "figures" / "leakage.png").is_file()
    alone = compared / "runs" / "local-seed0"
    assert fedkt("report", alone).code == 0
    assert not (alone / "figures" / "leakage.png").exists()


def test_liars_are_left_out(tmp_path: Path, fedkt: Any, write_toml: Any) -> None:
    toml = write_toml(tmp_path, rounds=1, strategy={"name": "fedmd", "local_epochs": 1})
    options = ["--clients", 4, "--attack", "wrong:2", "--out", tmp_path / "out"]
    assert fedkt("simulate", toml, *options).code == 0
    (row,) = read_rounds(tmp_path / "out")
    lists = [row["leakage"][key]["per_client"] for key in ("correlation", "total_variation")]
    assert all(one[:2] == [None, None] and None not in one[2:] for one in lists)

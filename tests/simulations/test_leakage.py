"""The leakage diagnostic in whole runs: in the file, in the figure, in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkt.errors import ConfigError
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.results.run_folder import load_run
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, fedkt: Any, write_toml: Any) -> Path:
    here = tmp_path_factory.mktemp("leakage")
    strategies = ["local", "fedavg", "fedmd(form=probabilities)", "knfu", "fedpf"]
    toml = write_toml(
        here, models=["linear"], strategy={"local_epochs": 3}, rounds=3, data__clients=5,
        data__samples_per_client=60, data__partition="dirichlet:0.2",
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
    told = [row["leakage"]["total_variation"] for row in rows]
    assert run.series("leakage.total_variation") == (
        [1, 2, 3], [one["mean"] for one in told], [one["std"] for one in told]
    )  # fmt: skip


def test_plain_answers_follow_the_label_histogram(compared: Path) -> None:
    first = read_rounds(compared / "runs" / "fedmd-form=probabilities-seed0")[0]["leakage"]
    assert first["correlation"]["mean"] > 0.5, "models of skewed clients answer what they have seen"
    assert first["total_variation"]["mean"] < first["total_variation_uniform"]


def test_answers_free_of_the_prior_give_away_less(compared: Path) -> None:
    """What fedpf is for: its uploads speak of p(x | y), not of the client's p(y)."""
    plain, free = (
        read_rounds(compared / "runs" / f"{label}-seed0")[0]["leakage"]
        for label in ("fedmd-form=probabilities", "fedpf")
    )
    assert free["correlation"]["mean"] < plain["correlation"]["mean"]
    assert free["total_variation"]["mean"] > plain["total_variation"]["mean"]
    assert free["total_variation_uniform"] == plain["total_variation_uniform"], "the same clients"


def test_the_truth_is_the_training_labels(compared: Path) -> None:
    """The uniform guess needs no run: ½ Σ_c |1/C − n_c/n|, from the described federation."""
    home = compared / "runs" / "knfu-seed0"
    counts = np.array(load_run(home).federation["label_counts"], float)
    truth = counts / counts.sum(1, keepdims=True)
    expected = 0.5 * np.abs(truth - 1 / truth.shape[1]).sum(1).mean()
    for row in read_rounds(home):
        assert row["leakage"]["total_variation_uniform"] == pytest.approx(expected)


def test_only_participants_tell(tmp_path: Path, tiny: Any) -> None:
    plan = prepare(tiny(run__participation=0.4, data__clients=5, rounds=3))
    execute(plan, tmp_path, label="knfu")
    for row in read_rounds(tmp_path):
        told = row["leakage"]["total_variation"]["per_client"]
        assert [c for c, value in enumerate(told) if value is not None] == row["participants"]


def test_a_resumed_run_tells_the_same(
    tmp_path: Path, tiny: Any, figures: Any, stop_after: Any
) -> None:
    plan = prepare(tiny(rounds=3))
    execute(plan, tmp_path / "whole", label="knfu")
    with pytest.raises(KeyboardInterrupt):
        execute(plan, tmp_path / "stopped", label="knfu", progress=stop_after(1))
    assert len(read_rounds(tmp_path / "stopped")) == 1
    execute(plan, tmp_path / "stopped", label="knfu")
    whole = [row["leakage"] for row in figures(tmp_path / "whole")]
    assert len(whole) == 3
    assert None not in whole
    assert [row["leakage"] for row in figures(tmp_path / "stopped")] == whole


@pytest.mark.parametrize("label", ["local", "fedavg"])
def test_nothing_to_say_where_no_answers_are_shared(compared: Path, label: str) -> None:
    assert {row["leakage"] for row in read_rounds(compared / "runs" / f"{label}-seed0")} == {None}


def test_the_reports_show_it(compared: Path, fedkt: Any) -> None:
    assert (compared / "figures" / "leakage.png").stat().st_size > 10_000
    page = (compared / "report.html").read_text(encoding="utf-8")
    assert "one weak attack" in page
    assert "standard deviation over seeds either side" in page
    run = compared / "runs" / "fedpf-seed0"
    assert fedkt("report", run).code == 0
    assert (run / "figures" / "leakage.png").is_file()
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "one weak attack" in page
    assert "standard deviation over clients either side" in page
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


def test_damage_is_named(tmp_path: Path, tiny: Any) -> None:
    execute(prepare(tiny()), tmp_path, label="knfu")
    log = tmp_path / "rounds.jsonl"
    rows = [row | {"leakage": 0.3} for row in read_rounds(tmp_path)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(ConfigError, match="line 1: leakage is not an object"):
        load_run(tmp_path)

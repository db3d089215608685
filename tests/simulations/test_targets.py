"""Domain adaptation through the command line: settings, report, every domain left out."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkt.errors import ConfigError
from fedkt.simulations.experiment.cells import cells_of, settled, slug
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.comparison import plan_parts
from fedkt.simulations.runs.plan import prepare

FOUR = ["digits-plain", "digits-inverted", "digits-rotated", "digits-blurred"]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def adaptation(tiny: Any, target: str = "each", **changed: Any) -> Any:
    data = {"data__domains": FOUR, "data__target": target, "data__samples_per_client": 20}
    data["strategy"] = {"name": "fedavg"}
    return tiny(**{**data, "compare": {"strategies": ["local", "fedavg"], "seeds": 1}, **changed})


def write_speakers(folder: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (240, 4, 4), dtype=np.uint8)
    y, speaker = np.arange(240) % 4, np.arange(240) // 4 % 3
    np.savez(
        folder / "voices",
        x_train=x[:180],
        y_train=y[:180],
        x_test=x[180:],
        y_test=y[180:],
        client_train=speaker[:180],
        client_test=speaker[180:],
        client_names=np.array(["ann", "bob", "cy"]),
    )


# --- one target ----------------------------------------------------------------------------


@pytest.mark.parametrize("transductive", [False, True])
def test_a_run_with_a_target(
    fedkt: Any, here: Path, write_toml: Any, figures: Any, transductive: bool
) -> None:
    file = write_toml(
        here,
        data__domains=FOUR,
        data__test_samples=0 if transductive else 60,
        data__transductive=transductive,
        strategy__name="fedmd",
        models=["mlp"],
    )
    answer = fedkt("simulate", file, "--set", "data.target=digits-rotated", "--out", "run")
    assert answer.code == 0, answer.err
    written = tomllib.loads((here / "run" / "config.toml").read_text(encoding="utf-8"))
    assert written["data"]["target"] == "digits-rotated"
    federation = json.loads((here / "run" / "federation.json").read_text(encoding="utf-8"))
    assert federation["target"] == "digits-rotated"
    assert federation["transductive"] is transductive
    assert federation["domains"] == [name for name in FOUR if name != "digits-rotated"]
    assert (federation["public"], federation["common_test"]) == (40, 40 if transductive else 60)
    summary = json.loads((here / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["transductive"] is transductive
    assert any(n.startswith("transductive:") for n in summary["notes"]) is transductive
    page = (here / "run" / "report.html").read_text(encoding="utf-8")
    assert "<dt>Target<" in page
    assert "digits-rotated, unlabelled; " in page
    assert "Target accuracy (%)" in page
    assert f"<td>{100 * summary['last']['target_accuracy']:.2f}</td>" in page
    assert ("The method is transductive" in page) is transductive
    last = read_rounds(here / "run")[-1]
    assert last["personalised_accuracy"]["mean"] != last["global_accuracy"]["mean"]

    again = fedkt("simulate", "run/config.toml", "--out", "again")
    assert again.code == 0, again.err
    assert figures(here / "again") == figures(here / "run")


def test_matched_accuracy_needs_test_samples_of_the_clients_domains(tiny: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"'matched' and data\.target is 'digits-plain'"
    ) as caught:
        prepare(adaptation(tiny, "digits-plain", run__personalised="matched"))
    assert "\n" not in str(caught.value)


def test_a_target_in_a_file_of_the_users(here: Path, tiny: Any) -> None:
    (here / "own.py").write_text(
        "import numpy as np\nfrom fedkt.data import Dataset\n"
        "def bright():\n"
        "    x = np.random.default_rng(0).integers(100, 256, (80, 8, 8), dtype=np.uint8)\n"
        "    return Dataset('bright', x, np.arange(80) % 10, x[:20], np.arange(20) % 10)\n",
        encoding="utf-8",
    )
    for target in ("own.py:bright", "bright"):
        experiment = tiny(
            data__domains=["digits", "own.py:bright"],
            data__target=target,
            data__test_samples=20,
        )
        plan = prepare(experiment)
        assert plan.federation.target == "bright"
        assert prepare(plan.experiment).federation.target == "bright"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["data.target=each"], "which only fedkt compare does; else name one of digits-plain"),
        (["data.target=digits-rotatd"], "Did you mean 'digits-rotated'?"),
        (["data.transductive=true"], "transductive is true, but there is no target"),
        (["data.target=digits-plain", "data.clients=2"], "3 source domains need at least 3"),
        (["data.features=standardize"], "Did you mean 'standardise'?"),
        (["data.transductiv=true"], "Did you mean 'transductive'?"),
    ],
)
def test_mistakes_are_told_in_one_line(
    fedkt: Any, here: Path, options: list[str], words: str
) -> None:
    sets = [word for option in options for word in ("--set", option)]
    answer = fedkt("simulate", "--set", f"data.domains={json.dumps(FOUR)}", *sets)
    assert answer.code == 2
    assert words in answer.err
    assert answer.err.count("\n") == 1


# --- each domain in turn -------------------------------------------------------------------


def test_each_makes_a_cell_of_every_domain(tiny: Any, tmp_path: Path) -> None:
    cells = cells_of(adaptation(tiny))
    assert [cell.name for cell in cells] == [f"→ {name}" for name in FOUR]
    assert [cell.experiment.data.target for cell in cells] == FOUR
    assert [cell.folder(tmp_path).name for cell in cells] == FOUR
    assert not any(cell.experiment.compare.cells for cell in cells)


def test_cells_are_expanded_one_by_one(tiny: Any, tmp_path: Path) -> None:
    write_speakers(tmp_path)
    data = {"data_dir": str(tmp_path), "domains": ["voices/*"], "target": "each"}
    entries = [
        {"name": "fixed", "data": {"domains": FOUR, "target": "digits-plain"}},
        {
            "name": "voices",
            "data": data,
            "axes": [[{"name": "one", "rounds": 1}, {"name": "two", "rounds": 2}]],
        },
    ]
    experiment = tiny(compare={"strategies": ["local"], "cells": entries})
    cells = {cell.name: cell.experiment for cell in cells_of(experiment)}
    expected = [f"voices {n} → {who}" for n in ("one", "two") for who in ("ann", "bob", "cy")]
    assert list(cells) == ["fixed", *expected]
    assert len({slug(name) for name in cells}) == 7
    last = cells["voices two → cy"]
    assert (last.rounds, last.data.target) == (2, "voices/cy")
    assert last.data.domains == ("voices/ann", "voices/bob", "voices/cy")

    explicit = settled(experiment)
    assert settled(explicit) == explicit
    (tmp_path / "voices.npz").unlink()
    assert {cell.name: cell.experiment for cell in cells_of(explicit)} == cells


def test_what_has_no_target_is_left_as_it_is(tiny: Any) -> None:
    for target in (None, "digits-plain"):
        experiment = adaptation(tiny, target)
        assert settled(experiment) is experiment
        (only,) = cells_of(experiment)
        assert only.name == ""


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data__domains": []}, "data.domains has 0; at least 2"),
        ({"data__domains": ["digits"]}, "data.domains has 1; at least 2"),
        ({"data__domains": ["digits/*", "digits"]}, "digits has no domain column"),
        ({"data__domains": ["x y", "x-y"]}, "'→ x-y' is there twice"),
        ({"data__domains": ["é", "b"]}, "every cell needs a name"),
        ({"run__personalised": "matched"}, "→ digits-plain: run.personalised is 'matched'"),
    ],
)
def test_each_that_cannot_be(tiny: Any, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_parts(adaptation(tiny, **changed))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_domain_left_out_in_turn(
    fedkt: Any, here: Path, write_toml: Any, no_report: None
) -> None:
    write_speakers(here)
    file = write_toml(
        here,
        rounds=1,
        data={"domains": ["voices/*"], "data_dir": ".", "clients": 2, "target": "each"},
        models=["linear"],
        strategy={},
        compare={"strategies": ["local", "fedavg"], "seeds": 1},
    )
    answer = fedkt("compare", file, "--out", "out")
    assert answer.code == 0, answer.err
    for name in ("ann", "bob", "cy"):
        run = here / "out" / "cells" / name / "runs" / "fedavg-seed0"
        assert (
            json.loads((run / "federation.json").read_text(encoding="utf-8"))["target"]
            == f"voices/{name}"
        )
    table = (here / "out" / "cells.csv").read_text(encoding="utf-8")
    assert table.count("→ bob") == 2
    again = fedkt("compare", file, "--out", "out", "--resume")
    assert again.code == 0, again.err
    (here / "voices.npz").unlink()
    report = fedkt("report", "out")
    assert report.code == 0, report.err


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no data sets in {SHARED.name} beside the project")
def test_four_hospitals_with_missing_values(fedkt: Any, here: Path, no_report: None) -> None:
    options = ["--data-dir", SHARED, "--clients", 4, "--rounds", 1, "--models", "mlp"]
    sets = ["--set", 'data.domains=["heart4/*"]', "--set", "run.grid=in-process"]
    common = ["simulate", "--strategy", "fedavg", *options, *sets]
    answer = fedkt(*common, "--set", "data.features=standardise", "--out", "run")
    assert answer.code == 0, answer.err
    federation = json.loads((here / "run" / "federation.json").read_text(encoding="utf-8"))
    names = ("cleveland", "hungarian", "switzerland", "va")
    assert federation["domains"] == [f"heart4/{name}" for name in names]
    refused = fedkt(*common, "--out", "gaps")
    assert refused.code == 2
    assert 'data.scale = "standardise" fills them with means' in refused.err


# --- what does not fit ---------------------------------------------------------------------


SMALL = """
rounds = 1
models = ["mlp"]
[data]
clients = {clients}
public_samples = 3
samples_per_client = 20
{data}
[run]
grid = "in-process"
"""
TWO = f"domains = {json.dumps(FOUR[:2])}\ntarget = {json.dumps(FOUR[0])}"


def small(folder: Path, data: str = "", clients: int = 1) -> str:
    (folder / "small.toml").write_text(SMALL.format(data=data, clients=clients), encoding="utf-8")
    return "small.toml"


def fitting(tiny: Any, strategy: dict[str, Any], **changed: Any) -> Any:
    return adaptation(tiny, "digits-plain", strategy=strategy, **{"models": ["mlp"], **changed})


@pytest.mark.parametrize(
    ("strategy", "changed", "words"),
    [
        ({"name": "fedmd", "transfer_epochs": 1}, {}, "trains on labels of the public set"),
        ({"name": "fedka"}, {"data__public_samples": 1}, "there are 1; it needs at least 2"),
        ({"name": "f-dann"}, {"data__public_samples": 1}, "there are 1; it needs at least 2"),
        ({"name": "fedka"}, {"models": ["forest"]}, "needs a network as model"),
        ({"name": "fedka"}, {"rounds": 3, "schedule_rounds": 2}, "schedule_rounds is 2, less than"),
        ({"name": "fedka-free"}, {"server_model": "forest"}, "'forest' is no network"),
        ({"name": "fedka-free"}, {"server_model": "mpl"}, "Unknown model 'mpl'"),
        (
            {"name": "fedka-free", "server_epochs": -1},
            {},
            "server_epochs = -1 .*: must be .* at least 0",
        ),
        (
            {"name": "fedka", "voting_epochs": -1},
            {},
            "voting_epochs = -1 .*: must be .* at least 0",
        ),
        ({"name": "fedka", "fourier_features": 11}, {}, "fourier_features must be even"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_run(
    tiny: Any, strategy: dict[str, Any], changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        prepare(fitting(tiny, strategy, **changed))
    assert "\n" not in str(caught.value)


def test_styles_of_vectors_are_refused_before_the_run(here: Path, tiny: Any) -> None:
    (here / "own.py").write_text(
        "import numpy as np\nfrom fedkt.data import Dataset\n"
        "def rows():\n"
        "    x = np.random.default_rng(0).random((200, 6), dtype=np.float32)\n"
        "    return Dataset('rows', x, np.arange(200) % 3, x[:80], np.arange(80) % 3)\n",
        encoding="utf-8",
    )
    experiment = tiny(data__dataset="own.py:rows", strategy={"name": "ccst"}, models=["mlp"])
    with pytest.raises(ConfigError, match=r"ccst cannot run on rows: .* styles of images"):
        prepare(experiment)


@pytest.mark.parametrize("name", ["fedka", "kd3a", "fedavg", "f-coral"])
def test_a_target_smaller_than_a_batch(name: str, fedkt: Any, here: Path) -> None:
    """And with one source and one client alone."""
    answer = fedkt("simulate", small(here, TWO), "--strategy", name, "--out", "run")
    assert answer.code == 0, answer.err
    assert "on the target" in answer.out
    row = read_rounds(here / "run")[-1]
    assert not row["failures"]
    summary = json.loads((here / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["adapts"] is (name != "fedavg")
    assert summary["transductive"] is False


def test_a_method_that_adapts_on_nothing_is_not_called_transductive(fedkt: Any, here: Path) -> None:
    file = small(here, f"{TWO}\ntransductive = true")
    answer = fedkt("simulate", file, "--strategy", "fedavg", "--out", "run")
    assert answer.code == 0, answer.err
    assert (
        json.loads((here / "run" / "summary.json").read_text(encoding="utf-8"))["transductive"]
        is False
    )
    assert "The method is transductive" not in (here / "run" / "report.html").read_text(
        encoding="utf-8"
    )


def test_a_run_planned_by_progress_cannot_be_made_longer(fedkt: Any, here: Path) -> None:
    run = ["simulate", small(here), "--strategy", "fedka", "--out", "run"]
    assert fedkt(*run).code == 0
    answer = fedkt(*run, "--rounds", "2", "--resume")
    assert answer.code == 2
    assert "was planned for 1 rounds; what fedka does in a round depends on that" in answer.err


def test_source_only_is_a_baseline(tiny: Any) -> None:
    strategies = ["source-only", "fedavg(local_epochs=1)"]
    compared = {"compare": {"strategies": strategies, "seeds": 1}, "models": ["mlp"]}
    jobs = plan_parts(adaptation(tiny, FOUR[0], **compared))
    assert [job.label for job in jobs[0].jobs] == strategies
    assert jobs[0].jobs[1].baseline == "source-only-seed0"


def test_unequal_budgets_are_told(fedkt: Any, here: Path) -> None:
    file = small(here, clients=2)
    options = ["--strategies", "fedavg(local_epochs=2),source-only", "--seeds", "1"]
    answer = fedkt("compare", file, *options, "--out", "both")
    assert answer.code == 0, answer.err
    told = "differs (1 epochs: source-only; 2 epochs: fedavg(local_epochs=2))"
    assert told in answer.out

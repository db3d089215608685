from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedkt.errors import ConfigError
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.experiment.references import read_entry
from fedkt.simulations.runs import comparison as compare_
from fedkt.simulations.runs.comparison import entries_of, plan_jobs, slug

HEADER = (
    "strategy,seed,personalised_accuracy,global_accuracy,server_accuracy,"
    "worst_decile,personalised_std,negative_transfer,bytes_up,bytes_down,seconds"
)
USER_STRATEGIES = """
from fedkt.errors import RunFailedError
from fedkt.strategies.answers.knfu import KnFu

class Mine(KnFu):
    '''A method of the user's.'''
    name = "mine"

    def __init__(self, beta: float = 1.0, local_epochs: int = 1):
        super().__init__(beta=beta, local_epochs=local_epochs, distil_epochs=1)

class Gone(Mine):
    '''All its clients fail.'''
    name = "gone"

    def fuse(self, uploads):
        raise RunFailedError("gone, round 1: every client failed to learn")

class Buggy(Mine):
    '''Has a bug of its author's.'''
    name = "buggy"

    def fuse(self, uploads):
        return 1 / 0
"""


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "comparison.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- planning --------------------------------------------------------------------------------


def labels(tiny: Any, *strategies: str, **changes: Any) -> list[tuple[str, int, str | None]]:
    changes.setdefault("strategy", {"local_epochs": 1})
    experiment = tiny(compare={"strategies": list(strategies), "seeds": 2}, **changes)
    return [(j.label, j.seed, j.baseline) for j in plan_jobs(experiment)]


def test_every_baseline_comes_before_those_that_need_it(tiny: Any) -> None:
    jobs = labels(tiny, "knfu", "fedmd", "local", models=["linear"], seed=5)
    assert [(label, seed) for label, seed, _ in jobs] == [
        ("local", 5), ("knfu", 5), ("fedmd", 5), ("local", 6), ("knfu", 6), ("fedmd", 6)
    ]  # fmt: skip
    for label, seed, baseline in jobs:
        assert baseline == (None if label == "local" else f"local-seed{seed}")


def test_other_budgets_and_models_get_baselines_of_their_own(tiny: Any) -> None:
    jobs = labels(tiny, "local", "knfu", "knfu(local_epochs=2)", "fedavg")
    seen = set()
    for label, seed, baseline in jobs:
        assert baseline is None or baseline in seen, "planned before it is needed"
        seen.add(f"{slug(label)}-seed{seed}")
    needed = {label: baseline for label, seed, baseline in jobs if seed == 0}
    assert needed["knfu"] == "local-seed0"
    assert needed["knfu(local_epochs=2)"] == "local-2-epochs-seed0"
    assert needed["fedavg"] == "local-linear-1-epochs-seed0", "alone with the same model"
    assert "local-linear (1 epochs)" in needed


def test_without_local_the_baseline_runs_all_the_same(tiny: Any) -> None:
    jobs = labels(tiny, "knfu")
    assert jobs[0] == ("local (1 epochs)", 0, None)
    assert jobs[1] == ("knfu", 0, "local-1-epochs-seed0")


def test_shared_hyper_parameters_go_where_they_fit(tiny: Any) -> None:
    common = {"name": "knfu", "local_epochs": 2, "beta": 3.0}
    strategies = ["local", "knfu", "knfu(beta=0.5)"]
    experiment = tiny(strategy=common, compare={"strategies": strategies})
    sections = {e.label: dict(e.section) for e in entries_of(experiment)}
    assert sections == {
        "local": {"name": "local", "local_epochs": 2},
        "knfu": {"name": "knfu", "local_epochs": 2, "beta": 3.0},
        "knfu(beta=0.5)": {"name": "knfu", "local_epochs": 2, "beta": 0.5},
    }


@pytest.mark.parametrize(
    ("strategies", "common", "message"),
    [
        ([], {}, "name the strategies"),
        (["knfu", "local", "knfu"], {}, "knfu is named twice"),
        (["knfu(beta=1)", "knfu( beta = 1 )"], {}, "named twice"),
        (["my way = knfu", "my-way = fedmd"], {}, "my-way is named twice"),
        (["a = knfu", "a = fedmd"], {}, "a is named twice"),
        (["local = knfu"], {}, "after local training"),
        (["local-2 = knfu"], {}, "after local training"),
        (["fedmd = knfu"], {}, "'fedmd' is the name of another strategy"),
        (["= knfu"], {}, "write LABEL = NAME"),
        (["a ="], {}, "write LABEL = NAME"),
        (["a) = knfu"], {}, "no parentheses"),
        (["... = knfu"], {}, "use letters or digits"),
        (["a = knf"], {}, "Did you mean 'knfu'"),
        (["local"], {"beta": 1.0}, "'beta'"),
        (["local", "knfu"], {"bta": 1.0}, "'bta'. Did you mean 'beta'?"),
    ],
)
def test_what_cannot_be_compared(
    tiny: Any, strategies: list[str], common: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        entries_of(tiny(strategy=common, compare={"strategies": strategies}))


def test_a_strategy_may_be_given_a_name(tiny: Any) -> None:
    strategies = ["local", "sharp = knfu(beta=9.0)", "knfu(beta=2.0)", "twice=local(times=2)",
                  "local = local"]  # fmt: skip
    experiment = tiny(strategy={}, compare={"strategies": strategies[:4], "seeds": 1})
    sections = {e.label: dict(e.section) for e in entries_of(experiment)}
    assert sections == {
        "local": {"name": "local"},
        "sharp": {"name": "knfu", "beta": 9.0},
        "knfu(beta=2.0)": {"name": "knfu", "beta": 2.0},
        "twice": {"name": "local", "times": 2},
    }
    folders = {job.label: job.folder for job in plan_jobs(experiment)}
    assert folders["sharp"] == "sharp-seed0"
    (own,) = entries_of(tiny(strategy={}, compare={"strategies": strategies[4:]}))
    assert own.label == "local"


@pytest.mark.parametrize(
    ("text", "label", "reference"),
    [
        ("knfu", None, "knfu"),
        ("knfu(beta=2)", None, "knfu(beta=2)"),
        ("  a b =knfu(beta=2, temperature=3)", "a b", "knfu(beta=2, temperature=3)"),
        ("mine = some/file.py:Mine", "mine", "some/file.py:Mine"),
        ("/tmp/a=b/file.py:Mine", None, "/tmp/a=b/file.py:Mine"),
    ],
)
def test_a_label_ends_at_an_equals_sign(text: str, label: str | None, reference: str) -> None:
    assert read_entry(text) == (label, reference)


def test_labels_become_different_folders(tiny: Any) -> None:
    jobs = plan_jobs(tiny(
        strategy={}, compare={"strategies": ["knfu", "knfu(beta=1)", "knfu(beta=-0)"]}
    ))  # fmt: skip
    folders = [j.folder for j in jobs]
    assert len(set(folders)) == len(folders)
    assert not any(set(f) & set('/\\:*?"<>| ()') for f in folders)


# --- running ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, fedkt: Any, write_toml: Any) -> Any:
    """Return the answer of a finished comparison, and its folder."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "mine.py").write_text(USER_STRATEGIES, encoding="utf-8")
    toml = write_toml(folder, strategy={"local_epochs": 1})
    mine = f"{folder}/mine.py:Mine"
    strategies = f"fedavg,local,knfu(beta=0.5, distil_epochs=1),{mine},own = {mine}(beta=3)"
    options = ["--strategies", strategies, "--seeds", 2, "--seed", 3, "--out", folder / "cmp"]
    answer = fedkt("compare", toml, *options)
    assert answer.code == 0, answer.err
    return answer, folder / "cmp"


def test_one_row_a_strategy_and_seed(finished: Any) -> None:
    _, folder = finished
    assert (folder / "comparison.csv").read_text(encoding="utf-8").splitlines()[0] == HEADER
    rows = rows_of(folder)
    knfu = "knfu(beta=0.5, distil_epochs=1)"
    assert [(r["strategy"], r["seed"]) for r in rows] == [
        (label, seed) for label in ("fedavg", "local", knfu, "mine", "own") for seed in ("3", "4")
    ]
    for row in rows:
        assert 0 <= float(row["personalised_accuracy"]) <= 1
        assert 0 <= float(row["global_accuracy"]) <= 1
        assert float(row["seconds"]) > 0


def test_only_weight_methods_have_a_server_model(finished: Any) -> None:
    _, folder = finished
    for row in rows_of(folder):
        assert bool(row["server_accuracy"]) == (row["strategy"] == "fedavg")
        assert bool(row["negative_transfer"]) == (row["strategy"] != "local")


def test_bytes_follow_from_the_methods(finished: Any) -> None:
    _, folder = finished
    by = {row["strategy"]: row for row in rows_of(folder)}
    weights = 4 * (64 * 10 + 10)
    assert float(by["fedavg"]["bytes_up"]) == 2 * weights
    assert float(by["fedavg"]["bytes_down"]) == 3 * weights, "and the first weights"
    assert float(by["mine"]["bytes_up"]) == float(by["mine"]["bytes_down"]) == 2 * 4 * 40 * 10
    assert float(by["local"]["bytes_up"]) == float(by["local"]["bytes_down"]) == 0


def test_the_same_is_written_per_run(finished: Any) -> None:
    _, folder = finished
    for row in rows_of(folder):
        run = folder / "runs" / f"{slug(row['strategy'])}-seed{row['seed']}"
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        assert (summary["label"], str(summary["seed"])) == (row["strategy"], row["seed"])
        assert summary["last"]["personalised_accuracy"] == float(row["personalised_accuracy"])
        assert tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["seed"] == int(
            row["seed"]
        )
        assert len((run / "rounds.jsonl").read_text(encoding="utf-8").splitlines()) == 2
        assert list((run / "checkpoints").iterdir())
    marked = json.loads(
        (folder / "runs" / "fedavg-seed3" / "summary.json").read_text(encoding="utf-8")
    )
    assert marked["one_architecture"] == "linear"


def test_report_and_table(finished: Any, fedkt: Any) -> None:
    answer, folder = finished
    assert answer.out.splitlines()[-1] == f"Report: {folder}/report.html"
    page = (folder / "report.html").read_text(encoding="utf-8")
    for row in rows_of(folder):
        assert row["strategy"] in page
    assert list((folder / "figures").glob("*.png"))
    (folder / "report.html").unlink()
    again = fedkt("report", folder)
    assert (again.code, again.err) == (0, "")
    assert (folder / "report.html").is_file()


def test_the_printed_table_shows_every_label_and_figure(finished: Any) -> None:
    answer, folder = finished
    table = answer.out[answer.out.index("Accuracies after the last round") :]
    table = table[: table.index("Report: ")]
    assert "…" not in table
    for label in {row["strategy"] for row in rows_of(folder)}:
        assert label[:9] in table, "long labels may be folded"


def test_a_finished_comparison_is_kept(finished: Any, fedkt: Any, no_report: None) -> None:
    _, folder = finished
    before = {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*") if p.is_file()}
    table = (folder / "comparison.csv").read_bytes()
    answer = fedkt("compare", "--out", folder, "--resume")
    assert answer.code == 0, answer.err
    after = {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*") if p.is_file()}
    assert after == before
    assert (folder / "comparison.csv").read_bytes() == table


def test_resume_runs_what_is_missing(
    here: Path, fedkt: Any, write_toml: Any, no_report: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [write_toml(here, strategy={"local_epochs": 1}), "--strategies", "local,knfu",
               "--seeds", 2, "--out", "cmp"]  # fmt: skip
    execute, calls = compare_.execute, []

    def stop_at_the_third(*args: Any, **kwargs: Any) -> None:
        calls.append(kwargs["label"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        execute(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(compare_, "execute", stop_at_the_third)
        stopped = fedkt("compare", *options)
    assert stopped.code == 130
    assert "--resume" in stopped.err
    assert len(rows_of(here / "cmp")) == 2, "finished runs are in the table at once"
    kept = (here / "cmp" / "runs" / "knfu-seed0" / "summary.json").stat().st_mtime_ns
    assert fedkt("compare", "--out", "cmp", "--resume").code == 0
    assert [(r["strategy"], r["seed"]) for r in rows_of(here / "cmp")] == [
        ("local", "0"), ("local", "1"), ("knfu", "0"), ("knfu", "1")
    ]  # fmt: skip
    assert (here / "cmp" / "runs" / "knfu-seed0" / "summary.json").stat().st_mtime_ns == kept
    other = fedkt("compare", *options, "--resume", "--set", "data.public_samples=30")
    assert (other.code, "begun with another data" in other.err) == (2, True)


@pytest.mark.parametrize("broken", ["Gone", "Buggy"])
def test_a_failing_strategy_does_not_stop_the_others(
    here: Path, fedkt: Any, write_toml: Any, no_report: None, broken: str
) -> None:
    (here / "mine.py").write_text(USER_STRATEGIES, encoding="utf-8")
    toml = write_toml(here, strategy={"local_epochs": 1})
    strategies = f"local,mine.py:{broken},mine.py:Mine"
    answer = fedkt("compare", toml, "--strategies", strategies, "--seeds", 2, "--out", "cmp")
    assert answer.code == 1
    assert len(answer.err.splitlines()) == 1
    assert "2 of 6 runs failed" in answer.err
    done = [(r["strategy"], r["seed"]) for r in rows_of(here / "cmp")]
    assert done == [("local", "0"), ("local", "1"), ("mine", "0"), ("mine", "1")]
    assert "Person. %" in answer.out, "what went well is shown"
    trace = (here / "cmp" / "runs" / f"{broken.lower()}-seed0" / "error.txt").read_text(
        encoding="utf-8"
    )
    assert "Traceback" in trace


def test_a_run_whose_baseline_failed_is_not_begun(
    here: Path, fedkt: Any, write_toml: Any, no_report: None
) -> None:
    (here / "model.py").write_text(
        "from torch import nn\n"
        "class Failing(nn.Module):\n"
        "    def __init__(self, shape, classes):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(64, classes)\n"
        "    def forward(self, x):\n"
        "        if self.training and len(x) > 4:  # not of so few as are tried before the run\n"
        "            raise RuntimeError('no luck today')\n"
        "        return self.layer(x.flatten(1))\n",
        encoding="utf-8",
    )
    toml = write_toml(here, strategy={"local_epochs": 1}, models=["model.py:Failing"])
    answer = fedkt("compare", toml, "--strategies", "knfu", "--seeds", 1, "--out", "cmp")
    assert answer.code == 1
    assert "no luck today" in answer.err
    assert not (here / "cmp" / "runs" / "knfu-seed0").exists()


def test_budgets_are_read_from_the_recipe(tiny: Any) -> None:
    experiment = parse(tiny(compare={"strategies": ["fedmd", "knfu"], "seeds": 1}).model_dump())
    baselines = {job.baseline for job in plan_jobs(experiment) if job.compared}
    assert len(baselines) == 1, "both train for as long, so one baseline serves both"

"""Training alone sees as many private samples as the clients of a method: counted, not computed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fedkt.clients.cohorts import cohort
from fedkt.clients.learners import loop
from fedkt.errors import ConfigError
from fedkt.recipe import Train
from fedkt.simulations.results.comparison_folder import load_comparison
from fedkt.simulations.results.run_folder import load_run
from fedkt.simulations.runs.comparison import plan_jobs
from fedkt.simulations.runs.local_baseline import local_twin, private_training, rehearses
from fedkt.simulations.runs.plan import Plan, prepare
from fedkt.simulations.runs.run import execute

METHODS = [
    {"name": "fedpf"},
    {"name": "fedpf", "readout": "mix", "local_epochs": 2},
    {"name": "fedpf", "readout": "gate", "public_samples": 70},
    {"name": "fedmd", "rehearsal": 1.0, "distil_epochs": 2},
    {"name": "knfu", "rehearsal": 0.5},
    {"name": "knfu", "rehearsal": 1.0, "public_samples": 33, "local_epochs": 0},
    {"name": "fedka-free", "local_samples": 20},
    {"name": "fedavg", "local_samples": 20},
    {"name": "knfu"},
]


class Counted:
    """The private rows that each client's network is trained on, by client, phase and round."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seen: Counter[tuple[int, str, int]] = Counter()
        self._phase = ""
        compute, train, seen = loop._Losses._loss_on, loop.train, self.seen

        def in_phase(model, optimiser, step, work, stream, *more, **named):
            self._phase = stream.partition("/")[0]
            return train(model, optimiser, step, work, stream, *more, **named)

        def on_rows(loss, terms, samples, private, rows, *more):
            work = loss._work
            if samples is work.data.train:
                seen[work.client, self._phase, work.round] += len(rows)
            return compute(loss, terms, samples, private, rows, *more)

        class Stacked(cohort._Stacked):
            def __init__(self, learner, step: Train, rows, tasks) -> None:
                super().__init__(learner, step, rows, tasks)
                for row, task in zip(rows, tasks, strict=True):
                    drawn = [task.batches if step.on == "private" else None, task.private]
                    for batches in filter(None, drawn):
                        seen[row.work.client, "cohort", row.work.round] += int(batches.widths.sum())

        patch.setattr(loop, "train", in_phase)
        patch.setattr(loop._Losses, "_loss_on", on_rows)
        patch.setattr(cohort, "_Stacked", Stacked)

    def measured(self, rounds: int) -> Counter[int]:
        """Return what the answers of the last round have seen: copies of before are gone."""
        whole: Counter[int] = Counter()
        for (client, phase, round_), rows in self.seen.items():
            if phase != "readout" or round_ == rounds:
                whole[client] += rows
        return whole


def small(path: Path, size: int) -> None:
    """Write a data set, so that few samples are left for the clients beside the public ones."""
    x, y = load_digits(return_X_y=True)
    x = (16 * x).astype(np.uint8).reshape(-1, 8, 8)
    np.savez(path, x_train=x[:size], y_train=y[:size], x_test=x[-100:], y_test=y[-100:])


def counted(plan: Plan, folder: Path) -> Counter[int]:
    with pytest.MonkeyPatch.context() as patch:
        counted = Counted(patch)
        execute(plan, folder, label="x")
    return counted.measured(plan.experiment.rounds)


@pytest.mark.parametrize(("executor", "public"), [("loop", 50), ("cohort", 400)])
@pytest.mark.parametrize("section", METHODS, ids=str)
def test_training_alone_sees_as_many_private_samples(
    tiny: Any, tmp_path: Path, section: dict[str, Any], public: int, executor: str
) -> None:
    small(tmp_path / "small.npz", 150 + public)
    data = {"dataset": "small", "data_dir": str(tmp_path), "clients": 4, "public_samples": public}
    data |= {"partition": "dirichlet:0.3", "validation_fraction": 0.2, "public": True}
    models = ["mlp"] if section["name"] == "fedavg" else ["linear", "mlp"]
    values = {"data": data, "strategy": section, "models": models, "run__executor": executor}
    values["rounds"] = 2 if "readout" in section else 1
    plan = prepare(tiny(**values))
    method, alone = (
        counted(plan, tmp_path / "m"),
        counted(prepare(local_twin(plan)), tmp_path / "a"),
    )
    assert len(method) == 4
    assert len(set(method.values())) > 2, "the clients are of different sizes"
    assert alone == method
    fewer = counted(prepare(local_twin(plan, rehearsal=False)), tmp_path / "f")
    rehearsing = section["name"] not in ("fedavg", "knfu") or "rehearsal" in section
    assert rehearses(plan) == rehearsing
    assert all((fewer[c] < method[c]) == rehearsing for c in method)


def test_the_issue_s_example(tiny: Any, tmp_path: Path) -> None:
    """30 samples and 400 public rows: 26 private steps a round, of which 5 are epochs."""
    data = {"clients": 2, "partition": "iid", "samples_per_client": 30, "public_samples": 400}
    data |= {"validation_fraction": 0.0, "test_fraction": 0.0, "test_samples": 60}
    plan = prepare(
        tiny(data=data, strategy={"name": "fedpf", "distil_steps": 0}, models=["linear"], rounds=1)
    )
    assert private_training(plan) == "5 epochs + 21 rehearsed batches"
    assert counted(prepare(local_twin(plan)), tmp_path / "a") == {0: 26 * 30, 1: 26 * 30}
    assert counted(prepare(local_twin(plan, False)), tmp_path / "b") == {0: 5 * 30, 1: 5 * 30}


@pytest.mark.parametrize("name", ["knfu", "fedavg", "fedmd", "kd3a"])
def test_without_rehearsal_the_twin_is_plain_local_training(tiny: Any, name: str) -> None:
    data: dict[str, Any] = {"clients": 2, "domains": ["digits-plain", "digits-inverted"]}
    if name == "kd3a":
        data["target"], data["domains"] = "digits-rotated", [*data["domains"], "digits-rotated"]
    plan = prepare(tiny(data=data, strategy={"name": name, "local_epochs": 2}, models=["linear"]))
    section = {"name": "local", "local_epochs": 2, "local_samples": 0}
    assert local_twin(plan).strategy == local_twin(plan, False).strategy == section


def test_forests_have_a_twin_too(tiny: Any, tmp_path: Path) -> None:
    section = {"name": "knfu", "rehearsal": 1.0, "public_samples": 20}
    plan = prepare(tiny(strategy=section, models=["forest", "linear"], rounds=1))
    execute(prepare(local_twin(plan)), tmp_path, label="local")
    assert load_run(tmp_path).summary["failures"] == 0


def test_a_twin_s_configuration_can_be_run_again(tiny: Any, tmp_path: Path, fedkt: Any) -> None:
    plan = prepare(tiny(strategy={"name": "knfu", "rehearsal": 1.0}, rounds=1))
    execute(prepare(local_twin(plan)), tmp_path / "twin", label="local")
    answer = fedkt("simulate", tmp_path / "twin" / "config.toml", "--out", tmp_path / "again")
    assert answer.code == 0, answer.err
    assert (
        load_run(tmp_path / "again").rounds[0]["personalised_accuracy"]
        == (load_run(tmp_path / "twin").rounds[0]["personalised_accuracy"])
    )


@pytest.mark.parametrize(
    ("like", "said"),
    [("knf", "Did you mean 'knfu'"), ({"name": "knfu", "btea": 1}, "btea"), ({}, "strategy")],
)
def test_whom_training_alone_is_like(tiny: Any, like: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        prepare(tiny(strategy={"name": "local", "like": like or {"beta": 1}}))


# --- reports ---------------------------------------------------------------------------------


def test_both_baselines_are_run_where_they_differ(tiny: Any) -> None:
    strategies = ["local", "knfu", "fedpf", "fedmd(rehearsal=1)", "local(like=fedpf)", "fedavg"]
    jobs = plan_jobs(tiny(strategy={}, compare={"strategies": strategies, "seeds": 1}))
    beside = {j.label: (j.baseline, j.same_epochs) for j in jobs if j.compared}
    assert beside["knfu"] == ("local-seed0", None)
    assert beside["fedpf"] == ("local-like=fedpf-seed0", "local-seed0")
    assert beside["fedmd(rehearsal=1)"] == beside["fedpf"]
    assert beside["fedavg"] == ("local-linear-5-epochs-seed0", None)
    assert [j.label for j in jobs if not j.compared] == ["local-linear (5 epochs)"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, fedkt: Any, write_toml: Any) -> Any:
    folder = tmp_path_factory.mktemp("twins")
    toml = write_toml(folder, strategy={})
    options = ["--seeds", 2, "--strategies", "knfu,fedpf", "--out", folder / "cmp"]
    answer = fedkt("compare", toml, *options)
    assert answer.code == 0, answer.err
    return answer, folder / "cmp"


def test_a_comparison_says_which_baseline_is_which(finished: Any, fedkt: Any) -> None:
    answer, folder = finished
    seen, epochs = "local (5 epochs + 30 rehearsed batches)", "local (5 epochs)"
    said = " ".join(answer.out.split())
    assert "5 epochs: knfu; 5 epochs + 30 rehearsed batches: fedpf" in said
    table = fedkt("report", folder, "--markdown").out
    lines = [line.split(" | ")[:2] for line in table.splitlines()]
    assert ["| fedpf", seen] in lines
    assert ["| fedpf", epochs] in lines
    assert ["| knfu", seen] not in lines
    note = (
        "Negative transfer: against training alone on as many private samples, rehearsal included"
    )
    for text in (said, table, (folder / "report.html").read_text(encoding="utf-8")):
        assert note in " ".join(text.split())
    for run in load_comparison(folder).groups["fedpf"]:
        base, same = run.baseline(), run.same_epochs()
        assert (base.label, same.label) == (seen, epochs)
        ours, alone = (r.rounds[-1]["personalised_accuracy"]["per_client"] for r in (run, base))
        worse = [a < b for a, b in zip(ours, alone, strict=True)]
        assert run.rounds[-1]["negative_transfer"] == pytest.approx(sum(worse) / len(worse))


def test_a_run_says_which_baseline_is_which(tiny: Any, tmp_path: Path, fedkt: Any, write_toml: Any):
    toml = write_toml(tmp_path, strategy={"name": "fedpf", "local_epochs": 1})
    answer = fedkt("simulate", toml, "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    summaries = {
        name: json.loads((tmp_path / "run" / name / "summary.json").read_text(encoding="utf-8"))
        for name in ("baseline", "same_epochs")
    }
    labels = [summaries[name]["label"] for name in summaries]
    assert labels == ["local (1 epochs + 30 rehearsed batches)", "local (1 epochs)"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert all(label in page for label in labels)
    accuracy = 100 * summaries["same_epochs"]["last"]["personalised_accuracy"]
    assert f"{accuracy:.1f} % alone for as many private epochs" in answer.out

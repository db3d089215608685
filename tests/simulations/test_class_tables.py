"""Metrics that are tables over the classes: measured at the end, by scikit-learn, and shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, recall_score

import fedkt
from fedkt.errors import ConfigError
from fedkt.simulations.api.run_result import RunResult
from fedkt.simulations.report.pages import write_run_report
from fedkt.simulations.results.predictions import read_predictions
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute

CLASSES = list(range(10))
ASKED = ["per-class-recall", "confusion-matrix", "macro-f1"]


def recalls(part: Any) -> np.ndarray:
    """Return scikit-learn's recalls; NaN of a class without samples."""
    predicted = part.logits.argmax(1)
    theirs = recall_score(part.labels, predicted, labels=CLASSES, average=None, zero_division=0)
    return np.where(np.isin(CLASSES, part.labels), theirs, np.nan)


@pytest.fixture(scope="module")
def run(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    out = tmp_path_factory.mktemp("tables") / "run"
    changes = {"run__metrics": ASKED, "run__keep_predictions": True, "models": ["mlp", "forest"]}
    execute(prepare(tiny(**changes)), out, label="mine")
    result = fedkt.load(out)
    assert isinstance(result, RunResult)
    return result


def test_every_client_s_tables_are_those_of_scikit_learn(run: RunResult) -> None:
    rows, kept = read_rounds(run.folder), read_predictions(run.folder)
    assert ["tables" in row for row in rows] == [False] * (len(rows) - 1) + [True]
    tables = rows[-1]["tables"]
    assert sorted(tables) == sorted(
        f"{on}_{name}" for on in ("personalised", "global") for name in
        ("per_class_recall", "confusion_matrix")
    )  # fmt: skip
    for client, parts in kept.items():
        for on in ("personalised", "global"):
            part = parts[on]
            ours = np.array(tables[f"{on}_per_class_recall"][client], dtype=float)
            np.testing.assert_allclose(ours, recalls(part))
            theirs = confusion_matrix(part.labels, part.logits.argmax(1), labels=CLASSES)
            assert tables[f"{on}_confusion_matrix"][client] == theirs.tolist()
    assert "personalised_macro_f1" in rows[0]


def test_other_figures_stay_and_the_frame_has_no_tables(
    run: RunResult, tiny: Any, tmp_path: Path
) -> None:
    execute(prepare(tiny(run__metrics=["macro-f1"], models=["mlp", "forest"])), tmp_path, label="x")
    plain, rows = read_rounds(tmp_path), read_rounds(run.folder)
    for row in (*plain, *rows):
        row.pop("tables", None)
        row.pop("seconds")
    assert rows == plain
    assert not [name for name in set(run.frame()["metric"]) if "recall" in name]
    assert not [name for name in run.figures() if "confusion" in name]


def test_tables_are_tidy_frames_in_python(run: RunResult) -> None:
    part = read_predictions(run.folder)[1]["personalised"]
    frame = run.per_class("per-class-recall")
    assert list(frame.columns) == ["client", "class", "value"]
    mine = frame[frame["client"] == 1]
    assert mine["value"].tolist() == pytest.approx(recalls(part)[~np.isnan(recalls(part))].tolist())
    frame = run.per_class("confusion-matrix", on="global")
    assert list(frame.columns) == ["client", "label", "prediction", "value"]
    assert len(frame) == 100 * frame["client"].nunique()
    for name, on, message in [
        ("confusion", "global", "Did you mean 'confusion-matrix'"),
        ("macro-f1", "global", "Known: confusion-matrix, per-class-recall"),
        ("confusion-matrix", "validation", "personalised or global"),
    ]:
        with pytest.raises(ConfigError, match=message):
            run.per_class(name, on)


def test_the_page_shows_each_client_and_the_mean(run: RunResult) -> None:
    page = write_run_report(run.folder).read_text(encoding="utf-8")
    section = page.partition("<h2>Classes after the last round</h2>")[2].partition("<h2>")[0]
    titles = re.findall(r"<h3>(.*?)</h3>", section)
    assert titles == [
        "Personalised recall of each class (%)",
        "Global recall of each class (%)",
        "Personalised confusion matrix",
        "Global confusion matrix",
    ]
    clients = run.record.federation["clients"]
    assert section.count("<summary>Client ") == 2 * clients
    frame = run.per_class("per-class-recall", on="global")
    means = 100 * frame.groupby("class", sort=False)["value"].mean()
    lines = re.findall(r"<tr><td>Mean</td>(.*?)</tr>", section)
    assert re.findall(r"<td>(.*?)</td>", lines[1]) == [f"{value:.4g}" for value in means]


def test_matched_tables_stand_for_the_client_s_classes(tiny: Any, tmp_path: Path) -> None:
    changes = {"run__metrics": ["confusion-matrix"], "run__personalised": "matched"}
    plan = prepare(tiny(**changes))
    execute(plan, tmp_path, label="x")
    last = read_rounds(tmp_path)[-1]
    for client, table in enumerate(last["tables"]["personalised_confusion_matrix"]):
        by_class, counts = np.array(table).sum(1), plan.federation.label_counts()[client]
        np.testing.assert_allclose(by_class / by_class.sum(), counts / counts.sum())
        accuracy = np.trace(table) / np.sum(table)
        assert accuracy == pytest.approx(last["personalised_accuracy"]["per_client"][client])


MINE = """
import torch
from fedkt import register

@register(part="metrics")
def mine(logits, labels, weight):
    return {value}

mine.axes = {axes}
mine.bounds = (0, 1)
"""


@pytest.mark.parametrize(
    ("value", "axes", "message"),
    [
        ("torch.zeros(3)", '("class",)', r"has shape \[3\] for 10 classes"),
        ("torch.zeros(10)", "()", r"has shape \[10\] for 10 classes and it has no axes"),
        ("torch.full((10,), 2.0)", '("class",)', "is 2 for some answers; its bounds are 0 and 1"),
        ("torch.full((10,), torch.inf)", '("class",)', "is inf for some answers"),
        ("torch.tensor(torch.nan)", "()", "is nan for some answers"),
        ("torch.zeros(10)", '"class"', "axes are at most two names"),
        ("torch.zeros(10)", '("class", "class")', "axes are at most two names"),
    ],
)
def test_tables_that_cannot_be_are_refused_before_the_run(
    tiny: Any, tmp_path: Path, value: str, axes: str, message: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE.format(value=value, axes=axes), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        prepare(tiny(run__metrics=[f"{file}:mine"]))


def test_a_table_selects_no_round(tiny: Any) -> None:
    with pytest.raises(ConfigError, match=r"'confusion-matrix'.*which has macro-f1"):
        prepare(tiny(run__metrics=ASKED, run__select_by="confusion-matrix"))

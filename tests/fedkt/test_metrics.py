"""Metrics by name, against scikit-learn; refused replies."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import MetricRecord, RecordDict
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from fedkt.errors import ConfigError, KnowledgeError
from fedkt.metrics import metric_of, metrics_of, wire_metrics
from fedkt.strategies.server.replies import figures_in, measured_by, tabled_by, tables_in


def samples(weighted: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits for 200 samples of 4 of 6 classes, labels and weights."""
    draw = torch.Generator().manual_seed(3)
    labels = torch.randint(4, (200,), generator=draw)
    logits = torch.randn(200, 6, generator=draw)
    logits[torch.arange(200), labels] += 1.5
    by_class = torch.tensor([0.2, 3.0, 1.0, 0.5], dtype=torch.float64)[labels]
    weight = by_class / by_class.mean() if weighted else torch.ones(200, dtype=torch.float64)
    return logits, labels, weight


def calibration(probabilities: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> float:
    """Return the expected calibration error from scikit-learn's curve, for equal weights."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    true, said = calibration_curve(right, confidence, n_bins=15)
    sizes = np.histogram(confidence, np.linspace(0, 1, 16))[0]
    return float(np.abs(true - said) @ sizes[sizes > 0] / len(labels))


def area(probabilities: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> float:
    """Return the mean of scikit-learn's areas over the four classes that are there."""
    areas = [
        sklearn_metrics.roc_auc_score(labels == c, probabilities[:, c], sample_weight=weight)
        for c in range(4)
    ]
    return float(np.mean(areas))


THEIRS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], float]] = {
    "balanced-accuracy": lambda p, y, w: sklearn_metrics.balanced_accuracy_score(
        y, p.argmax(1), sample_weight=w
    ),
    "macro-f1": lambda p, y, w: sklearn_metrics.f1_score(
        y, p.argmax(1), average="macro", sample_weight=w
    ),
    "log-loss": lambda p, y, w: sklearn_metrics.log_loss(
        y, p, labels=range(6), sample_weight=w
    ),
    "expected-calibration-error": calibration,
    "auroc": area,
    "brier-score": lambda p, y, w: sklearn_metrics.brier_score_loss(
        y, p, labels=range(6), sample_weight=w, scale_by_half=False
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.parametrize(
    ("name", "weighted"),
    [(name, False) for name in THEIRS]
    + [(name, True) for name in THEIRS if name != "expected-calibration-error"],  # its curve: equal
)
def test_built_in_metrics_are_those_of_scikit_learn(name: str, weighted: bool) -> None:
    logits, labels, weight = samples(weighted)
    probabilities = logits.double().softmax(-1).numpy()
    theirs = THEIRS[name](probabilities, labels.numpy(), weight.numpy())
    ours = metric_of(name).compute(logits, labels, weight)
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_a_weight_counts_like_copies_of_a_sample() -> None:
    logits, labels, _ = samples(False)
    times = 1 + (labels == 2).long()
    copies = torch.arange(200).repeat_interleave(times)
    weight = times / times.double().mean()
    ones = torch.ones(len(copies), dtype=torch.float64)
    for name in THEIRS:
        compute = metric_of(name).compute
        repeated = compute(logits[copies], labels[copies], ones)
        assert compute(logits, labels, weight) == pytest.approx(repeated), name


def test_a_metric_with_options_and_its_facts() -> None:
    few = metric_of("expected-calibration-error(bins=2)")
    assert few.wire == "expected-calibration-error(bins=2)"
    assert few.facts.name == "expected-calibration-error"
    assert few.compute(*samples(False)) != metric_of(few.facts.name).compute(*samples(False))
    assert metric_of("log-loss").facts.bounds == (0, math.inf)


FUNCTION = '''
from fedkt import register

@register(part="metrics")
def top_two(logits, labels, weight):
    """Share of samples whose label is among the two likeliest."""
    right = (logits.topk(2).indices == labels[:, None]).any(-1)
    return (weight * right).sum() / weight.sum()

top_two.unit, top_two.bounds = "%", (0, 1)

def bare(logits, labels, weight):
    return 0.0
'''


def test_a_function_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FUNCTION, encoding="utf-8")
    (wire,) = wire_metrics([f"{file}:top_two"])
    assert wire.startswith("mine@")
    assert wire.endswith(":top-two")
    metric = metric_of(wire)
    assert (metric.facts.title, metric.facts.unit, metric.facts.better) == (
        "top two",
        "%",
        "higher",
    )
    for reference, reason in [
        (f"{file}:bare", r'not registered: write @register\(part="metrics"\)'),
        (f"{file}:top_two(k=2)", "is a function and has no options"),
        ("macro-f2", "Did you mean 'macro-f1'"),
        ("macro-f1(beta=2)", "beta"),
    ]:
        with pytest.raises(ConfigError, match=reason):
            metric_of(reference, files=True)
    with pytest.raises(ConfigError, match=r"Unknown metric .*\.py:top_two"):
        metric_of(f"{file}:top_two")  # as over the wire: no file is executed
    with pytest.raises(ConfigError, match="'log-loss' is there twice"):
        metrics_of(["log-loss", "log-loss"])


@pytest.mark.parametrize("value", [1.5, -0.1, math.nan, math.inf, [0.5, 0.5]])
def test_a_reply_with_a_wrong_metric_is_refused(value: Any) -> None:
    content = RecordDict({"metrics": MetricRecord({"global-macro-f1": value})})
    assert figures_in(content, measured_by([])) == {}
    with pytest.raises(KnowledgeError, match="global-macro-f1 is"):
        figures_in(content, measured_by(["macro-f1"]))
    sound = RecordDict({"metrics": MetricRecord({"global-macro-f1": 0.5})})
    assert figures_in(sound, measured_by(["macro-f1"])) == {"global-macro-f1": 0.5}


@pytest.mark.parametrize("weighted", [False, True])
def test_tables_are_those_of_scikit_learn(weighted: bool) -> None:
    logits, labels, weight = samples(weighted)
    how = {"labels": range(6), "sample_weight": weight.numpy()}
    truth, predicted = labels.numpy(), logits.argmax(1).numpy()
    theirs = sklearn_metrics.confusion_matrix(truth, predicted, **how)
    ours = metric_of("confusion-matrix").compute(logits, labels, weight)
    np.testing.assert_allclose(ours, theirs)
    theirs = sklearn_metrics.recall_score(
        truth, predicted, average=None, zero_division=np.nan, **how
    )
    ours = metric_of("per-class-recall").compute(logits, labels, weight)
    np.testing.assert_allclose(ours, theirs)
    assert np.isnan(theirs).sum() == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5] * 3, "is no list of 2 numbers"),
        ([], "is no list of 2 numbers"),
        (0.5, "is no list of 2 numbers"),
        ([0.5, 1.5], r"holds 1.5, not a number in \[0, 1\]"),
        ([0.5, -math.inf], "holds -inf"),
    ],
)
def test_a_reply_with_a_wrong_table_is_refused(values: Any, message: str) -> None:
    asked = tabled_by(["per-class-recall", "macro-f1"])
    assert sorted(asked) == ["global-per-class-recall", "personalised-per-class-recall"]
    content = RecordDict({"metrics": MetricRecord({"global-per-class-recall": values})})
    assert tables_in(content, tabled_by(["macro-f1"]), 2) == {}
    with pytest.raises(KnowledgeError, match=message):
        tables_in(content, asked, 2)
    sound = RecordDict({"metrics": MetricRecord({"global-per-class-recall": [0.5, math.nan]})})
    (table,) = tables_in(sound, asked, 2).values()
    assert (table[0], math.isnan(table[1])) == (0.5, True)


def test_auroc_of_two_classes_is_the_usual_and_of_one_is_none() -> None:
    draw = torch.Generator().manual_seed(5)
    logits, labels = torch.randn(50, 2, generator=draw), torch.randint(2, (50,), generator=draw)
    ones = torch.ones(50, dtype=torch.float64)
    usual = sklearn_metrics.roc_auc_score(labels, logits.softmax(-1)[:, 1])
    compute = metric_of("auroc").compute
    assert compute(logits, labels, ones) == pytest.approx(usual)
    assert compute(logits, torch.zeros_like(labels), ones) is None

"""The rules of model selection, on rows made by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedkt.evaluation import figures
from fedkt.evaluation.figures import add_metrics, target_accuracy, validation_of
from fedkt.evaluation.transfer import worst_decile
from fedkt.metrics import metric_of
from fedkt.simulations.results.selection import (
    last_round,
    oracle,
    source_validation,
)
from fedkt.simulations.runs.recorder import summarise


def row(
    round_: int,
    validation: float | None,
    personalised: float | None,
    common: float | None,
    served: float | None = None,
) -> dict[str, Any]:
    def over(value: float | None) -> dict[str, Any]:
        return {"mean": value, "std": 0.0, "per_client": []}

    return {
        "round": round_,
        "personalised_accuracy": over(personalised),
        "global_accuracy": over(common),
        "validation_accuracy": over(validation),
        "server_accuracy": served,
        "negative_transfer": None,
        "negative_transfer_loss": None,
        "bytes_up": 1,
        "bytes_down": 1,
        "seconds": 1,
        "failures": [],
    }


# By every rule another round.
ROWS = [row(1, 0.9, 0.2, 0.3), row(2, 0.5, 0.8, 0.4), row(3, 0.9, 0.3, 0.6), row(4, 0.1, 0.1, 0.1)]


@pytest.fixture
def facts_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Add the rows of metrics to a table of this test's own."""
    monkeypatch.setattr(figures, "_of_metrics", {})
    return lambda name: add_metrics([] if name == "accuracy" else [metric_of(name).facts])


def number(chosen: Any) -> int:
    return int(chosen["round"])


def test_every_rule_looks_at_its_own_figure() -> None:
    assert number(last_round(ROWS)) == 4
    assert number(source_validation(ROWS)) == 1, "the first of equals"
    assert number(oracle(ROWS)) == 2
    assert number(oracle(ROWS, target=True)) == 3


def test_a_metric_selects_by_what_is_better(facts_of: Callable[[str], None]) -> None:
    values = [(0.5, 0.7), (0.9, 0.2), (0.4, 0.9), (0.4, 0.9)]
    rows = [
        {"validation_macro_f1": {"mean": f1}, "validation_log_loss": {"mean": loss}, **r}
        for r, (f1, loss) in zip(ROWS, values, strict=True)
    ]
    for name, best in [("accuracy", 1), ("macro-f1", 2), ("log-loss", 2)]:
        facts_of(name)
        assert number(source_validation(rows, validation_of(name))) == best
        assert summarise(rows, select_by=name)["validation_selected"]["round"] == best
    rows[2]["validation_log_loss"]["mean"] = 0.1
    assert number(source_validation(rows, validation_of("log-loss"))) == 3


@pytest.mark.parametrize(
    ("goal", "rounds"), [(0.2, 1), (0.21, 2), (0.8, 2), (0.81, None), (0.1 + 0.7, 2)]
)
def test_a_goal_is_reached_in_its_first_round_or_never(goal: float, rounds: int | None) -> None:
    summary = summarise(ROWS, goal=goal)
    assert summary["rounds_to_goal"] == rounds
    assert summary["bytes_to_goal"] == (None if rounds is None else 2 * rounds)
    assert summary["bytes_up"] == 4
    assert not {"rounds_to_goal", "bytes_to_goal"} & summarise(ROWS).keys()


def test_the_worst_decile_is_a_tenth_but_at_least_one() -> None:
    values = np.random.default_rng(0).permutation(np.arange(25) / 25)
    assert worst_decile([*values, None, math.nan]) == pytest.approx(np.sort(values)[:2].mean())
    assert worst_decile([0.5, 0.25, None]) == 0.25
    assert worst_decile([None]) is None
    clients = {"mean": 0.5, "std": 0.25, "per_client": [0.25, 0.75, None]}
    last = summarise([{**ROWS[0], "personalised_accuracy": clients}])["last"]
    assert (last["worst_decile"], last["personalised_std"]) == (0.25, 0.25)


def test_nothing_measured_selects_nothing() -> None:
    rows = [row(1, None, None, None)]
    assert (source_validation(rows), oracle(rows), oracle(rows, target=True)) == (None, None, None)
    assert (last_round([]), source_validation([]), oracle([])) == (None, None, None)
    assert number(source_validation([row(1, None, 1, 1), row(2, 0.0, 0, 0)])) == 2


def test_the_servers_model_speaks_for_the_method_where_there_is_one() -> None:
    assert target_accuracy(row(1, 0.9, 0.9, 0.4)) == 0.4
    assert target_accuracy(row(1, 0.9, 0.9, 0.4, served=0.0)) == 0.0
    assert target_accuracy({"global_accuracy": 0.4, "server_accuracy": None}) == 0.4
    assert target_accuracy({"global_accuracy": None}) is None


def test_validation_never_sees_test_accuracies() -> None:
    changed = [{**r, "global_accuracy": {"mean": 1.0}, "server_accuracy": 1.0} for r in ROWS]
    assert number(source_validation(changed)) == number(source_validation(ROWS))


@pytest.mark.parametrize(("target", "figure", "best"), [(True, 0.1, 3), (False, None, 2)])
def test_the_summary_follows_the_rules(target: bool, figure: float | None, best: int) -> None:
    summary = summarise(ROWS, oracle=True, target=target)
    assert [summary[k]["round"] for k in ("last", "validation_selected", "oracle")] == [4, 1, best]
    assert summary["last"]["target_accuracy"] == figure
    assert "oracle" not in summarise(ROWS, target=target)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedkt.errors import ConfigError
from fedkt.simulations.cells import Cell
from fedkt.simulations.cells_report import summary_line, verdict_lines
from fedkt.simulations.config import VerdictSection
from fedkt.simulations.results import Comparison, Run
from fedkt.simulations.verdict import judge

# label -> (personalised, global) by seed
Accuracies = dict[str, list[tuple[float, float]]]


def comparison(accuracies: Accuracies, one_architecture: str = "") -> Comparison:
    def run(label: str, seed: int, pair: tuple[float, float]) -> Run:
        last = {"round": 1, "personalised_accuracy": pair[0], "global_accuracy": pair[1]}
        marked = "cnn" if label == one_architecture else None
        summary = {"label": label, "strategy": label, "seed": seed, "last": last}
        return Run(Path("."), {}, [], {**summary, "one_architecture": marked}, {})

    groups = {k: [run(k, s, p) for s, p in enumerate(pairs)] for k, pairs in accuracies.items()}
    return Comparison(Path("."), {}, groups)


def verdict_on(
    tiny: Any, accuracies: Accuracies, one_architecture: str = "", **section: Any
) -> Any:
    cells = [Cell("c", tiny()), Cell("later", tiny())]
    chosen = VerdictSection(subject="ours", **section)
    return judge(chosen, cells, {"c": comparison(accuracies, one_architecture)})


def test_margins_are_paired_over_seeds(tiny: Any) -> None:
    # Differences 0.01 and 0.03 to the best rival: mean 0.02, standard error 0.01.
    verdict = verdict_on(tiny, {
        "a": [(0.50, 0.2), (0.90, 0.2)],
        "b": [(0.60, 0.1), (0.70, 0.1)],
        "ours": [(0.51, 0.3), (0.93, 0.3)],
    })  # fmt: skip
    margin = verdict.cells[0].margins["personalised_accuracy"]
    assert margin.rival == "a", "0.70 in the mean, b 0.65"
    assert margin.mean == pytest.approx(0.02)
    assert margin.standard_error == pytest.approx(0.01)
    assert margin.colour == "grey", "two standard errors are not more than two"
    assert verdict.cells[0].margins["global_accuracy"].colour == "green"
    assert verdict.unfinished == ["later"]


@pytest.mark.parametrize(
    ("ours", "colour"), [([0.8, 0.81], "green"), ([0.6, 0.61], "red"), ([0.6, 0.81], "grey")]
)
def test_colours(tiny: Any, ours: list[float], colour: str) -> None:
    both = {"a": [(0.7, 0.7), (0.7, 0.7)], "ours": [(value, 0.7) for value in ours]}
    assert verdict_on(tiny, both).cells[0].margins["personalised_accuracy"].colour == colour


def test_one_seed_has_no_colour(tiny: Any) -> None:
    margin = verdict_on(tiny, {"a": [(0.1, 0.1)], "ours": [(0.9, 0.9)]}).cells[0].margins
    assert {m.colour for m in margin.values()} == {"grey"}
    assert {m.standard_error for m in margin.values()} == {None}


def test_the_bar_is_another_set_of_strategies(tiny: Any) -> None:
    accuracies: Accuracies = {
        "strong": [(0.9, 0.9)] * 2, "a": [(0.7, 0.5)] * 2, "b": [(0.6, 0.6)] * 2,
        "ours": [(0.698, 0.6)] * 2,
    }  # fmt: skip
    bars = {"personalised_bar": ("a", "b"), "global_bar": ("b",)}
    found = verdict_on(tiny, accuracies, **bars).cells[0]
    assert found.margins["personalised_accuracy"].rival == "strong"
    assert found.above_bar == pytest.approx({"personalised_accuracy": -0.002, "global_accuracy": 0})
    assert found.holds, "0.2 points below the bar are within 0.3"
    strict = verdict_on(tiny, accuracies, tolerance=0.001, **bars)
    assert not strict.cells[0].holds
    assert strict.holding == 0
    assert "0 of 1 cells; not in: c" in summary_line(strict)
    assert not verdict_on(tiny, accuracies).cells[0].holds, "by default the bar is all rivals"


def test_who_ran_on_another_model_is_no_rival(tiny: Any) -> None:
    accuracies: Accuracies = {"fedavg": [(0.9, 0.9)], "a": [(0.5, 0.5)], "ours": [(0.6, 0.6)]}
    margins = verdict_on(tiny, accuracies, one_architecture="fedavg").cells[0].margins
    assert {m.rival for m in margins.values()} == {"a"}


def test_only_seeds_that_all_have_are_compared(tiny: Any) -> None:
    found = verdict_on(tiny, {"a": [(0.5, 0.5)], "ours": [(0.6, 0.6), (0.0, 0.0)]}).cells[0]
    assert found.margins["global_accuracy"].seeds == 1
    assert found.margins["global_accuracy"].mean == pytest.approx(0.1)


def test_the_table_says_it_in_points(tiny: Any) -> None:
    found = verdict_on(tiny, {"a": [(0.5, 0.5)] * 2, "ours": [(0.6, 0.4)] * 2})
    header, line = verdict_lines(found)
    row = dict(zip(header, line, strict=False))
    assert row["Cell"] == "c"
    assert line[3].startswith("+10.0 ± 0.0 green")
    assert line[7].startswith("-10.0 ± 0.0 red")
    assert row["Criterion"] == "fails"


def test_an_unknown_strategy_is_named(tiny: Any) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'ours'"):
        verdict_on(tiny, {"a": [(0.5, 0.5)], "ours": [(0.6, 0.6)]}, rivals=("our",))

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fedkt.errors import ConfigError
from fedkt.simulations.experiment.cells import Cell
from fedkt.simulations.experiment.config import VerdictSection
from fedkt.simulations.report.cells_report import summary_line, verdict_lines
from fedkt.simulations.results.comparison_folder import Comparison
from fedkt.simulations.results.run_folder import Run
from fedkt.simulations.results.verdict import judge

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
    # Differences 0.01, 0.03 and 0.02 to the best rival.
    verdict = verdict_on(tiny, {
        "a": [(0.50, 0.2), (0.90, 0.2), (0.80, 0.2)],
        "b": [(0.60, 0.1), (0.70, 0.1), (0.80, 0.1)],
        "ours": [(0.51, 0.3), (0.93, 0.4), (0.82, 0.3)],
    })  # fmt: skip
    margin = verdict.cells[0].margins["personalised_accuracy"]
    assert margin.rival == "a", "0.733 in the mean, b 0.70"
    expected = stats.ttest_1samp([0.01, 0.03, 0.02], 0)
    assert margin.difference.mean == pytest.approx(0.02)
    assert margin.p == margin.difference.p == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert margin.difference.half_width == pytest.approx((high - low) / 2)
    assert margin.colour == "grey", "3.46 standard errors, and p is 0.074"
    assert verdict.unfinished == ["later"]


@pytest.mark.parametrize(
    ("ours", "colour"),
    [
        ([0.80, 0.81, 0.82], "green"),
        ([0.60, 0.61, 0.59], "red"),
        ([0.60, 0.81, 0.7], "grey"),
        ([0.71, 0.73, 0.72], "grey"),  # 3.5 standard errors
    ],
)
def test_colours(tiny: Any, ours: list[float], colour: str) -> None:
    both = {"a": [(0.7, 0.7)] * 3, "ours": [(value, 0.7) for value in ours]}
    assert verdict_on(tiny, both).cells[0].margins["personalised_accuracy"].colour == colour


@pytest.mark.parametrize("ours", [[0.9], [0.9, 0.9], [0.9, 0.85], [0.99, 0.98]])
def test_fewer_than_three_seeds_have_no_colour(tiny: Any, ours: list[float]) -> None:
    rival = [(0.1, 0.1)] * len(ours)
    found = verdict_on(tiny, {"a": rival, "ours": [(value, value) for value in ours]})
    margins = found.cells[0].margins
    assert {m.colour for m in margins.values()} == {"grey"}
    assert {m.p for m in margins.values()} == {1.0}
    assert all((m.difference.half_width is None) == (len(set(ours)) == 1) for m in margins.values())


def test_no_spread_has_no_colour_and_says_so(tiny: Any) -> None:
    # 0.6 - 0.5, 0.7 - 0.6 and 0.8 - 0.7 differ in the last bits.
    rival, ours = (
        [(value, value) for value in each] for each in ([0.5, 0.6, 0.7], [0.6, 0.7, 0.8])
    )
    found = verdict_on(tiny, {"a": rival, "ours": ours})
    assert {m.colour for m in found.cells[0].margins.values()} == {"grey"}
    assert verdict_lines(found)[1][4] == "+10.0 (no spread) grey"


def judged(tiny: Any, cells: list[dict[str, list[float]]], **section: Any) -> Any:
    """Judge cells of one personalised accuracy for each label and seed."""
    results = {
        str(place): comparison({k: [(v, v) for v in values] for k, values in cell.items()})
        for place, cell in enumerate(cells)
    }
    names = [Cell(name, tiny()) for name in results]
    return judge(VerdictSection(subject="ours", **section), names, results)


def colours(verdict: Any) -> list[str]:
    return [cell.margins["global_accuracy"].colour for cell in verdict.cells]


def test_colours_are_corrected_for_the_number_of_cells(tiny: Any) -> None:
    # p is 0.0351 alone: of two such cells neither is clear by Holm (0.07).
    cell = {"a": [0.5, 0.5, 0.5], "ours": [0.52, 0.53, 0.54]}
    assert stats.ttest_1samp([0.02, 0.03, 0.04], 0).pvalue == pytest.approx(0.0351, abs=1e-4)
    assert colours(judged(tiny, [cell])) == ["green"]
    assert colours(judged(tiny, [cell, cell])) == ["grey"] * 2
    sure = {"a": [0.5, 0.5, 0.5], "ours": [0.70, 0.701, 0.702]}
    assert colours(judged(tiny, [cell, sure])) == ["green"] * 2, "the second step is not halved"
    untested = {"a": [0.5], "ours": [0.6]}
    assert colours(judged(tiny, [cell, untested])) == ["grey"] * 2, "it counts all the same"


@pytest.mark.parametrize("rivals", [1, 4])
@pytest.mark.parametrize("cells", [1, 6])
def test_equal_cells_are_hardly_ever_coloured(tiny: Any, rivals: int, cells: int) -> None:
    """Pages with any colour are at most 5 % where nobody is better; two standard errors gave 18."""
    rng = np.random.default_rng(0)
    names, section = [Cell(str(c), tiny()) for c in range(cells)], VerdictSection(subject="ours")
    labels = ["ours", *(f"rival{r}" for r in range(rivals))]
    pages, wrong = 800, 0
    for values in rng.normal(0.7, 0.02, (pages, cells, len(labels), 3)):
        results = {
            cell.name: comparison(
                {k: [(v, v) for v in line] for k, line in zip(labels, of_cell, strict=True)}
            )
            for cell, of_cell in zip(names, values.tolist(), strict=True)
        }
        wrong += "green" in (found := colours(judge(section, names, results))) or "red" in found
    # Three standard deviations of the count above its mean at the level.
    assert wrong <= 0.05 * pages + 3 * (pages * 0.05 * 0.95) ** 0.5


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
    assert found.margins["global_accuracy"].difference.mean == pytest.approx(0.1)


def test_the_table_says_it_in_points(tiny: Any) -> None:
    ours = [(0.6, 0.4), (0.61, 0.39), (0.62, 0.41)]
    found = verdict_on(tiny, {"a": [(0.5, 0.5)] * 3, "ours": ours})
    header, line = verdict_lines(found)
    row = dict(zip(header, line, strict=False))
    assert (row["Cell"], row["Seeds"]) == ("c", "3")
    assert line[4] == "+11.0 ± 2.5 green"  # 4.30 standard errors of 0.577
    assert line[8] == "-10.0 ± 2.5 red"
    assert row["Criterion"] == "fails"


def test_an_unknown_strategy_is_named(tiny: Any) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'ours'"):
        verdict_on(tiny, {"a": [(0.5, 0.5)], "ours": [(0.6, 0.6)]}, rivals=("our",))

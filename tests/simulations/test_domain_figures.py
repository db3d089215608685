"""Group effect and targets as figures, and what a run's reports show of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkt.evaluation.figures import GROUP_EFFECT
from fedkt.simulations.report.charts import drawable, figure_by_round
from fedkt.simulations.report.domain_figures import averaged, targets_figure
from fedkt.simulations.report.drawing import look_of

pytest.importorskip("matplotlib")
TARGETS = ("mnist", "svhn", "usps")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures as they were saved."""
    from matplotlib.figure import Figure

    kept: list[Any] = []
    save = Figure.savefig

    def keep(self: Figure, *args: Any, **kwargs: Any) -> None:
        kept.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


def clashes(figure: Any, axes: Any) -> list[str]:
    """Return the texts of a panel that lie on one another or outside the figure."""
    renderer = figure.canvas.get_renderer()
    texts = [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        ticks = [t for t in axis.get_major_ticks() if min(limits) <= t.get_loc() <= max(limits)]
        texts += [tick.label1 for tick in ticks if tick.label1.get_visible()]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts if t.get_text()]
    inside = figure.bbox.padded(1)
    bad = [a for a, box in boxes if not (inside.x0 <= box.x0 and box.x1 <= inside.x1)]
    for i, (a, first) in enumerate(boxes):
        bad += [f"{a} on {b}" for b, other in boxes[:i] if first.overlaps(other)]
    return bad


def test_group_effect_has_a_zero_line_and_leaves_out_who_never_fuses(
    tmp_path: Path, drawn: list[Any], made_up: Any
) -> None:
    groups = next(iter(made_up.cells(("x",)).values())).groups
    assert [drawable(GROUP_EFFECT, runs) for runs in groups.values()] == [False, True, True, True]
    path = figure_by_round(GROUP_EFFECT, groups, tmp_path / "deep" / "g.png")
    assert path.stat().st_size > 10_000
    (figure,) = drawn
    (axes,) = figure.axes
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["fedavg", "knfu(beta=2)", "vote"]
    first, *_, zero = axes.get_lines()
    np.testing.assert_allclose(first.get_ydata(), [20, 10, -10])
    assert list(zero.get_ydata()) == [0, 0]
    assert first.get_color() == look_of(1, "fedavg", 3)["color"], "its place in all figures"
    assert clashes(figure, axes) == []


def test_a_run_alone_has_no_band(tmp_path: Path, drawn: list[Any], made_up: Any) -> None:
    run = made_up.run("fedavg", 0, 0.5)
    figure_by_round(GROUP_EFFECT, {"fedavg": [run]}, tmp_path / "g.png", band="clients")
    assert "one run" in drawn[0].get_suptitle()
    assert not drawn[0].axes[0].collections


def test_group_effect_is_averaged_over_cells_with_each_seed(made_up: Any) -> None:
    results = made_up.cells(("x", "y"), labels=("fedavg", "late"), seeds=2)
    results["y"].groups["fedavg"] = [
        made_up.run("fedavg", 0, 0.5, effects=(0.4, 0.3)),
        made_up.run("fedavg", 1, 0.5, effects=(0.6, 0.5)),
    ]
    del results["y"].groups["late"]
    groups = averaged(results, GROUP_EFFECT)
    assert list(groups) == ["fedavg"], "late lacks a cell"
    first, second = groups["fedavg"]
    assert first.series("group_effect")[:2] == ([1, 2], pytest.approx([0.3, 0.2]))
    assert second.series("group_effect")[1] == pytest.approx([0.4, 0.3])
    assert averaged({}, GROUP_EFFECT) == {}


def test_targets_have_a_panel_each_and_the_average(
    tmp_path: Path, drawn: list[Any], made_up: Any
) -> None:
    results = made_up.cells(TARGETS, targets=True)
    targets_figure(results, tmp_path / "t.png")
    (figure,) = drawn
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["→ mnist", "→ svhn", "→ usps", "Average"]
    assert "Target accuracy" in figure.get_suptitle()
    for axes in figure.axes:
        assert len(axes.containers) == len(made_up.strategies)
    runs = results["base → svhn"].groups["vote"]
    mean = 100 * np.mean([run.selected()["target_accuracy"] for run in runs])
    assert figure.axes[1].containers[-1][0].get_xdata()[0] == pytest.approx(mean)


def test_one_cell_without_a_target_and_with_one_seed(
    tmp_path: Path, drawn: list[Any], made_up: Any
) -> None:
    targets_figure(made_up.cells(("x",), seeds=1), tmp_path / "t.png")
    assert [axes.get_title() for axes in drawn[0].axes] == ["x"]
    assert drawn[0].get_suptitle() == "Global accuracy after the last round, % (one seed)"


@pytest.mark.parametrize("count", [2, 5, 12])
def test_no_label_of_a_full_figure_lies_on_another(
    tmp_path: Path, drawn: list[Any], made_up: Any, count: int
) -> None:
    labels = tuple(f"method {i}(with=options, and={i})" for i in range(12))
    names = tuple(f"a target with a name {i}" for i in range(count))
    results = made_up.cells(names, targets=True, labels=labels)
    targets_figure(results, tmp_path / "t.png")
    figure_by_round(GROUP_EFFECT, averaged(results, GROUP_EFFECT), tmp_path / "g.png", cells=count)
    for figure in drawn:
        for axes in figure.axes:
            assert clashes(figure, axes) == []


def test_who_ran_on_other_models_is_marked_and_never_best(
    tmp_path: Path, drawn: list[Any], made_up: Any
) -> None:
    results = made_up.cells(("x",), labels=("a", "b"))
    for run in results["x"].groups["b"]:
        run.summary["one_architecture"] = "cnn"
    targets_figure(results, tmp_path / "t.png")
    (axes,) = drawn[0].axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b †"]
    filled = [c[0].get_markerfacecolor() != "white" for c in axes.containers]
    assert filled == [True, False]


def test_what_nobody_measured_is_an_empty_panel(
    tmp_path: Path, drawn: list[Any], made_up: Any
) -> None:
    results = made_up.cells(("x", "y"), labels=("a",))
    for run in results["x"].groups["a"]:
        run.summary["last"]["global_accuracy"] = None
    targets_figure(results, tmp_path / "t.png")
    assert [len(axes.containers) for axes in drawn[0].axes] == [0, 1, 0]

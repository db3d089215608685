"""A new figure is one row of the table: all that shows figures finds it there."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedkt.evaluation import figures
from fedkt.evaluation.figure import POINTS, Figure
from fedkt.evaluation.figures import FIGURES
from fedkt.evaluation.measures import Round

MATPLOTLIB = pytest.importorskip("matplotlib")


def gap_of(data: Round) -> float | None:
    """Return how far apart the best and the worst client are in personalised accuracy."""
    known = [value for value in data.honest("personalised-accuracy") if value is not None]
    return max(known) - min(known) if known else None


GAP = Figure(
    "gap", "Gap between clients", POINTS, "lower", "run", gap_of,
    definition="best minus worst personalised accuracy of a client.",
)  # fmt: skip


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Add the row; return the titles of all figures that are drawn from then on."""
    from matplotlib.figure import Figure as Canvas

    monkeypatch.setattr(figures, "FIGURES", (*FIGURES, GAP))
    drawn: list[str] = []
    save = Canvas.savefig

    def keep(self: Canvas, *args: Any, **kwargs: Any) -> None:
        drawn.append(self.get_suptitle())
        save(self, *args, **kwargs)

    monkeypatch.setattr(Canvas, "savefig", keep)
    return drawn


def test_one_row_is_a_figure_everywhere(
    here: Path,
    titles: list[str],
    fedkt: Callable[..., Any],
    write_toml: Callable[..., Path],
) -> None:
    file = write_toml(here)
    answer = fedkt("compare", file, "--strategies", "local,fedmd", "--seeds", 1, "--out", "out")
    assert answer.code == 0, answer.err
    run = here / "out" / "runs" / "fedmd-seed0"
    lines = (run / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [set(FIGURES_BY_ROUND) <= row.keys() for row in rows] == [True, True]
    accuracies = rows[-1]["personalised_accuracy"]["per_client"]
    assert rows[-1]["gap"] == max(accuracies) - min(accuracies)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert summary["last"]["gap"] == rows[-1]["gap"]
    with (here / "out" / "comparison.csv").open(encoding="utf-8", newline="") as table:
        by_strategy = {row["strategy"]: row for row in csv.DictReader(table)}
    assert float(by_strategy["fedmd"]["gap"]) == rows[-1]["gap"]

    points = f"{100 * rows[-1]['gap']:.2f}"
    page = (here / "out" / "report.html").read_text(encoding="utf-8")
    assert '<th scope="col">Gap between clients (points)</th>' in page
    assert f"<td>{points}</td>" in page
    assert 'alt="Gap between clients against the round for every strategy"' in page
    assert f"<b>{GAP.title}</b>: {GAP.definition}" in page
    assert (here / "out" / "figures" / "gap.png").is_file()
    assert "Gap between clients by round (no spread: one seed)" in titles

    titles.clear()
    answer = fedkt("report", run, "--markdown")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count('<th scope="col">Gap between clients (points)</th>') == 2, "results, rounds"
    assert f"<td>{points}</td>" in page
    assert titles.count("Gap between clients by round (one run)") == 1


FIGURES_BY_ROUND = [
    figure.name for figure in (*FIGURES, GAP) if figure.measure and not figure.optional
]


def test_names_and_columns_are_unique() -> None:
    for part in ("name", "title"):
        found = [getattr(figure, part) for figure in FIGURES]
        assert len(set(found)) == len(found)


def test_files_with_other_figures_can_be_read(
    here: Path,
    titles: list[str],
    fedkt: Callable[..., Any],
    write_toml: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A comparison written before a figure was added, or after, is shown without it."""
    answer = fedkt(
        "compare", write_toml(here, rounds=1), "--strategies", "fedmd", "--seeds", 1, "--out", "out"
    )
    assert answer.code == 0, answer.err
    monkeypatch.setattr(figures, "FIGURES", FIGURES[:-1])
    assert fedkt("report", "out").code == 0

from __future__ import annotations

import io
import itertools
import json
import re
import statistics
from pathlib import Path

import pytest
from rich.console import Console

from fedkt.errors import ConfigError
from fedkt.simulations.report.pages import write_comparison_report, write_run_report
from fedkt.simulations.report.tables import comparison_table, plain_table
from fedkt.simulations.results.comparison_folder import load_comparison
from fedkt.simulations.results.run_folder import Run, load_run
from fedkt.simulations.runs.csv_tables import write_comparison_csv

from .run_folders import (
    cells,
    edit,
    last_values,
    row_of,
    write_comparison,
    write_run,
)


def test_main_table_has_the_means_and_stds_of_the_seeds(
    comparison_dir: Path, comparison_page: str
) -> None:
    row = row_of(comparison_page, "knfu")
    for column, key in ((1, "personalised_accuracy"), (2, "global_accuracy")):
        values = last_values(comparison_dir, "knfu", key)
        expected = f"{100 * statistics.mean(values):.2f} ± {100 * statistics.stdev(values):.2f}"
        assert row[column] == expected
    assert row[3] == "–"
    for column, key in ((4, "worst_decile"), (5, "personalised_std")):
        values = last_values(comparison_dir, "knfu", key)
        expected = f"{100 * statistics.mean(values):.2f} ± {100 * statistics.stdev(values):.2f}"
        assert row[column] == expected
    assert row[6:] == ["20.00 ± 0.00", "0.0640", "0.0720", "13.0 ± 1.0"]
    assert row_of(comparison_page, "local")[6:9] == ["–", "0", "0"]


def test_paired_differences_are_over_seeds_against_local(
    comparison_dir: Path, comparison_page: str
) -> None:
    row = row_of(comparison_page, "knfu", nth=1)
    ours = last_values(comparison_dir, "knfu", "personalised_accuracy")
    alone = last_values(comparison_dir, "local", "personalised_accuracy")
    gaps = [100 * (a - b) for a, b in zip(ours, alone, strict=True)]
    error = statistics.stdev(gaps) / 3**0.5
    assert row[1] == "local"
    half_width = 4.302653 * error  # the 97.5 % quantile of t with two degrees of freedom
    assert row[2] == f"{statistics.mean(gaps):+.2f} ± {half_width:.2f} *"
    assert row[4] == "3"
    assert "95 % t interval" in comparison_page


def test_validation_selected_round_has_its_own_table(comparison_page: str) -> None:
    assert row_of(comparison_page, "knfu", nth=2)[:3] == ["knfu", "7.0 ± 0.0", "81.25 ± 0.00"]
    assert "Oracle" not in comparison_page


def test_pages_need_nothing_from_outside(comparison_page: str, tmp_path: Path) -> None:
    run_page = write_run_report(write_run(tmp_path / "run", "knfu")).read_text(encoding="utf-8")
    for page in (comparison_page, run_page):
        assert not re.search(r"https?://|<script|<link|@import|url\(", page)
        assert set(re.findall(r'src="([^"]{10})', page)) == {"data:image"}
        assert str(tmp_path) not in page
        assert "prefers-color-scheme: dark" in page
        assert "@media print" in page


def test_comparison_says_what_was_compared(comparison_dir: Path, comparison_page: str) -> None:
    for fact in ("digits", "dirichlet:0.3", "mlp × 5, cnn × 5", "0, 1, 2", "local, fedavg, fedmd"):
        assert fact in comparison_page
    names = {path.name for path in (comparison_dir / "figures").iterdir()}
    assert names == {"accuracy.png", "traffic.png", "gain.png", "labels.png", "weights-3-knfu.png"}
    assert comparison_page.count("<figure>") == 5


def test_marks_are_explained_only_where_used(comparison_page: str, tmp_path: Path) -> None:
    assert "fedavg †" in comparison_page
    assert "ran on it alone (cnn)" in comparison_page
    assert "‡" not in comparison_page
    home = write_comparison(tmp_path, ["local", "sheep"], 2, rounds=2, transductive=True)
    assert "‡ transductive" in write_comparison_report(home).read_text(encoding="utf-8")


def test_oracle_is_shown_as_no_result(tmp_path: Path) -> None:
    oracle = {"round": 1, "personalised_accuracy": 0.99, "global_accuracy": 0.9}
    home = write_comparison(tmp_path, ["local", "fedmd"], 1, rounds=2, oracle=oracle)
    page = write_comparison_report(home).read_text(encoding="utf-8")
    assert "an upper bound, not a result" in page
    assert "99.00" in page


def test_a_failure_reason_cannot_inject_markup(tmp_path: Path) -> None:
    home = write_comparison(tmp_path, ["local", "fedmd"], 1, rounds=3)
    log = home / "runs" / "fedmd-seed0" / "rounds.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    evil = {"client": 3, "phase": "learn", "reason": "<script>alert('x')</script>\u2028row 1 & 2"}
    for line in lines[:2]:
        line["failures"] = [evil]
    # Not ASCII only: a line separator inside a string must not split the line.
    log.write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
    )
    for page in (write_comparison_report(home), write_run_report(log.parent)):
        text = page.read_text(encoding="utf-8")
        assert "<script" not in text
        assert row_of(text, "fedmd", nth=-1) == [
            "fedmd", "learn", "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; row 1 &amp; 2",
            "3", "1 to 2", "2",
        ]  # fmt: skip
        assert "2 in all" in text


def test_many_kinds_of_failure_are_cut_short(tmp_path: Path) -> None:
    home = write_run(tmp_path / "run", "fedmd", rounds=60)
    log = home / "rounds.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["failures"] = [{"client": 1, "phase": "learn", "reason": f"{line['round']} " * 999}]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    page = write_run_report(home).read_text(encoding="utf-8")
    assert "60 in all" in page
    assert "20 further kinds of failure" in page
    assert max(len(cell) for row in cells(page) for cell in row) < 400


def test_run_report_shows_summary_rounds_baseline_and_diagnostics(tmp_path: Path) -> None:
    home = write_run(tmp_path / "run", "knfu", rounds=60, command="fedkt simulate a.toml")
    write_run(home / "baseline", "local", rounds=60)
    page = write_run_report(home).read_text(encoding="utf-8")
    last = load_run(home).summary["last"]
    row = row_of(page, "Last round (headline)")
    accuracy, std = last["personalised_accuracy"], last["personalised_std"]
    assert row[1:3] == ["60", f"{100 * accuracy:.2f} ± {100 * std:.2f}"]
    common, worst = (f"{100 * last[key]:.2f}" for key in ("global_accuracy", "worst_decile"))
    assert row[3:] == [common, "–", worst, "20.00", "3.00"]
    assert row_of(page, "Validation-selected round")[1] == "59"
    assert row_of(page, "Local training alone, last round")[1] == "60"
    rounds = page.partition("<h2>Rounds</h2>")[2]
    shown = [row[0] for row in cells(rounds) if re.fullmatch(r"\d+( \*)?", row[0])]
    assert shown[0] == "1"
    assert shown[-2:] == ["59 *", "60"]
    assert len(shown) < 27
    assert row_of(page, "effective_neighbours")
    assert "<code>fedkt simulate a.toml</code>" in page
    assert "None: every client" in page
    assert (home / "figures" / "gain.png").exists()


def test_run_report_without_baseline_or_rounds(tmp_path: Path) -> None:
    home = write_run(tmp_path / "run", "fedmd", rounds=1)
    write_run_report(home)
    assert not (home / "figures" / "gain.png").exists()
    (home / "rounds.jsonl").write_text("", encoding="utf-8")
    edit(
        home / "summary.json",
        lambda data: data.update(rounds=0, last=None, validation_selected=None),
    )
    assert "One run of 0 rounds" in write_run_report(home).read_text(encoding="utf-8")


def test_one_architecture_is_also_compared_with_its_own_baseline(tmp_path: Path) -> None:
    home = write_comparison(tmp_path, ["local", "fedavg"], 2, rounds=2)
    for seed in range(2):
        write_run(home / "runs" / f"local-cnn-seed{seed}", "local-cnn", seed, rounds=2)
        summary = home / "runs" / f"fedavg-seed{seed}" / "summary.json"
        where = f"../local-cnn-seed{seed}"
        edit(summary, lambda data, where=where: data.update(baseline=where))
    page = write_comparison_report(home).read_text(encoding="utf-8")
    pairs = [row for row in cells(page) if row[0] == "fedavg †" and row[1].startswith("local")]
    assert [row[1] for row in pairs] == ["local", "local-cnn"]
    assert pairs[0][2] != pairs[1][2]
    assert "of the same models" in page


def test_labels_are_no_markup(tmp_path: Path) -> None:
    label = "[red]a|b[/red] <b> $x$"
    home = write_comparison(tmp_path, ["local", "fedmd"], 1, rounds=2)
    edit(home / "runs" / "fedmd-seed0" / "summary.json", lambda data: data.update(label=label))
    runs: list[Run] = [load_run(home / "runs" / f"{name}-seed0") for name in ("local", "fedmd")]
    write_comparison_csv(home / "comparison.csv", runs)
    comparison = load_comparison(home)
    console = Console(width=160, record=True)
    console.print(comparison_table(comparison))
    assert label in console.export_text()
    assert r"| [red]a\|b[/red] <b> $x$ |" in plain_table(comparison)
    assert "[red]a|b[/red] &lt;b&gt; $x$" in write_comparison_report(home).read_text(
        encoding="utf-8"
    )


def test_one_seed_claims_no_spread(tmp_path: Path) -> None:
    table = plain_table(load_comparison(write_comparison(tmp_path, ["local", "fedmd"], 1)))
    assert "±" not in table
    assert "One seed" in table


def test_damage_is_reported_before_anything_is_written(tmp_path: Path) -> None:
    home = write_run(tmp_path / "run", "fedmd", rounds=2)
    (home / "summary.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"summary\.json is damaged"):
        write_run_report(home)
    assert not (home / "report.html").exists()
    with pytest.raises(ConfigError, match="not a comparison directory"):
        write_comparison_report(home)


def test_clients_are_listed_with_what_they_gained(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "knfu")
    write_run(run / "baseline", "local")
    page = write_run_report(run).read_text(encoding="utf-8")
    assert "Clients after the last round" in page
    table = page.partition("Clients after the last round")[2].partition("</table>")[0]
    assert table.count("<tr>") == 1 + 10
    gains = load_run(run).gains(load_run(run / "baseline"))
    for gain in gains:
        assert gain is not None
        assert f"<td>{100 * gain:+.2f}</td>" in table
    assert "Target accuracy (%)" not in page
    many = write_run(tmp_path / "many", "knfu", clients=60)
    assert "Clients after the last round" not in write_run_report(many).read_text(encoding="utf-8")


def test_a_comparison_on_a_target_shows_its_accuracy(tmp_path: Path) -> None:
    home = write_comparison(tmp_path, ["local", "fedavg"], 2)
    for seed, label in itertools.product(range(2), ("local", "fedavg")):
        summary = home / "runs" / f"{label}-seed{seed}" / "summary.json"
        edit(summary, lambda s, n=seed: s["last"].update(target_accuracy=0.6 + 0.1 * n))
    comparison = load_comparison(home)
    assert "| Strategy | Target accuracy (%) | Personalised accuracy (%) |" in plain_table(
        comparison
    )
    assert "65.00 ± 7.07" in plain_table(comparison)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison_table(comparison))
    shown = console.export_text()
    assert "Target %" in shown
    assert "Global %" not in shown
    assert shown.count("65.0 ± 7.1") == 2

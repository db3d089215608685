from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedkt.errors import ConfigError
from fedkt.simulations.report.tables import plain_differences
from fedkt.simulations.results.aggregates import aggregate
from fedkt.simulations.results.comparison_folder import load_comparison
from fedkt.simulations.results.run_folder import load_run
from fedkt.simulations.runs.csv_tables import columns, comparison_rows, write_comparison_csv

HEADER = (
    "strategy,seed,personalised_accuracy,global_accuracy,server_accuracy,"
    "worst_decile,personalised_std,negative_transfer,bytes_up,bytes_down,seconds"
)


def spread(mean: float, *values: float | None) -> dict[str, Any]:
    return {"mean": mean, "std": 0.1, "per_client": list(values)}


def write_run(
    path: Path, label: str = "knfu", seed: int = 0, accuracy: float = 0.8, **summary: Any
) -> Path:
    path.mkdir(parents=True)
    rounds = [
        {"round": 1, "personalised_accuracy": None, "bytes_up": 100, "bytes_down": 20},
        {
            "round": 2,
            "personalised_accuracy": spread(accuracy, accuracy, None, accuracy - 0.1),
            "server_accuracy": 0.7,
            "bytes_up": 100,
            "bytes_down": 30,
        },
    ]
    last = {
        "round": 2,
        "personalised_accuracy": accuracy,
        "global_accuracy": accuracy / 2,
        "server_accuracy": None,
        "negative_transfer": None,
    }
    data = {"strategy": label, "seed": seed, "last": last, "bytes_up": 200, "bytes_down": 50}
    (path / "config.toml").write_text(f"seed = {seed}\n", encoding="utf-8")
    (path / "rounds.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in rounds), encoding="utf-8"
    )
    (path / "federation.json").write_text('{"clients": 3}', encoding="utf-8")
    (path / "summary.json").write_text(
        json.dumps(data | {"seconds": 1.5} | summary), encoding="utf-8"
    )
    return path


def write_comparison(path: Path, accuracies: dict[str, list[float]]) -> Path:
    runs = [
        load_run(write_run(path / "runs" / f"{label}-seed{seed}", label, seed, accuracy))
        for label, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]
    write_comparison_csv(path / "comparison.csv", runs)
    (path / "comparison.toml").write_text("rounds = 2\n", encoding="utf-8")
    return path


def test_run_reads_back(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", seed=3, label="knfu"))
    assert (run.label, run.seed, run.config["seed"]) == ("knfu", 3, 3)
    assert run.series("personalised_accuracy") == ([2], [0.8], [0.1])
    assert run.series("server_accuracy") == ([2], [0.7], [0.0])
    assert run.series("global_accuracy") == ([], [], [])
    assert run.per_client("personalised_accuracy") == [0.8, None, pytest.approx(0.7)]
    assert run.per_client("global_accuracy") == []
    assert run.cumulative_bytes() == {1: 120, 2: 250}
    assert run.selected("oracle") == {}


def test_label_may_differ_from_the_strategy(tmp_path: Path) -> None:
    assert load_run(write_run(tmp_path / "run", label="KnFu, β = 3")).label == "KnFu, β = 3"


def test_baseline_is_nested_or_named(tmp_path: Path) -> None:
    alone = write_run(tmp_path / "alone", "local", accuracy=0.6, baseline=".")
    named = load_run(write_run(tmp_path / "named", accuracy=0.8, baseline="../alone"))
    nested = write_run(tmp_path / "nested", accuracy=0.8)
    assert load_run(nested).baseline() is None
    write_run(nested / "baseline", "local", accuracy=0.9)
    found = named.baseline()
    assert found is not None
    assert found.label == "local"
    assert named.gains(found) == [pytest.approx(0.2), None, pytest.approx(0.2)]
    inner = load_run(nested)
    assert inner.gains(inner.baseline()) == [pytest.approx(-0.1), None, pytest.approx(-0.1)]
    assert load_run(alone).baseline() is None
    assert named.gains(None) == []
    assert load_run(write_run(tmp_path / "moved", baseline="../gone")).baseline() is None


def test_torn_last_line_is_dropped(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    with (path / "rounds.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"round": 3, "personalised_acc')
    assert [entry["round"] for entry in load_run(path).rounds] == [1, 2]


def test_not_a_number_counts_as_not_measured(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    (path / "rounds.jsonl").write_text('{"round": 1, "server_accuracy": NaN}\n', encoding="utf-8")
    assert load_run(path).series("server_accuracy") == ([], [], [])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.toml", "seed = = 1", "config.toml is damaged"),
        ("rounds.jsonl", '{"round"\n{"round": 2}\n', "rounds.jsonl is damaged: line 1"),
        ("rounds.jsonl", '{"seconds": 2}\n', "line 1: no round number"),
        (
            "rounds.jsonl",
            '{"round": 1, "global_accuracy": 0.5}\n',
            "line 1: global_accuracy is not",
        ),
        ("summary.json", "[]", "summary.json is damaged: not an object"),
        ("summary.json", '{"strategy": "a"}', "no strategy or no whole seed"),
        ("summary.json", '{"strategy": "a", "seed": 1, "last": 3}', "last is not an object"),
        ("federation.json", "\xff", "federation.json is damaged"),
    ],
)
def test_damage_is_named_in_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = write_run(tmp_path / "run")
    (path / name).write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=message) as caught:
        load_run(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.toml", "rounds.jsonl", "summary.json", "federation.json"])
def test_missing_file_means_no_run_directory(tmp_path: Path, name: str) -> None:
    path = write_run(tmp_path / "run")
    (path / name).unlink()
    with pytest.raises(ConfigError, match=f"is not a run directory: it has no {name}"):
        load_run(path)
    with pytest.raises(ConfigError, match="no such folder"):
        load_run(tmp_path / "nowhere")


def test_csv_has_exactly_the_documented_columns(tmp_path: Path) -> None:
    home = write_comparison(tmp_path, {"local": [0.5], "knfu": [0.75]})
    lines = (home / "comparison.csv").read_text(encoding="utf-8").split("\n")
    assert lines == [
        HEADER,
        "local,0,0.5,0.25,,,,,200,50,1.5",
        "knfu,0,0.75,0.375,,,,,200,50,1.5",
        "",
    ]
    assert [path.name for path in home.iterdir() if "tmp" in path.name] == []
    runs = load_comparison(home).runs
    rows = comparison_rows(runs)
    assert [tuple(row) for row in rows] == [columns(runs), columns(runs)]


def test_comparison_keeps_file_order_and_ignores_other_folders(tmp_path: Path) -> None:
    home = write_comparison(tmp_path, {"zeta": [0.5, 0.6], "local": [0.4, 0.5], "alpha": [0.7]})
    write_run(home / "runs" / "stale-seed0", "stale")
    comparison = load_comparison(home)
    assert list(comparison.groups) == ["zeta", "local", "alpha"]
    assert [run.seed for run in comparison.groups["zeta"]] == [0, 1]
    assert comparison.reference == "local"
    assert comparison.config == {"rounds": 2}


def test_comparison_finds_labels_that_are_no_folder_names(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "runs" / "knfu-beta-3-seed0", "knfu (β/3)"))
    write_comparison_csv(tmp_path / "comparison.csv", [run])
    (tmp_path / "comparison.toml").touch()
    assert list(load_comparison(tmp_path).groups) == ["knfu (β/3)"]
    assert load_comparison(tmp_path).reference == "knfu (β/3)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strategy,round\nlocal,0\n", "it has no columns strategy and seed"),
        (f"{HEADER}\nlocal,first,,,,,,,,,\n", "a seed is not a whole number"),
        (f"{HEADER}\nlocal,7,,,,,,,,,\n", "no run of 'local' with seed 7"),
        (f"{HEADER}\n", "lists no runs"),
    ],
)
def test_damaged_comparison_is_named(tmp_path: Path, text: str, message: str) -> None:
    home = write_comparison(tmp_path, {"local": [0.5]})
    (home / "comparison.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_comparison(home)
    with pytest.raises(ConfigError, match="not a comparison directory"):
        load_comparison(home / "runs")


def test_aggregate_against_a_hand_computation(tmp_path: Path) -> None:
    home = write_comparison(tmp_path, {"local": [0.5, 0.6, 0.7], "knfu": [0.6, 0.8, 0.9]})
    local, knfu = aggregate(load_comparison(home))
    assert local["differences"] == []
    assert local["personalised_accuracy"] == pytest.approx({"mean": 0.6, "std": 0.1, "n": 3})
    assert knfu["seeds"] == [0, 1, 2]
    assert knfu["server_accuracy"] is None
    assert knfu["bytes_up"] == {"mean": 200, "std": 0, "n": 3}
    (pair,) = knfu["differences"]
    # Differences 0.1, 0.2, 0.2: mean 1/6, std sqrt(1/300), standard error sqrt(1/900), and the
    # 97.5 % quantile of t with 2 degrees of freedom is 4.302653. t = 5, p = 0.037750.
    assert pair["against"] == "local"
    found, halved = pair["personalised_accuracy"], pair["global_accuracy"]
    assert (found.mean, found.n) == (pytest.approx(1 / 6), 3)
    assert found.half_width == pytest.approx(4.302653 / 30)
    assert found.p == halved.p == pytest.approx(0.037750, abs=1e-6)
    assert halved.half_width == pytest.approx(4.302653 / 60)


def test_differences_are_starred_after_a_correction_over_the_lines(tmp_path: Path) -> None:
    some = [0.52, 0.53, 0.54]  # p = 0.035 against 0.5 thrice: enough alone, not of two
    alone = write_comparison(tmp_path / "alone", {"local": [0.5] * 3, "a": some})
    assert "| a | local | +3.00 ± 2.48 * | +1.50 ± 1.24 * | 3 |" in shown_differences(alone)
    both = write_comparison(tmp_path / "both", {"local": [0.5] * 3, "a": some, "b": some})
    assert "| a | local | +3.00 ± 2.48 | +1.50 ± 1.24 | 3 |" in shown_differences(both)
    assert "95 % t interval" in shown_differences(both)


def test_two_seeds_and_equal_seeds_are_never_starred(tmp_path: Path) -> None:
    home = write_comparison(
        tmp_path,
        {"local": [0.5] * 3, "two": [0.583, 0.583], "same": [0.9] * 3, "near": [0.9, 0.91]},
    )
    shown = shown_differences(home)
    assert "| two | local | +8.30 (no spread) | +4.15 (no spread) | 2 |" in shown
    assert "| same | local | +40.00 (no spread) | +20.00 (no spread) | 3 |" in shown
    assert "| near | local | +40.50 ± 6.35 | +20.25 ± 3.18 | 2 |" in shown


def shown_differences(home: Path) -> str:
    return plain_differences(load_comparison(home))


def test_differences_pair_by_seed_not_by_position(tmp_path: Path) -> None:
    home = write_comparison(tmp_path, {"local": [0.5, 0.6, 0.7], "knfu": [0.6, 0.8, 0.9]})
    lines = (home / "comparison.csv").read_text(encoding="utf-8").splitlines()
    (home / "comparison.csv").write_text(
        "\n".join([lines[0], *lines[2:4], *lines[4:6]]) + "\n", encoding="utf-8"
    )
    (pair,) = aggregate(load_comparison(home))[1]["differences"]
    found = pair["personalised_accuracy"]
    assert (found.mean, found.half_width, found.n) == (pytest.approx(0.2), None, 1)


def test_without_local_the_first_label_is_the_reference(tmp_path: Path) -> None:
    home = write_comparison(tmp_path, {"fedmd": [0.5], "knfu": [0.6]})
    rows = aggregate(load_comparison(home))
    assert [pair["against"] for row in rows for pair in row["differences"]] == ["fedmd"]
    assert rows[1]["personalised_accuracy"]["std"] is None

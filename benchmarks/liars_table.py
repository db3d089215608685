"""Print the tables of docs/results/liars.md from a finished ``compare benchmarks/liars.toml``.

python benchmarks/liars_table.py runs/liars
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from fedkt.simulations.report.tables import markdown
from fedkt.simulations.results.intervals import clear, t_interval

YARDSTICK = "fedpf(trust=off)"  # under "silent": nobody lies, so nobody need be distrusted
UNTARGETED = (
    "wrong", "random", "constant", "amplified", "inverted", "replay", "lie", "mimic", "on-off",
)  # fmt: skip
MOST = 4  # liars among ten clients; half of them and more cannot be told from the honest
OTHERS = ("flip", "adaptive-flip", "half")
METRICS = ("personalised_accuracy", "global_accuracy")

# (setting, attack) -> strategy -> seed -> accuracies in points
Results = dict[tuple[str, str], dict[str, dict[int, tuple[float, float]]]]


def read(out: Path) -> Results:
    """Read ``cells.csv``; a cell is called ``SETTING ATTACK``."""
    found: Results = defaultdict(lambda: defaultdict(dict))
    with (out / "cells.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            setting, _, attack = row["cell"].rpartition(" ")
            accuracies = tuple(100 * float(row[metric]) for metric in METRICS)
            found[setting, attack][row["strategy"]][int(row["seed"])] = accuracies
    return found


def yardstick(results: Results, setting: str, attack: str) -> dict[int, tuple[float, float]]:
    """Return what the honest clients reach without the liars, by seed."""
    k = attack.partition(":")[2]
    return results[setting, f"silent:{k}" if k else "none"][YARDSTICK]


def means(by_seed: dict[int, tuple[float, float]]) -> str:
    """Write personalised / global means over seeds."""
    return " / ".join(f"{statistics.fmean(v[m] for v in by_seed.values()):.1f}" for m in (0, 1))


def losses(results: Results, strategy: str, kinds: tuple[str, ...], metric: int) -> list[float]:
    """Return for each setting and attack the mean over seeds of yardstick minus strategy."""
    found = []
    for (setting, attack), by_strategy in results.items():
        kind, _, number = attack.partition(":")
        if kind in kinds and int(number) <= MOST:
            best, ours = yardstick(results, setting, attack), by_strategy[strategy]
            seeds = sorted(set(best) & set(ours))
            found.append(statistics.fmean(best[s][metric] - ours[s][metric] for s in seeds))
    return found


def print_setting(results: Results, setting: str, strategies: list[str]) -> None:
    """Print one setting: attacks by strategies."""
    kinds = ("none", "silent", *UNTARGETED, *OTHERS)
    attacks = [attack for place, attack in results if place == setting]
    attacks.sort(key=lambda a: (kinds.index(a.partition(":")[0]), a))
    table = [["Attack", *strategies, "Liars silent"]]
    for attack in attacks:
        row = results[setting, attack]
        cells = [means(row[s]) if row[s] else "–" for s in strategies]
        alone = "–" if attack == "none" else means(yardstick(results, setting, attack))
        table.append([attack, *cells, alone])
    print(f"**{setting}**, personalised / global accuracy (%)\n\n{markdown(table)}\n")


def print_summary(results: Results, strategies: list[str]) -> None:
    """Print the points each strategy loses, over all settings, kinds and numbers of liars."""
    table = [
        ["Strategy", "Attacks", "Rows", "Global: mean", "worst", "Personalised: mean", "worst"]
    ]
    for name, kinds in (("untargeted", UNTARGETED), ("targeted or half-honest", OTHERS)):
        for strategy in strategies:
            personal, common = (losses(results, strategy, kinds, m) for m in (0, 1))
            figures = [statistics.fmean(common), max(common), statistics.fmean(personal)]
            cells = [f"{v:.1f}" for v in (*figures, max(personal))]
            table.append([strategy, name, str(len(common)), *cells])
    print(f"Points lost against the same honest clients alone\n\n{markdown(table)}\n")


def print_price(results: Results, strategies: list[str]) -> None:
    """Print what each strategy loses against no trust where nobody lies, paired over seeds."""
    priced = [s for s in strategies if s.startswith("fedpf") and s != YARDSTICK]
    lines = [
        (setting, strategy, row)
        for (setting, attack), row in results.items()
        for strategy in priced
        if attack == "none"
    ]
    columns = []
    for metric in (0, 1):
        gaps = [t_interval(price(row, strategy, metric)) for _, strategy, row in lines]
        stars = clear([gap.p if gap else 1.0 for gap in gaps])
        columns.append(
            [
                gap.shown(2) + " *" * star if gap else "–"
                for gap, star in zip(gaps, stars, strict=True)
            ]
        )
    table = [["Setting", "Strategy", "Personalised (points)", "Global (points)", "Seeds"]]
    for (setting, strategy, row), *cells in zip(lines, *columns, strict=True):
        table.append([setting, strategy, *cells, str(len(price(row, strategy, 0)))])
    print(
        f"Without an attack: minus {YARDSTICK}, paired over seeds, mean ± half-width of the 95 % t "
        "interval; *: differs from 0 at 5 % after Holm's correction over the lines of the column"
        f"\n\n{markdown(table)}"
    )


def price(
    row: dict[str, dict[int, tuple[float, float]]], strategy: str, metric: int
) -> list[float]:
    """Return for each common seed the strategy's accuracy minus the yardstick's, in [-1, 1]."""
    seeds = sorted(set(row[strategy]) & set(row[YARDSTICK]))
    return [(row[strategy][s][metric] - row[YARDSTICK][s][metric]) / 100 for s in seeds]


def main(out: Path) -> None:
    """Print all tables."""
    results = read(out)
    strategies = list(dict.fromkeys(s for row in results.values() for s in row))
    print_summary(results, strategies)
    print_price(results, strategies)
    print()
    for setting in dict.fromkeys(setting for setting, _ in results):
        print_setting(results, setting, strategies)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

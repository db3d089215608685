"""Print the tables of docs/results/liars.md from a finished ``compare benchmarks/liars.toml``.

python benchmarks/liars_table.py runs/liars
"""

from __future__ import annotations

import csv
import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from fedkt.simulations.tables import markdown

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
    table = [["Setting", "Strategy", "Personalised (points)", "Global (points)"]]
    for (setting, attack), row in results.items():
        for strategy in strategies if attack == "none" else []:
            if strategy == YARDSTICK or not strategy.startswith("fedpf"):
                continue
            cells = []
            for metric in (0, 1):
                seeds = sorted(set(row[strategy]) & set(row[YARDSTICK]))
                gaps = [row[strategy][s][metric] - row[YARDSTICK][s][metric] for s in seeds]
                error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0
                cells.append(f"{statistics.fmean(gaps):+.2f} ± {error:.2f}")
            table.append([setting, strategy, *cells])
    print(f"Without an attack: minus {YARDSTICK}, mean ± standard error\n\n{markdown(table)}")


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

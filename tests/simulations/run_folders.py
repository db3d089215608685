"""Run folders made by hand, for reports: fast, and with numbers that are known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from fedkt.simulations.results.run_folder import load_run
from fedkt.simulations.runs.csv_tables import write_comparison_csv

LEVELS = {
    "local": (0.78, 0.42),
    "fedavg": (0.70, 0.63),
    "fedmd": (0.79, 0.55),
    "knfu": (0.83, 0.56),
}
BYTES = {
    "local": (0, 0),
    "fedavg": (248_000, 248_000),
    "fedmd": (8_000, 8_000),
    "knfu": (8_000, 9_000),
}


def accuracy(values: np.ndarray) -> dict[str, Any]:
    return {"mean": float(values.mean()), "std": float(values.std()), "per_client": values.tolist()}


def make_federation(rng: np.random.Generator, clients: int, classes: int) -> dict[str, Any]:
    shares = rng.dirichlet(np.full(clients, 0.3), size=classes).T
    counts = np.rint(shares * 120 * clients / classes).astype(int)
    sizes = counts.sum(axis=1).tolist()
    return {
        "dataset": "digits",
        "clients": clients,
        "classes": [str(c) for c in range(classes)],
        "label_counts": counts.tolist(),
        "sizes": {"train": sizes, "validation": [20] * clients, "test": [30] * clients},
        "public": 300,
        "common_test": 360,
        "models": ["cnn" if c % 2 else "mlp" for c in range(clients)],
        "notes": ["One client has no example of class 3."],
    }


def neighbour_weights(rng: np.random.Generator, clients: int) -> dict[str, Any]:
    weights = rng.gamma(0.4, size=(clients, clients)) + 2 * np.eye(clients)
    weights /= weights.sum(axis=1, keepdims=True)
    return {
        "weights": weights.tolist(),
        "clients": list(range(clients)),
        "estimated_distributions": rng.dirichlet(np.ones(10), size=clients).tolist(),
        "effective_neighbours": (1 / (weights**2).sum(axis=1)).tolist(),
    }


def write_run(
    path: Path,
    label: str,
    seed: int = 0,
    *,
    clients: int = 10,
    classes: int = 10,
    rounds: int = 8,
    **summary: Any,
) -> Path:
    """Write a run directory with believable, made-up figures."""
    rng = np.random.default_rng([seed, sum(map(ord, label)), clients])
    (path / "checkpoints").mkdir(parents=True)
    level = LEVELS.get(label, (0.75, 0.5))
    alone = np.random.default_rng([seed, clients]).normal(0, 0.08, clients)
    up, down = BYTES.get(label, (10_000, 10_000))
    lines, last = [], {}
    for number in range(1, rounds + 1):
        grown = 1 - np.exp(-number / 3)
        noise = rng.normal(0, 0.02, clients)
        personal = np.clip(level[0] * grown + alone + noise, 0, 1)
        common = np.clip(level[1] * grown + rng.normal(0, 0.04, clients), 0, 1)
        last = {
            "round": number,
            "personalised_accuracy": float(personal.mean()),
            "personalised_std": float(personal.std()),
            "worst_decile": float(personal.min()),
            "global_accuracy": float(common.mean()),
            "server_accuracy": 0.6 if label == "fedavg" else None,
            "negative_transfer": None if label == "local" else 0.2,
            "negative_transfer_loss": None if label == "local" else 0.03,
        }
        line = {
            "round": number,
            "personalised_accuracy": accuracy(personal),
            "global_accuracy": accuracy(common),
            "validation_accuracy": accuracy(np.clip(personal - 0.01, 0, 1)),
            "bytes_up": up,
            "bytes_down": down,
            "traffic": {"up": up * clients, "down_unicast": down * clients, "down_broadcast": 0},
            "participants": list(range(clients)),
            "seconds": 1.5,
            "failures": [],
            "strategy": neighbour_weights(rng, clients) if label == "knfu" else {},
        } | {
            key: last[key]
            for key in ("server_accuracy", "negative_transfer", "negative_transfer_loss")
        }
        lines.append(line)
    federation = make_federation(np.random.default_rng(seed), clients, classes)
    config = {
        "seed": seed,
        "rounds": rounds,
        "strategy": {"name": label},
        "data": {"partition": "dirichlet:0.3"},
    }
    (path / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    (path / "rounds.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    (path / "federation.json").write_text(json.dumps(federation), encoding="utf-8")
    (path / "summary.json").write_text(
        json.dumps(
            {
                "strategy": label,
                "label": label,
                "seed": seed,
                "rounds": rounds,
                "last": last,
                "validation_selected": last
                | {"round": rounds - 1, "personalised_accuracy": 0.8125},
                "bytes_up": up * rounds,
                "bytes_down": down * rounds,
                "seconds": 12.0 + seed,
                "one_architecture": "cnn" if label == "fedavg" else None,
                "transductive": False,
                "failures": 0,
                "notes": [],
            }
            | summary
        ),
        encoding="utf-8",
    )
    return path


def write_comparison(path: Path, labels: list[str], seeds: int, **options: Any) -> Path:
    runs = [
        load_run(write_run(path / "runs" / f"{label}-seed{seed}", label, seed, **options))
        for label in labels
        for seed in range(seeds)
    ]
    write_comparison_csv(path / "comparison.csv", runs)
    (path / "comparison.toml").write_text(tomli_w.dumps({"strategies": labels}), encoding="utf-8")
    return path


def edit(path: Path, change: Any) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def cells(page: str) -> list[list[str]]:
    """The text of all table rows of a page."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page, flags=re.S)
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, flags=re.S) for row in rows]


def row_of(page: str, name: str, nth: int = 0) -> list[str]:
    return [row for row in cells(page) if row and row[0] == name][nth]


def last_values(home: Path, label: str, key: str) -> list[float]:
    return [load_run(home / "runs" / f"{label}-seed{s}").summary["last"][key] for s in range(3)]

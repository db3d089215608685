"""The facts of runs for the pages of reports, from their files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fedkt.errors import without_digest
from fedkt.evaluation.figures import BYTES_TO_GOAL, ROUNDS_TO_GOAL
from fedkt.simulations.report.tables import attack_of, megabytes, percent
from fedkt.simulations.results.run_folder import Run

_MEASURED = {
    "split": "each client's own test split",
    "matched": "the common test set, weighted by each client's class frequencies",
}


def facts_of(runs: Sequence[Run], config: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts of runs for the table of a page, from their files."""
    first = runs[0]
    federation = first.federation
    models = models_of(federation)
    domains = [str(domain) for domain in federation.get("domains") or []]
    sizes = (federation.get("sizes") or {}).get("train") or []
    partition = _find(config, "partition") or _find(first.config, "partition")
    goal = _find(first.config, "accuracy_goal")
    facts: dict[str, Any] = {
        "Strategies" if len({run.label for run in runs}) > 1 else "Strategy": ", ".join(
            dict.fromkeys(run.label for run in runs)
        ),
        "Dataset": None if domains else federation.get("dataset"),
        "Clients of each domain": _counted(domains),
        "Target": _target(federation),
        "Clients": federation.get("clients"),
        "Partition": without_digest(compact(partition)) if partition else None,
        "Models": _counted(models),
        "Training examples per client": f"{min(sizes)} to {max(sizes)}" if sizes else None,
        "Public examples": federation.get("public"),
        "Common test examples": federation.get("common_test"),
        "Adapts to the target's unlabelled examples": _adapting(runs),
        "Personalised accuracy on": _MEASURED.get(str(_find(first.config, "personalised"))),
        "Attack": attack_of(first.config),
        "Accuracy goal": percent(goal) + " %" if goal else None,
        "Rounds": ", ".join(dict.fromkeys(str(run.summary.get("rounds")) for run in runs)),
        "Seed" if len({run.seed for run in runs}) == 1 else "Seeds": ", ".join(
            dict.fromkeys(str(run.seed) for run in runs)
        ),
        "Command": config.get("command") or first.summary.get("command"),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "", [])}


def goal_said(run: Run) -> str:
    """Return a sentence on the accuracy goal of a run; empty without one."""
    goal = _find(run.config, "accuracy_goal")
    if not goal:
        return ""
    rounds, size = run.figure(ROUNDS_TO_GOAL), run.figure(BYTES_TO_GOAL)
    what = f"Mean personalised accuracy of {percent(goal)} %"
    if rounds is None:
        return f"{what} was not reached."
    return f"{what} was reached first in round {rounds:.0f}, after {megabytes(size)} MB per client."


def models_of(federation: Mapping[str, Any]) -> list[str]:
    """Return the model of each client as people call it; empty where they are not known."""
    return [without_digest(str(model)) for model in federation.get("models") or []]


def compact(value: Any, most: int = 160) -> str:
    """Return a value as text of at most so many characters, numbers rounded."""
    text = value if isinstance(value, str) else json.dumps(_rounded(value), ensure_ascii=False)
    return text if len(text) <= most else text[: most - 1] + "…"


def _adapting(runs: Sequence[Run]) -> str | None:
    if not runs[0].federation.get("target"):
        return None
    who = list(dict.fromkeys(r.label for r in runs if r.summary.get("adapts")))
    if len({run.label for run in runs}) == 1:
        return "yes" if who else "no"
    return ", ".join(who) or "none"


def _target(federation: Mapping[str, Any]) -> str | None:
    if not federation.get("target"):
        return None
    if federation.get("transductive"):
        return f"{federation['target']}, unlabelled; transductive: tested on its public examples"
    return f"{federation['target']}, unlabelled; its training part is public, its test part tests"


def _counted(names: Sequence[str]) -> str:
    return ", ".join(f"{name} × {names.count(name)}" for name in dict.fromkeys(names))


def _find(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key in a configuration, outer tables first."""
    if key in config:
        return config[key]
    tables = [value for value in config.values() if isinstance(value, dict)]
    return next((found for found in (_find(table, key) for table in tables) if found), None)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value

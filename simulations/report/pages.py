"""Reports: a run or a comparison as one self-contained HTML page, or as a table of text.

The pages open offline: figures and styles are inside the file, and nothing is fetched or
executed. All text is escaped by the templates, since a reason for a failure may come from
a client.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkt.disk import write_atomic
from fedkt.evaluation.figure import Figure, value_of
from fedkt.evaluation.figures import PERSONALISED, SPREAD, TARGET, TRANSFER, panels_of
from fedkt.simulations.experiment.cells import slug
from fedkt.simulations.report import charts
from fedkt.simulations.report.class_tables import class_tables
from fedkt.simulations.report.run_facts import compact, facts_of, goal_said, models_of
from fedkt.simulations.report.tables import (
    ABSENT,
    DIFFERENCES_NOTE,
    differences,
    differences_head,
    marks,
    megabytes,
    over,
    percent,
    shown,
    table_of,
)
from fedkt.simulations.results.aggregates import aggregate
from fedkt.simulations.results.comparison_folder import Comparison, load_comparison
from fedkt.simulations.results.dropouts import failure_lines, failures_said
from fedkt.simulations.results.run_folder import (
    Run,
    defined,
    figures_of,
    load_run,
    selected_by,
)
from fedkt.simulations.results.selection import SELECTIONS
from fedkt.text import one_line

_ROWS, _FAILURES, _REASON, _CLIENTS = 24, 40, 300, 40


def write_run_report(run_dir: str | Path) -> Path:
    """Draw the figures of a run and write its ``report.html``.

    Parameters
    ----------
    run_dir : str | Path
        The run directory; ``figures/`` in it is created or updated.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ConfigError
        If the folder is no run directory or a file in it is damaged.
    """
    run = load_run(run_dir)
    baseline = run.baseline()
    chosen = run.selected("validation_selected").get("round")
    return render(
        run.path,
        "run.html",
        defined=defined([run]),
        run=run,
        baseline=baseline,
        same_epochs=run.same_epochs(),
        facts=facts_of([run], run.config),
        rounds=_thin(run, chosen),
        chosen=chosen,
        goal=goal_said(run),
        selected_by=selected_by([run]),
        diagnostics=(run.rounds[-1].get("strategy") or {}) if run.rounds else {},
        figures=_run_figures(run, baseline),
        by_round=by_round(
            run.path / "figures",
            ((figure, {run.label: [run]}) for figure in panels_of("")),
            band="clients",
        ),
        headline=[
            figure
            for figure in figures_of("summary", [run])
            if not figure.whole and figure is not SPREAD  # which stands behind ± already
            if figure is not TARGET or run.federation.get("target")
        ],
        by_row=figures_of("rounds", [run]),
        clients=_clients(run, baseline),
        class_tables=class_tables(run),
        failures=_failures([run]),
        failed=[(r.label, failures_said(r)) for r in (run, baseline) if r and failures_said(r)],
        notes=_notes([run]),
    )


def write_comparison_report(directory: str | Path) -> Path:
    """Draw the figures of a comparison and write its ``report.html``.

    Parameters
    ----------
    directory : str | Path
        The comparison directory; ``figures/`` in it is created or updated.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    ConfigError
        If the folder is no comparison directory or a file in it is damaged.
    """
    comparison = load_comparison(directory)
    rows = {
        selection: aggregate(comparison, selection)
        for selection in SELECTIONS
        if any(run.selected(selection) for run in comparison.runs)
    }
    headline = rows.get("last") or aggregate(comparison)
    return render(
        comparison.path,
        "comparison.html",
        defined=defined(comparison.runs),
        comparison=comparison,
        facts=facts_of(comparison.runs, comparison.config),
        tables={name: table_of(lines, name == "last") for name, lines in rows.items()},
        differences=differences(headline),
        differences_head=differences_head(),
        differences_note=DIFFERENCES_NOTE,
        own_baselines=any(len(row["differences"]) > 1 for row in headline),
        over=over(headline),
        selected_by=selected_by(comparison.runs),
        marks=[*marks(headline), *failure_lines(comparison.runs)],
        figures=_comparison_figures(comparison),
        by_round=by_round(
            comparison.path / "figures",
            ((figure, comparison.groups) for figure in panels_of("")),
        ),
        failures=_failures(comparison.runs),
        notes=_notes(comparison.runs),
    )


def render(folder: Path, template: str, **context: Any) -> Path:
    """Write ``report.html`` into a folder from one of the templates."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"percent": percent, "megabytes": megabytes, "compact": compact}
    pages.filters["figure"] = lambda row, figure: shown(figure, value_of(row, figure.name))
    page = folder / "report.html"
    write_atomic(page, pages.get_template(template).render(context, absent=ABSENT))
    return page


def _run_figures(run: Run, baseline: Run | None) -> dict[str, list[tuple[str, str]]]:
    """Draw the figures that a run has data for: name → (label, image as a data URI)."""
    folder = run.path / "figures"
    groups = {run.label: [run]} | ({"local training": [baseline]} if baseline else {})
    drawn = {"accuracy": charts.accuracy_figure(groups, folder / "accuracy.png", band="clients")}
    drawn["traffic"] = charts.traffic_figure(groups, folder / "traffic.png")
    if charts.shares_answers(run):
        drawn["leakage"] = charts.leakage_figure(groups, folder / "leakage.png", band="clients")
    if (folder / "features.png").is_file():  # of the command ``fedkt features``
        drawn["features"] = folder / "features.png"
    gains = run.gains(baseline)
    if _known(gains):
        drawn["gain"] = charts.gain_figure({run.label: [gains]}, folder / "gain.png")
    shared = _shared_figures([run], folder)
    return {name: [(run.label, embed(path))] for name, path in drawn.items()} | shared


def _comparison_figures(comparison: Comparison) -> dict[str, list[tuple[str, str]]]:
    """Draw the figures that a comparison has data for: name → (label, image as a data URI)."""
    folder, groups = comparison.path / "figures", comparison.groups
    drawn = {"accuracy": charts.accuracy_figure(groups, folder / "accuracy.png", band="seeds")}
    drawn["traffic"] = charts.traffic_figure(groups, folder / "traffic.png")
    if any(map(charts.shares_answers, comparison.runs)):
        drawn["leakage"] = charts.leakage_figure(groups, folder / "leakage.png", band="seeds")
    alone = {run.seed: run for run in groups[comparison.reference]}
    gains: dict[str, list[list[float | None]]] = {}
    for label, runs in groups.items():
        if label != comparison.reference:
            by_seed = [run.gains(run.baseline() or alone.get(run.seed)) for run in runs]
            gains |= {label: [seed_gains for seed_gains in by_seed if _known(seed_gains)]}
    gains = {label: by_seed for label, by_seed in gains.items() if by_seed}
    if gains:
        drawn["gain"] = charts.gain_figure(gains, folder / "gain.png")
    shared = _shared_figures([runs[0] for runs in groups.values()], folder)
    return {name: [("", embed(path))] for name, path in drawn.items()} | shared


def _shared_figures(runs: Sequence[Run], folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Draw label distribution and neighbour weights, for the first seed of each label."""
    drawn: dict[str, list[tuple[str, str]]] = {}
    federation = runs[0].federation
    counts = federation.get("label_counts")
    if counts:
        path = folder / "labels.png"
        charts.labels_figure(counts, federation.get("classes") or [], path)
        drawn["labels"] = [(f"seed {runs[0].seed}", embed(path))]
    for number, run in enumerate(runs):
        diagnostics = (run.rounds[-1].get("strategy") or {}) if run.rounds else {}
        weights = diagnostics.get("weights")
        ids = diagnostics.get("clients") or list(range(len(weights or [])))
        if weights and all(isinstance(row, list) and len(row) == len(ids) for row in weights):
            path = folder / f"weights-{number}-{slug(run.label)}.png"
            effective = diagnostics.get("effective_neighbours")
            charts.weights_figure(weights, ids, path, effective=effective)
            drawn.setdefault("weights", []).append((f"{run.label}, seed {run.seed}", embed(path)))
    return drawn


def _known(gains: Sequence[float | None]) -> bool:
    return any(gain is not None for gain in gains)


def by_round(
    folder: Path, every: Iterable[tuple[Figure, Mapping[str, Sequence[Run]]]], **how: Any
) -> list[tuple[Figure, str]]:
    """Draw the figures with a picture of their own that runs have values of."""
    return [
        (
            figure,
            embed(charts.figure_by_round(figure, groups, folder / f"{figure.name}.png", **how)),
        )
        for figure, groups in every
        if any(charts.drawable(figure, runs) for runs in groups.values())
    ]


def embed(path: Path) -> str:
    """Return a PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _clients(run: Run, baseline: Run | None) -> list[list[str]]:
    """Return the table of clients after the last round, header and body; empty for very many."""
    accuracies, gains = run.per_client(PERSONALISED.name), run.gains(baseline)
    if not accuracies or len(accuracies) > _CLIENTS:
        return []
    about = run.federation
    columns = {
        "Name": about.get("client_names"),
        "Domain": about.get("domains"),
        "Model": models_of(about),
        "Training examples": (about.get("sizes") or {}).get("train"),
        PERSONALISED.headed(): [percent(value) for value in accuracies],
        TRANSFER.headed(): [percent(value, "+") for value in gains],
    }
    shown = {name: c for name, c in columns.items() if c and len(c) == len(accuracies)}
    body = [[str(i), *map(str, line)] for i, line in enumerate(zip(*shown.values(), strict=True))]
    return [["Client", *shown], *body]


def _thin(run: Run, selected: int | None) -> list[dict[str, Any]]:
    """Return about `_ROWS` rounds at most: evenly spread, the last and the selected one."""
    step = -(-len(run.rounds) // _ROWS) or 1
    last = len(run.rounds) - 1
    return [
        entry
        for index, entry in enumerate(run.rounds)
        if index in (0, last) or (index + 1) % step == 0 or entry["round"] == selected
    ]


def _failures(runs: Iterable[Run]) -> dict[str, Any]:
    """Return failures grouped by strategy, phase and reason, the most frequent first."""
    groups: dict[tuple[str, str, str], list[tuple[int, str]]] = {}
    for run in runs:
        for entry in run.rounds:
            for failure in entry.get("failures") or []:
                reason = compact(one_line(failure.get("reason")), _REASON)
                key = (run.label, str(failure.get("phase")), reason)
                groups.setdefault(key, []).append((entry["round"], str(failure.get("client"))))
    body = []
    for key, cases in sorted(groups.items(), key=lambda item: -len(item[1])):
        clients = compact(", ".join(dict.fromkeys(client for _, client in cases)), 60)
        first, last = min(cases)[0], max(cases)[0]
        span = str(first) if first == last else f"{first} to {last}"
        body.append([key[0], key[1], key[2], clients, span, str(len(cases))])
    total = sum(map(len, groups.values()))
    return {"rows": body[:_FAILURES], "total": total, "hidden": max(0, len(body) - _FAILURES)}


def _notes(runs: Iterable[Run]) -> list[str]:
    notes = []
    for run in runs:
        notes += [str(note) for note in run.federation.get("notes") or []]
        notes += [f"{run.label}: {note}" for note in run.summary.get("notes") or []]
    return list(dict.fromkeys(notes))

"""Comparing strategies: every strategy with every seed, then one table and report."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w

from fedkt.by_value import carried
from fedkt.disk import write_atomic
from fedkt.errors import ConfigError, DiskError, RunFailedError, unknown
from fedkt.options import hyper_parameters
from fedkt.simulations.engines.engine import kind_of
from fedkt.simulations.experiment import config as config_
from fedkt.simulations.experiment.cells import Cell, cells_of, slug
from fedkt.simulations.experiment.config import Experiment
from fedkt.simulations.experiment.labels import label_of, titles
from fedkt.simulations.experiment.references import read_entry, read_strategy
from fedkt.simulations.results.comparison_folder import COMPARISON, RUNS, TABLE
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.results.run_folder import is_begun, is_finished, load_run
from fedkt.simulations.runs.content import check_content, parts_of
from fedkt.simulations.runs.csv_tables import write_comparison_csv
from fedkt.simulations.runs.fitting import with_public
from fedkt.simulations.runs.local_baseline import budget, local_twin, private_training, rehearses
from fedkt.simulations.runs.plan import (
    Plan,
    engine_session,
    made,
    prepare,
)
from fedkt.simulations.runs.processes import in_processes
from fedkt.simulations.runs.progress import RunProgress, Silent
from fedkt.simulations.runs.run import execute
from fedkt.strategies.construction import strategy_class
from fedkt.text import one_line


@dataclass(frozen=True)
class Entry:
    """One strategy of a comparison: its label and ``[strategy]`` section."""

    label: str
    section: Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """One run of a comparison.

    ``training`` is the private training of a round in words;
    ``baseline`` and ``same_epochs`` are the folders of runs before it (see ``execute``);
    ``notes`` are those of its plan.
    """

    label: str
    seed: int
    experiment: Experiment
    training: str
    compared: bool
    baseline: str | None = None
    same_epochs: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The name of its run directory."""
        return f"{slug(self.label)}-seed{self.seed}"


@dataclass(frozen=True)
class Part:
    """Runs that are executed together: one cell with one seed, whose data are built once."""

    cell: Cell
    seed: int
    jobs: tuple[Job, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of a cell's first seed, for which alone its runs are planned at first."""
        return tuple(dict.fromkeys(note for job in self.jobs for note in job.notes))

    @property
    def name(self) -> str:
        """The name in messages."""
        return ", ".join(filter(None, (self.cell.name, f"seed {self.seed}")))


def entries_of(experiment: Experiment) -> list[Entry]:
    """Return the strategies of a comparison.

    Hyper-parameters in ``[strategy]`` go to every strategy that has them; those in
    parentheses, ``knfu(beta=2)``, to that strategy alone. ``LABEL = knfu(beta=2)`` gives a
    strategy its name in tables, figures and folders.

    Raises
    ------
    ConfigError
        If none are named, one is named twice, a label is the name of another strategy, or a
        common hyper-parameter fits none.
    """
    common = {k: v for k, v in experiment.strategy.items() if k != "name"}
    read = [read_entry(reference) for reference in experiment.compare.strategies]
    sections = [(label, read_strategy(named)) for label, named in read]
    shown = titles(str(section["name"]) for label, section in sections if label is None)
    entries, used = [], set()
    for label, section in sections:
        has = hyper_parameters(strategy_class(section["name"]))
        used |= common.keys() & set(has)
        shared = {k: v for k, v in common.items() if k in has}
        entries.append(Entry(label_of(label, section, shown), {**shared, **section}))
    if not entries:
        raise ConfigError("compare: name the strategies, e.g. --strategies local,fedmd,knfu.")
    folders = [slug(e.label) for e in entries]
    for place, entry in enumerate(entries):
        if folders[place] in folders[:place]:
            raise ConfigError(
                f"compare: {entry.label} is named twice; write LABEL = {entry.section['name']}."
            )
    for key in common.keys() - used:
        raise unknown("option of the compared strategies", key, _all_options(entries))
    return entries


def plan_jobs(experiment: Experiment) -> list[Job]:
    """Return all runs of a comparison, each baseline before those that need it."""
    entries = entries_of(experiment)
    experiment = _with_public(experiment, entries)
    first: list[tuple[Entry, Plan]] = []
    for entry in entries:  # everything that can be wrong shows here, before the first run
        first.append((entry, prepare(_experiment(experiment, entry, 0), reduce_to_one=True)))
    baselines = {budget(p): e.label for e, p in reversed(first) if _alone(e)}
    extra: dict[str, Experiment] = {}
    for entry, plan in first:
        for rehearsal in (True, False):
            if not _is_yardstick(entry) and budget(plan, rehearsal) not in baselines:
                label = _baseline_label(plan, experiment, rehearsal)
                baselines[budget(plan, rehearsal)] = label
                extra[label] = local_twin(plan, rehearsal)
    jobs = []
    for offset in range(experiment.compare.seeds):
        seed = experiment.seed + offset
        for label, twin in extra.items():
            jobs.append(Job(label, seed, twin.with_values(seed=seed), label, compared=False))
        local_first = sorted(first, key=lambda pair: not _alone(pair[0]))
        for entry, plan in local_first:
            setting = _experiment(experiment, entry, offset)
            notes = () if offset else plan.notes
            job = Job(entry.label, seed, setting, private_training(plan), True, notes=notes)
            if not _is_yardstick(entry):
                folder = f"{slug(baselines[budget(plan)])}-seed{seed}"
                job = replace(job, baseline=folder)
            if not _is_yardstick(entry) and rehearses(plan):
                folder = f"{slug(baselines[budget(plan, rehearsal=False)])}-seed{seed}"
                job = replace(job, same_epochs=folder)
            jobs.append(job)
    return jobs


def compare(
    experiment: Experiment,
    parts: Sequence[Part],
    out: Path,
    progress: RunProgress,
    command: str | None = None,
) -> None:
    """Run a comparison, or finish one, and write ``comparison.csv`` (one for each cell).

    Parameters
    ----------
    experiment : Experiment
        With ``compare`` filled in.
    parts : Sequence[Part]
        The result of :func:`plan_parts`.
    out : Path
        The comparison's folder; finished runs in it are kept, begun ones go on. Each of
        several cells is a comparison of its own in ``cells/NAME``.
    progress : RunProgress
        The display of progress.
    command : str, optional
        The command line, for the report.

    Raises
    ------
    ConfigError
        Before anything runs, if the rounds of a run that is there are damaged, or were made with
        other data or other files of the user's.
    RunFailedError
        At the end, if runs have failed; the others are complete. At once, if a process of the
        comparison dies, or (DiskError) the disk takes no more.
    """
    for part in parts:
        for job in part.jobs:
            read_rounds(part.cell.folder(out) / RUNS / job.folder)
    cells = list({id(p.cell): p.cell for p in parts}.values())
    failed: list[str] = []
    _check_contents([p for p in parts if p.seed == experiment.seed], out)
    with engine_session(experiment):
        save_settings(out, experiment, command)
        for cell in cells:
            folder = cell.folder(out)
            (folder / RUNS).mkdir(parents=True, exist_ok=True)
            if cell.name:
                save_settings(folder, cell.experiment, command)
        try:
            for part, failures in _carry_out(experiment, parts, out, progress, command):
                failed += failures
                _write_table(part.cell, out, parts)
        finally:  # also of what an interruption has left finished
            for cell in cells:
                _write_table(cell, out, parts)
    if failed:
        runs = sum(len(p.jobs) for p in parts)
        raise RunFailedError(f"{len(failed)} of {runs} runs failed. First: {failed[0]}")


def plan_parts(experiment: Experiment) -> list[Part]:
    """Return the parts of a comparison: all cells of the first seed, then of the next.

    Raises
    ------
    ConfigError
        For anything that cannot be run.
    """
    if experiment.run.executor == "tune":
        raise ConfigError(
            'run.executor = "tune" measures anew in every run, and those of a comparison must be '
            "alike; tune one run and copy its run.plan."
        )
    if experiment.compare.processes > 1 and not kind_of(experiment.run).many_runs:
        raise ConfigError('compare.processes above 1 needs run.grid = "in-process".')
    parts = []
    for cell in cells_of(experiment):
        by_seed: dict[int, list[Job]] = {}
        try:
            jobs = plan_jobs(cell.experiment)
        except ConfigError as error:
            raise ConfigError(f"{cell.name}: {error}" if cell.name else str(error)) from error
        for job in jobs:
            by_seed.setdefault(job.seed, []).append(job)
        parts += [Part(cell, seed, tuple(jobs)) for seed, jobs in by_seed.items()]
    return sorted(parts, key=lambda p: p.seed)  # stable: within a seed as written


def save_settings(folder: Path, experiment: Experiment, command: str | None) -> None:
    """Write ``comparison.toml``."""
    folder.mkdir(parents=True, exist_ok=True)
    resolved = tomli_w.dumps(config_.without_none(experiment.model_dump(mode="json")))
    head = tomli_w.dumps({"command": command}) if command else ""
    write_atomic(folder / COMPARISON, head + resolved)


def _carry_out(
    experiment: Experiment,
    parts: Sequence[Part],
    out: Path,
    progress: RunProgress,
    command: str | None,
) -> Iterator[tuple[Part, list[str]]]:
    """Yield each finished part and its failures."""
    processes = experiment.compare.processes
    if processes == 1:
        for part in parts:
            yield part, run_part(part, out, command, progress)
        return
    act = partial(run_part, out=out, command=command, progress=Silent())
    jobs = [job.experiment for part in parts for job in part.jobs]
    needed = carried(reference for job in jobs for reference in parts_of(job))
    for part, failures in in_processes(act, parts, processes, needed):
        progress.part_finished(part.name, sum(j.experiment.rounds for j in part.jobs))
        yield part, failures


def run_part(part: Part, out: Path, command: str | None, progress: RunProgress) -> list[str]:
    """Run one cell with one seed; return a line for each run that failed."""
    failed: list[str] = []
    broken: set[str] = set()
    runs = part.cell.folder(out) / RUNS
    where = f"{part.cell.name}, " if part.cell.name else ""
    for job in part.jobs:
        name = f"{where}{job.label}, seed {job.seed}"
        if {job.baseline, job.same_epochs} & broken:
            failed.append(f"{name}: its baseline failed")
            continue
        folder = runs / job.folder
        try:
            execute(
                prepare(job.experiment, reduce_to_one=True),
                folder,
                label=job.label,
                baseline=runs / job.baseline if job.baseline else None,
                same_epochs=runs / job.same_epochs if job.same_epochs else None,
                progress=progress,
                command=command,
                where=where,
            )
        except DiskError:
            raise
        except Exception as error:  # a fault in one method must not cost the others
            folder.mkdir(exist_ok=True)
            write_atomic(folder / "error.txt", traceback.format_exc())
            failed.append(f"{name}: {type(error).__name__}: {one_line(error)}")
            broken.add(job.folder)
    return failed


def _check_contents(parts: Sequence[Part], out: Path) -> None:
    """Refuse to add runs to those of other data: one table would show both."""
    for part in parts:
        for job in part.jobs:
            folder = part.cell.folder(out) / RUNS / job.folder
            if is_begun(folder):
                check_content(folder, prepare(job.experiment, reduce_to_one=True).content)


def _write_table(cell: Cell, out: Path, parts: Sequence[Part]) -> None:
    """Write the rows of the finished runs: by strategy in the given order, then by seed."""
    order = [entry.label for entry in entries_of(cell.experiment)]
    compared = [j for p in parts if p.cell is cell for j in p.jobs if j.compared]
    compared.sort(key=lambda j: (order.index(j.label), j.seed))
    folder = cell.folder(out)
    folders = [folder / RUNS / j.folder for j in compared]
    done = [load_run(f) for f in folders if is_finished(f)]
    write_comparison_csv(folder / TABLE, done)


def _experiment(experiment: Experiment, entry: Entry, offset: int) -> Experiment:
    return experiment.with_values(strategy=dict(entry.section), seed=experiment.seed + offset)


def _with_public(experiment: Experiment, entries: Sequence[Entry]) -> Experiment:
    """Return a comparison in which it is decided whether there is a public set, for all alike."""
    return with_public(experiment, [made(entry.section) for entry in entries])


def _alone(entry: Entry) -> bool:
    """Return whether the clients of a strategy train alone: it is a baseline of the others."""
    return strategy_class(str(entry.section["name"])).alone


def _is_yardstick(entry: Entry) -> bool:
    """Return whether others are compared with a strategy, which itself has no baseline."""
    return _alone(entry) or strategy_class(str(entry.section["name"])).pools


def _baseline_label(plan: Plan, experiment: Experiment, rehearsal: bool) -> str:
    training, models = budget(plan, rehearsal)
    label = "local" if models == experiment.models else f"local-{'-'.join(models)}"
    return f"{label} ({training})"


def _all_options(entries: list[Entry]) -> set[str]:
    classes = [strategy_class(str(e.section["name"])) for e in entries]
    return {option for cls in classes for option in hyper_parameters(cls)}

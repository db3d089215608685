"""What the commands do, once the experiment is known."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from fedkt.disk import only_user
from fedkt.errors import ConfigError, DiskError, RunFailedError
from fedkt.evaluation.figures import PERSONALISED, Figure, figures_at, target_first
from fedkt.simulations.cli.folders import fresh_folder
from fedkt.simulations.engines.stopping import Stopped, check
from fedkt.simulations.experiment import config as config_
from fedkt.simulations.experiment.cells import cells_of, settled, slug
from fedkt.simulations.experiment.config import Experiment
from fedkt.simulations.experiment.labels import titles
from fedkt.simulations.report.cells_report import cells_markdown, print_cells, write_cells_report
from fedkt.simulations.report.pages import write_comparison_report, write_run_report
from fedkt.simulations.report.tables import (
    comparison_table,
    plain_differences,
    plain_table,
    shown,
)
from fedkt.simulations.results.comparison_folder import (
    CELLS,
    COMPARISON,
    TABLE,
    has_runs,
    load_cells,
    load_comparison,
)
from fedkt.simulations.results.dropouts import failures_said
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.results.run_folder import CONFIG, Run, is_run, load_run, read_settings
from fedkt.simulations.runs.comparison import Part, compare, plan_parts
from fedkt.simulations.runs.content import check_content
from fedkt.simulations.runs.local_baseline import local_twin, private_training, rehearses
from fedkt.simulations.runs.plan import Plan, engine_session, prepare
from fedkt.simulations.runs.progress import RunProgress, progress_for
from fedkt.simulations.runs.run import execute
from fedkt.strategies.construction import make_strategy

MOST_NOTES, MOST_CELLS = 10, 3  # on the console


def run_simulate(experiment: Experiment, out: Path | None, resume: bool, command: str) -> None:
    """Run one strategy and its local baseline; write the report."""
    console = Console()
    plan = prepare(experiment)
    name = str(experiment.strategy["name"])
    label = titles([name])[name]
    folder = fresh_folder(out, slug(label), resume, CONFIG)
    if resume:
        _check_same(folder / CONFIG, plan.experiment)
        check_content(folder, plan.content)
    _say_notes({note: [""] for note in plan.federation.notes}, console)
    with _resumable("simulate", folder / CONFIG):
        _simulate(plan, folder, label, command, console)
        report = write_run_report(folder)
        _show_run(folder, label, console)
    console.print(f"Report: {escape(str(report))}", soft_wrap=True, highlight=False)


@contextmanager
def _resumable(command: str, settings: Path) -> Iterator[None]:
    """Add the command that resumes to the error that stops a run with settings in its folder."""
    try:
        try:
            yield
        except Exception:
            check()  # a signal can come out of native code as any error
            raise
    except (KeyboardInterrupt, Stopped, RunFailedError) as error:
        # typer turns Ctrl-C into an exit status and loses its notes.
        stopped = Stopped(signal.SIGINT) if isinstance(error, KeyboardInterrupt) else error
        if settings.is_file():
            folder = shlex.quote(str(settings.parent))
            stopped.add_note(f"go on with: fedkt {command} --out {folder} --resume")
        raise stopped from error.__cause__


def _simulate(plan: Plan, folder: Path, label: str, command: str, console: Console) -> None:
    """Run a strategy, after the local training that it is compared with."""
    experiment = plan.experiment
    alone = experiment.strategy["name"] == "local"
    baseline = None if alone else folder / "baseline"
    same_epochs = folder / "same_epochs" if not alone and rehearses(plan) else None
    beside = sum(path is not None for path in (baseline, same_epochs))
    progress = progress_for(console, experiment.rounds * (1 + beside))
    try:
        with only_user(folder), engine_session(experiment):
            # Before the baseline, so that a run stopped early can only go on as what it is.
            if not is_run(folder):
                config_.save(folder / CONFIG, plan.experiment)
            for path, rehearsal in ((baseline, True), (same_epochs, False)):
                if path is not None:
                    _train_alone(plan, path, rehearsal, progress)
            execute(
                plan,
                folder,
                label=label,
                baseline=baseline,
                same_epochs=same_epochs,
                progress=progress,
                command=command,
            )
    finally:
        progress.close()


def _show_run(folder: Path, label: str, console: Console) -> None:
    """Print the headline figures of a run."""
    run = load_run(folder)
    values = [(f, run.figure(f)) for f in target_first(figures_at("summary")) if f.clause]
    clauses = ", ".join(
        f"{figure.clause} {_with_unit(figure, value)}"
        for figure, value in values
        if figure.always or value is not None
    )
    console.print(
        f"{label}, round {run.selected()['round']}: {clauses}"
        + "".join(f"; {clause}" for clause in _failed(run)),
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    base, same = run.baseline(), run.same_epochs()
    if base is not None and same is not None:
        equal, epochs = (_with_unit(PERSONALISED, r.figure(PERSONALISED)) for r in (base, same))
        console.print(
            f"Personalised accuracy {equal} alone on as many private samples, rehearsal included, "
            f"{epochs} alone for as many private epochs",
            highlight=False,
            soft_wrap=True,
        )


def _train_alone(plan: Plan, folder: Path, rehearsal: bool, progress: RunProgress) -> None:
    training = f" ({private_training(plan, rehearsal)})" if rehearses(plan) else ""
    twin = prepare(local_twin(plan, rehearsal))
    execute(twin, folder, label=f"local{training}", progress=progress)


def run_compare(experiment: Experiment, out: Path | None, resume: bool, command: str) -> None:
    """Run a comparison; write and print its table."""
    console = Console()
    experiment = settled(experiment)  # reports must not need the data sets
    folder = fresh_folder(out, "compare", resume, COMPARISON)
    if resume:
        _check_same(folder / COMPARISON, experiment)
    parts = plan_parts(experiment)
    _note_budgets(parts[0], console)
    notes: dict[str, list[str]] = {}
    for part in parts:
        for note in part.notes:
            notes.setdefault(note, []).append(part.cell.name)
    _say_notes(notes, console)
    rounds = sum(job.experiment.rounds for part in parts for job in part.jobs)
    progress = progress_for(console, rounds)
    failure = None
    with _resumable("compare", folder / COMPARISON):
        try:
            with only_user(folder):
                compare(experiment, parts, folder, progress, command)
        except DiskError:
            raise
        except RunFailedError as error:  # the runs that went well are shown all the same
            failure = error
        finally:
            progress.close()
        if experiment.compare.cells:
            _show_cells(folder, console)
        else:
            _show_comparison(folder, console)
        if failure is not None:
            raise failure


def _say_notes(notes: Mapping[str, Sequence[str]], console: Console) -> None:
    """Print the notes on the data, each with the names of its cells."""
    lines = []
    for note, cells in notes.items():
        named = ", ".join(filter(None, cells[:MOST_CELLS]))
        more = f" and {len(cells) - MOST_CELLS} more" if len(cells) > MOST_CELLS else ""
        lines.append(f"Note: {note}{f' ({named}{more})' if named else ''}.")
    if len(lines) > MOST_NOTES:
        lines[MOST_NOTES:] = [f"{len(lines) - MOST_NOTES} more notes are in the reports."]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _note_budgets(part: Part, console: Console) -> None:
    """Print a note if the compared strategies do not train their clients equally long."""
    budgets: dict[str, list[str]] = {}
    for job in part.jobs:
        if job.compared:
            budgets.setdefault(job.training, []).append(job.label)
    if len(budgets) > 1:
        text = "; ".join(f"{training}: {', '.join(who)}" for training, who in budgets.items())
        console.print(
            f"Private training a round differs ({text}); each is compared with training alone on "
            "as many samples. Equal epochs with --set strategy.local_epochs.",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )


def _show_comparison(folder: Path, console: Console) -> None:
    if has_runs(folder):
        report = write_comparison_report(folder)
        console.print(comparison_table(load_comparison(folder)))
        console.print(f"Report: {escape(str(report))}", soft_wrap=True, highlight=False)


def _show_cells(folder: Path, console: Console) -> None:
    _, begun = load_cells(folder)
    if begun:
        report = write_cells_report(folder)
        print_cells(folder, console)
        console.print(f"Report: {escape(str(report))}", soft_wrap=True, highlight=False)


def write_report(folder: Path, markdown: bool = False) -> None:
    """Write the report of a run or a comparison and print its path.

    Parameters
    ----------
    folder : Path
        Of a run or a comparison.
    markdown : bool
        Print a comparison's tables first, in Markdown.
    """
    if (folder / CELLS).is_dir():
        path = write_cells_report(folder)
        if markdown:
            print(cells_markdown(folder))
    elif (folder / TABLE).is_file():
        path = write_comparison_report(folder)
        if markdown:
            comparison = load_comparison(folder)
            print(plain_table(comparison))
            print(plain_differences(comparison))
    elif is_run(folder):
        path = write_run_report(folder)
    else:
        raise ConfigError(f"{folder} is neither a run nor a comparison.")
    print(f"Report: {path}")


def _check_same(path: Path, experiment: Experiment) -> None:
    """Refuse to resume with other settings; the grid and the number of rounds may change."""
    if not path.is_file():
        return  # an empty folder: begin
    begun, _ = read_settings(path)
    before, now = begun.model_dump(), experiment.model_dump()
    for settings in (before, now):
        for free in ("workers", "address", "timeout", "grid"):
            settings["run"].pop(free)
    # The run's plan follows from the models, so they are named before it.
    for key in sorted(before.keys() - {"compare"}, key=lambda k: (k == "run", k)):
        if before[key] != now[key] and not (key == "rounds" and now[key] > before[key]):
            raise ConfigError(
                f"{path.parent} was begun with another {key}: {before[key]!r}, not {now[key]!r}."
            )
    if before["rounds"] != now["rounds"] and read_rounds(path.parent):
        strategy = make_strategy(experiment.strategy)
        if strategy.follows_progress and not experiment.schedule_rounds:
            raise ConfigError(
                f"{path.parent} was planned for {before['rounds']} rounds; what {strategy.title} "
                "does in a round depends on that, so the run cannot be made longer."
            )
    lost = _lost(begun, experiment)
    if lost:
        raise ConfigError(f"{path.parent} was begun with {lost}; it can gain, but not lose any.")


def _lost(before: Experiment, now: Experiment) -> str:
    """Return the name of the first thing that a comparison lost; empty if it lost nothing."""
    if now.compare.seeds < before.compare.seeds:
        return f"{before.compare.seeds} seeds"
    gone = [s for s in before.compare.strategies if s not in now.compare.strategies]
    if gone:
        return f"strategy {gone[0]}"
    cells = {cell.name: cell.experiment.model_dump(exclude={"compare"}) for cell in cells_of(now)}
    for cell in cells_of(before):
        if cell.name and cells.get(cell.name) != cell.experiment.model_dump(exclude={"compare"}):
            return f"cell {cell.name!r} as it was"
    return "no cells" if bool(now.compare.cells) != bool(before.compare.cells) else ""


def _failed(run: Run) -> Iterator[str]:
    """Yield a clause on the failures of a run, and one on its baseline's."""
    if clause := failures_said(run):
        yield clause
    baseline = run.baseline()
    if baseline is not None and (clause := failures_said(baseline)):
        yield f"local training: {clause}"


def _with_unit(figure: Figure, value: float | None) -> str:
    if value is None or not figure.unit.name:
        return shown(figure, value)
    return f"{figure.unit.scale * value:.1f} {figure.unit.name}"

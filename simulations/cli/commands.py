"""What the commands do, once the experiment is known."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from fedkt.errors import ConfigError, DiskError, RunFailedError
from fedkt.evaluation.figure import Figure
from fedkt.evaluation.figures import PERSONALISED, figures_at, target_first
from fedkt.simulations.api.comparing import begin_comparison, carry_out_comparison
from fedkt.simulations.api.simulating import begin, carry_out
from fedkt.simulations.engines.stopping import Stopped, check
from fedkt.simulations.experiment.config import Experiment
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
from fedkt.simulations.results.run_folder import CONFIG, Run, is_run, load_run
from fedkt.simulations.runs.comparison import Part
from fedkt.simulations.runs.progress import progress_for

MOST_NOTES, MOST_CELLS = 10, 3  # on the console


def run_simulate(experiment: Experiment, out: Path | None, resume: bool, command: str) -> None:
    """Run one strategy and its local baseline; write the report."""
    console = Console()
    begun = begin(experiment, out, resume)
    folder = begun.folder
    _say_notes({note: [""] for note in begun.plan.notes}, console)
    with _resumable("simulate", folder / CONFIG):
        progress = progress_for(console, begun.rounds)
        try:
            carry_out(begun, progress, command)
        finally:
            progress.close()
        report = write_run_report(folder)
        _show_run(folder, begun.label, console)
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


def run_compare(experiment: Experiment, out: Path | None, resume: bool, command: str) -> None:
    """Run a comparison; write and print its table."""
    console = Console()
    begun = begin_comparison(experiment, out, resume)
    folder = begun.folder
    _note_budgets(begun.parts[0], console)
    _say_notes(begun.notes, console)
    progress = progress_for(console, begun.rounds)
    failure = None
    with _resumable("compare", folder / COMPARISON):
        try:
            carry_out_comparison(begun, progress, command)
        except DiskError:
            raise
        except RunFailedError as error:  # the runs that went well are shown all the same
            failure = error
        finally:
            progress.close()
        if begun.experiment.compare.cells:
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

"""The command line: ``fedkt simulate | compare | list | report | features | doctor``.

Heavy modules are imported inside the commands, so that ``fedkt --help`` answers at once.
"""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from fedkt.disk import refused
from fedkt.errors import ConfigError, FedktError, unknown
from fedkt.registry import PARTS, summaries
from fedkt.simulations.engines.stopping import Stopped, stoppable
from fedkt.text import foreign

if TYPE_CHECKING:
    from fedkt.simulations.experiment.config import Experiment

app = typer.Typer(
    help="Federated knowledge fusion: run, compare and report.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

File = Annotated[Path | None, typer.Argument(help="Experiment in TOML.", show_default=False)]
Strategy = Annotated[str | None, typer.Option(help="NAME, NAME(key=value) or FILE.py:Class.")]
Strategies = Annotated[str | None, typer.Option(help="Several, joined by commas.")]
Seeds = Annotated[int | None, typer.Option(help="How many seeds, from --seed on.")]
DatasetName = Annotated[str | None, typer.Option("--dataset", help="See: fedkt list datasets.")]
DataDir = Annotated[str | None, typer.Option(help="Folder of .npz data sets.")]
Clients = Annotated[int | None, typer.Option(help="Number of clients.")]
Partition = Annotated[str | None, typer.Option(help="E.g. iid, dirichlet:0.3, pathological:2.")]
Models = Annotated[str | None, typer.Option(help="Dealt to the clients in turn: cnn,mlp,forest.")]
Rounds = Annotated[int | None, typer.Option(help="Number of rounds.")]
Seed = Annotated[int | None, typer.Option(help="Seed of every random stream.")]
GridName = Annotated[str | None, typer.Option("--grid", help="ray, in-process or flower.")]
Workers = Annotated[int | None, typer.Option(help="Worker processes; 0: one a CPU.")]
Executor = Annotated[
    str | None, typer.Option(help="auto, loop (client by client), cohort (vectorised) or tune.")
]
Address = Annotated[str | None, typer.Option(help="Of a running Ray cluster, or auto.")]
Attack = Annotated[str | None, typer.Option(help="KIND:CLIENTS, the first so many lie: wrong:3.")]
Out = Annotated[Path | None, typer.Option(help="Folder to write to; must not exist yet.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what --out holds.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="key.path=value, for anything else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@app.command()
def simulate(
    file: File = None,
    strategy: Strategy = None,
    dataset: DatasetName = None,
    data_dir: DataDir = None,
    clients: Clients = None,
    partition: Partition = None,
    models: Models = None,
    rounds: Rounds = None,
    seed: Seed = None,
    grid: GridName = None,
    workers: Workers = None,
    executor: Executor = None,
    address: Address = None,
    attack: Attack = None,
    out: Out = None,
    resume: Resume = False,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Run one strategy (and local training, its baseline) and write a report."""
    from fedkt.simulations.cli.commands import run_simulate

    experiment = _experiment(locals(), file, resume and out, "config.toml")
    run_simulate(experiment, out, resume, _command())


@app.command()
def compare(
    file: File = None,
    strategies: Strategies = None,
    seeds: Seeds = None,
    dataset: DatasetName = None,
    data_dir: DataDir = None,
    clients: Clients = None,
    partition: Partition = None,
    models: Models = None,
    rounds: Rounds = None,
    seed: Seed = None,
    grid: GridName = None,
    workers: Workers = None,
    executor: Executor = None,
    address: Address = None,
    attack: Attack = None,
    out: Out = None,
    resume: Resume = False,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Run several strategies over several seeds and report them side by side."""
    from fedkt.simulations.cli.commands import run_compare

    experiment = _experiment(locals(), file, resume and out, "comparison.toml")
    run_compare(experiment, out, resume, _command())


@app.command(name="list")
def list_(
    part: Annotated[str, typer.Argument(help=", ".join(PARTS) + ".")] = "strategies",
    debug: Debug = False,
) -> None:
    """List what there is of one kind of part."""
    if part not in PARTS:
        raise unknown("kind of part", part, PARTS)
    lines = summaries(part)
    width = max(map(len, lines), default=0)
    for name, line in lines.items():
        print(f"{name:<{width}}  {line}".rstrip())


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Of a run or a comparison.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as well.")] = False,
    debug: Debug = False,
) -> None:
    """Write a run's or a comparison's figures and report anew."""
    from fedkt.simulations.cli.commands import write_report

    write_report(folder, markdown)


@app.command()
def features(
    folder: Annotated[Path, typer.Argument(help="Of a run.")],
    method: Annotated[str, typer.Option(help="pca or tsne.")] = "pca",
    samples: Annotated[int, typer.Option(min=1, help="Of each domain, at most.")] = 200,
    debug: Debug = False,
) -> None:
    """Draw what a run's model makes of every domain, before training and after."""
    from fedkt.simulations.report.features import draw_features

    print(f"Figure: {draw_features(folder, method, samples)}")


@app.command()
def doctor(debug: Debug = False) -> None:
    """Check that this machine can run simulations."""
    from fedkt.simulations.cli.doctor import examine

    if not examine():
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; user errors are one line and exit 2, failed runs exit 1.

    Stopped by Ctrl-C it exits 130, by SIGTERM 143.
    """
    _use_utf8()
    try:
        with stoppable():
            code = app(standalone_mode=False)
            if code == 128 + signal.SIGINT:  # what typer makes of Ctrl-C
                raise Stopped(signal.SIGINT)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        print(f"error: {error.format_message()}", file=sys.stderr)
        sys.exit(error.exit_code)
    except click.Abort:  # end of input where typer asks for some
        sys.exit(_say("Stopped.", Stopped(signal.SIGINT)))
    except Stopped as stopped:
        sys.exit(_say("Stopped.", stopped))
    except FedktError as error:
        sys.exit(_say(f"error: {error}", error))
    except OSError as error:
        where = f"{error.filename}" if error.filename else "The system refuses"
        known = error.errno and refused(where, error.errno)
        sys.exit(_say(f"error: {known or foreign(error)}", known or error))


def _say(line: str, error: BaseException) -> int:
    """Print what ended a command and how it goes on; return the exit status."""
    if isinstance(error, Stopped):
        status = error.status
    else:
        status = 2 if isinstance(error, ConfigError) else 1
        if "--debug" in sys.argv:
            traceback.print_exc()
    for note in getattr(error, "__notes__", []):
        line += f" What is finished is kept; {note}"
    print(line, file=sys.stderr)
    return status


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode if names of files are not UTF-8 here.

    What such names hold could neither be written into a TOML file nor read from one, by this
    process and those that it starts. What the console cannot show is replaced.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        shown = f"{sys.stdout.encoding}:replace"
        os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": shown}
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _command() -> str:
    """Return the command line, for reports."""
    return shlex.join(["fedkt", *sys.argv[1:]]).encode(errors="replace").decode()


# Option -> where its value stands in the experiment, and what turns the text into it.
_PLACES: dict[str, str] = {
    "strategy": "strategy",
    "strategies": "compare.strategies",
    "seeds": "compare.seeds",
    "dataset": "data.dataset",
    "data_dir": "data.data_dir",
    "clients": "data.clients",
    "partition": "data.partition",
    "models": "models",
    "rounds": "rounds",
    "seed": "seed",
    "grid": "run.grid",
    "workers": "run.workers",
    "executor": "run.executor",
    "address": "run.address",
    "attack": "attack",
}


def _experiment(
    given: dict[str, Any], file: Path | None, resumed: Path | bool | None, name: str
) -> Experiment:
    """Build the experiment from a file (the run's own when resuming) and the options."""
    from fedkt.simulations.experiment import config

    source = file
    if isinstance(resumed, Path) and file is None and (resumed / name).is_file():
        source = resumed / name
    values = config.load(source) if source else {}
    values.pop("command", None)
    for option, place in _PLACES.items():
        value = given.get(option)
        if value is None:
            continue
        if option == "strategy":
            value = config.read_strategy(value)
        elif option == "attack":
            value = config.read_attack(value)
        elif option in ("models", "strategies"):
            value = config.split_references(value)
        config.set_path(values, place, value)
    for assignment in given["set_"] or []:
        config.set_path(values, *config.read_assignment(assignment))
    return config.parse(values)


if __name__ == "__main__":
    main()

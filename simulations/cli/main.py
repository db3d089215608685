"""The command line: ``fedkt simulate | compare | list | show | report | ... | deploy``.

Heavy modules are imported inside the commands, so that ``fedkt --help`` answers at once.
"""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from typer.core import TyperCommand

from fedkt.disk import refused
from fedkt.errors import ConfigError, FedktError, unknown
from fedkt.registry import PARTS, summaries
from fedkt.simulations.cli.deploying import deploying
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

app.add_typer(deploying, name="deploy")

File = Annotated[
    Path | None,
    typer.Argument(
        help="Experiment in TOML, or the folder of an app (fedkt new).", show_default=False
    ),
]
Out = Annotated[Path | None, typer.Option(help="Folder to write to; must not exist yet.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what --out holds.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="key.path=value, for anything else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


class Running(TyperCommand):
    """A command that runs an experiment; the experiment's options declare its flags."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the parameters; asked when the command is called, not when it is listed."""
        from fedkt.simulations.cli.flags import options_of

        return [*options_of(str(self.name)), *super().get_params(ctx)]


@app.command(cls=Running)
def simulate(
    context: typer.Context,
    file: File = None,
    out: Out = None,
    resume: Resume = False,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Run one strategy (and local training, its baseline) and write a report."""
    from fedkt.simulations.cli.commands import run_simulate

    before = out / "config.toml" if resume and out else None
    run_simulate(_experiment(context.obj, set_, file, before), out, resume, _command())


@app.command(cls=Running)
def compare(
    context: typer.Context,
    file: File = None,
    out: Out = None,
    resume: Resume = False,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Run several strategies over several seeds and report them side by side."""
    from fedkt.simulations.cli.commands import run_compare

    before = out / "comparison.toml" if resume and out else None
    run_compare(_experiment(context.obj, set_, file, before), out, resume, _command())


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="Folder of the new app.")],
    clients: Annotated[int, typer.Option(min=1, help="Number of parties.")] = 3,
    debug: Debug = False,
) -> None:
    """Write a Flower app: a federation to fill in, rehearse and deploy."""
    from fedkt.simulations.cli.deployed import write_new

    write_new(folder, clients)


@app.command()
def watch(
    folder: Annotated[Path, typer.Argument(help="Of a run.")],
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    debug: Debug = False,
) -> None:
    """Show a run while it goes on: phase, clients in and out, figures."""
    from fedkt.deploy.watching import has_failed
    from fedkt.deploy.watching import watch as watch_run

    watch_run(folder, every, once)
    if has_failed(folder):
        raise typer.Exit(1)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="Of a deployed run.")],
    app_folder: Annotated[Path, typer.Option("--app", help="Folder of the app.")] = Path(),
    connection: Annotated[str, typer.Option(help="Flower's name of the SuperLink.")] = "",
    rounds: Annotated[int, typer.Option(min=0, help="Of the whole run; 0: as before.")] = 0,
    debug: Debug = False,
) -> None:
    """Go on with a deployed run whose server app or SuperLink has died."""
    from fedkt.simulations.cli.deployed import resume_run

    resume_run(folder, app_folder, connection, rounds)


@app.command(name="list")
def list_(
    part: Annotated[str, typer.Argument(help=", ".join(PARTS) + ".")] = "strategies",
    long: Annotated[bool, typer.Option("--long", help="Say what each strategy does.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Write the page on strategies.")
    ] = False,
    debug: Debug = False,
) -> None:
    """List the parts of one kind; of strategies what travels, bytes, models and papers."""
    if part not in PARTS:
        raise unknown("kind of part", part, PARTS)
    if part == "strategies":
        from fedkt.simulations.cli.listed import list_strategies

        list_strategies(long, markdown)
        return
    if long or markdown:
        raise ConfigError("--long and --markdown are for fedkt list strategies.")
    lines = summaries(part)
    width = max(map(len, lines), default=0)
    for name, line in lines.items():
        print(f"{name:<{width}}  {line}".rstrip())


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Of a part, or path/to/file.py:Name.")],
    debug: Debug = False,
) -> None:
    """Show a strategy or another part: what it does, its paper, bytes and options."""
    from fedkt.simulations.catalogue.part_page import shown_part
    from fedkt.simulations.cli.listed import columns

    print(shown_part(name, columns()))


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
    """Draw the features of every domain under a run's model, before training and after."""
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
        sys.exit(_say("Stopped.", Stopped(signal.SIGINT), 128 + signal.SIGINT))
    except Stopped as stopped:
        sys.exit(_say("Stopped.", stopped, stopped.status))
    except FedktError as error:
        sys.exit(_say(f"error: {error}", error))
    except OSError as error:
        where = f"{error.filename}" if error.filename else "The system refuses"
        refusal = error.errno and refused(where, error.errno)
        sys.exit(_say(f"error: {refusal or foreign(error)}", refusal or error))


def _say(line: str, error: BaseException, status: int = 0) -> int:
    """Print the error that ended a command and how to resume; return the exit status.

    Without a given status it is 2 for what the user can mend, else 1.
    """
    if not status:
        status = 2 if isinstance(error, ConfigError) else 1
        if "--debug" in sys.argv:
            traceback.print_exc()
    for note in getattr(error, "__notes__", []):
        line = f"{line.rstrip('.')}. What is finished is kept; {note}"
    print(line, file=sys.stderr)
    return status


def _use_utf8() -> None:
    """Start again in Python's UTF-8 mode if names of files are not UTF-8 here.

    This process and its children could neither write such names into a TOML file nor read them
    from one. Characters that the console cannot show are replaced.
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


def _experiment(
    flags: Mapping[str, Any] | None,
    assignments: Sequence[str] | None,
    file: Path | None,
    before: Path | None,
) -> Experiment:
    """Return the experiment of a file (when resuming the run's own), of flags and of ``--set``."""
    from fedkt.simulations.experiment import config
    from fedkt.simulations.experiment.references import beside, read_assignment

    source = before if file is None and before is not None and before.is_file() else file
    app = None
    if source is not None and source.is_dir():
        from fedkt.deploy.rehearsal import read_app, values_of

        app = read_app(source)
        values = values_of(app)
    else:
        values = beside(config.load(source), source.parent) if source else {}
    values.pop("command", None)
    for place, value in (flags or {}).items():
        config.set_path(values, place, value)
    for assignment in assignments or []:
        config.set_path(values, *read_assignment(assignment))
    experiment = config.parse(values)
    if app is not None:
        from fedkt.deploy.rehearsal import check_policy

        check_policy(app, experiment)
    return experiment


if __name__ == "__main__":
    main()

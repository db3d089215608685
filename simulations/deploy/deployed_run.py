"""The run folder of a deployed run: as a simulation's, without what only a simulation knows."""

from __future__ import annotations

import json
import logging
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import tomli_w
from flwr.app import Context
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

import fedkt
from fedkt.deploy.live import Live
from fedkt.deploy.run_config import plain
from fedkt.disk import only_user, write_atomic
from fedkt.errors import ConfigError
from fedkt.evaluation.figures import add_metrics
from fedkt.metrics import metrics_of
from fedkt.simulations.api.folders import fresh_folder
from fedkt.simulations.experiment.cells import slug
from fedkt.simulations.experiment.config import without_none
from fedkt.simulations.results.rounds import SUMMARY, read_rounds
from fedkt.simulations.results.run_folder import CONFIG, FEDERATION
from fedkt.simulations.runs.checkpoint import last_checkpoint
from fedkt.simulations.runs.progress import Silent
from fedkt.simulations.runs.recorder import Recorder, run_notes, summarise, write_json
from fedkt.strategies import KnowledgeStrategy, RoundReport
from fedkt.strategies.server.roster import Roster
from fedkt.text import foreign

logger = logging.getLogger("fedkt")

DEPLOYMENT = "deployment.json"  # what `fedkt resume` starts the run with again
UNKNOWN = (
    "run over a network: label counts, leakage, training alone and simulated seconds are not "
    "known, because only a simulation has the clients' data"
)


class DeployedRun(Recorder):
    """The writer of a deployed run's folder.

    Parameters
    ----------
    folder : Path
        The run directory.
    settings : Mapping
        The settings of the run, as in ``config.toml``.
    names : Mapping[int, str]
        The names of clients by id, where they are known.
    began : int
        Rounds done before.
    saved : Mapping, optional
        The checkpoint after them.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        names: Mapping[int, str],
        began: int = 0,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(folder, began, {}, Silent())
        self.counts_present = self.durable = True
        self.folder, self._settings, self._names = folder, settings, names
        self._state, self._rounds = saved, settings["rounds"]
        self.live = Live(folder, self._rounds)

    def carried_out(self, strategy: KnowledgeStrategy, grid: Grid) -> Result:
        """Run a strategy over a grid, from the checkpoint if there is one; write the summary."""
        add_metrics(metric.facts for metric in metrics_of(strategy.options.metrics))
        if self._state is not None:
            strategy.load_state_dict(self._state["strategy"])
        result = strategy.start(grid, num_rounds=self._rounds)
        write_json(self.folder / SUMMARY, self._summary(strategy))
        self.live.finished()
        return result

    def phase_began(self, phase: str, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        """Say in the folder what is going on; after the greeting, who takes part."""
        self.live.phase(phase, report, self._names)
        if phase == "train":
            ids = {*strategy.exchange.clients, *self._names}
            places = max(strategy.options.clients, max(ids) + 1, len(self.everyone))
            self.everyone = range(places)
            write_json(self.folder / FEDERATION, self._federation(strategy.exchange.roster))

    def round_finished(self, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        """Write the round and its checkpoint."""
        super().round_finished(report, strategy)
        self.live.round_done(report)
        self._say(report)

    def _say(self, report: RoundReport) -> None:
        """Log a round in one line, and the reason of each client that dropped out."""
        means = {
            name: [v for v in report.per_client(f"{name}-accuracy") if v is not None]
            for name in ("personalised", "global")
        }
        told = [f"{n} {100 * sum(v) / len(v):.1f} %" for n, v in means.items() if v]
        clients = f"{len(report.participants)} of {len(report.clients)} clients"
        logger.info("round %d of %d: %s", report.round, self._rounds, ", ".join([clients, *told]))
        for failure in report.failures:
            name = self._names.get(failure.client, str(failure.client))
            logger.info("client %s, %s: %s", name, failure.phase, failure.reason)

    def _federation(self, roster: Roster) -> dict[str, Any]:
        """Return what the greeting tells of the clients."""
        ids = self.everyone
        models = [roster[c].architecture if c in roster else None for c in ids]
        facts = roster[roster.clients[0]].facts
        return {
            "deployed": True,
            "clients": len(ids),
            "classes": list(cast(tuple[str, ...], facts["classes"])),
            "input_shape": list(roster.input_shape),
            "models": [model.partition("#")[0] if model else "never came" for model in models],
            "public": roster.public_size,
            **({"client_names": [self._names.get(c, str(c)) for c in ids]} if self._names else {}),
            "notes": [],
        }

    def _summary(self, strategy: KnowledgeStrategy) -> dict[str, Any]:
        rows, settings = read_rounds(self.folder), self._settings
        metrics = [vars(metric.facts) for metric in metrics_of(strategy.options.metrics)]
        return {
            **summarise(rows),
            "strategy": settings["strategy"]["name"],
            "label": settings["strategy"]["name"],
            "seed": settings["seed"],
            "rounds": settings["rounds"],
            "notes": [UNKNOWN, *run_notes(rows, classes=strategy.round.num_classes)],
            **({"metrics": metrics} if metrics else {}),
        }


@contextmanager
def opened_run(
    strategy: KnowledgeStrategy,
    context: Context,
    settings: Mapping[str, Any],
    names: Mapping[int, str],
) -> Iterator[DeployedRun]:
    """Hold the folder of a run while it runs, a new one or the one to go on with.

    Raises
    ------
    ConfigError
        If the folder holds another run, or is in use.
    """
    config = context.run_config
    asked, resumes = str(plain(config, "run-dir")), bool(plain(config, "resume"))
    if asked and not resumes and (Path(asked) / CONFIG).is_file():
        raise ConfigError(
            f"{asked} holds a run: go on with it (fedkt resume {asked} --app APP), or name another "
            "run-dir."
        )
    folder = fresh_folder(Path(asked) if asked else None, slug(strategy.title), resumes, CONFIG)
    with only_user(folder):
        if resumes:
            _check_same(folder, settings, strategy)
        began, saved = (last_checkpoint(folder, 1) if resumes else None) or (0, None)
        # What tells a run from another folder comes last: a folder that has it can be resumed.
        write_json(folder / DEPLOYMENT, {"run-config": dict(config)})
        write_atomic(folder / CONFIG, tomli_w.dumps(_toml(settings)))
        logger.info("The run is in %s.", folder.resolve())
        run = DeployedRun(folder, settings, names, began, saved)
        try:
            yield run
        except BaseException as error:
            run.live.failed(foreign(error) or type(error).__name__)
            raise


def read_deployment(folder: Path) -> dict[str, Any]:
    """Return the run configuration of a deployed run's folder.

    Raises
    ------
    ConfigError
        If it is the folder of no such run.
    """
    path = folder / DEPLOYMENT
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8"))["run-config"])
    except FileNotFoundError:
        raise ConfigError(f"{folder} holds no deployed run: it has no {DEPLOYMENT}.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged: {foreign(error)}.") from error
    return config


def is_deployed(folder: Path) -> bool:
    """Return whether a folder is that of a deployed run."""
    return (folder / DEPLOYMENT).is_file()


def _toml(settings: Mapping[str, Any]) -> dict[str, Any]:
    versions = {"fedkt": fedkt.__version__, "flwr": version("flwr")}
    toml: dict[str, Any] = without_none({**settings, "deployed": versions})
    return toml


def _check_same(folder: Path, settings: Mapping[str, Any], strategy: KnowledgeStrategy) -> None:
    """Refuse to go on with other settings; only the number of rounds may grow."""
    before = tomllib.loads((folder / CONFIG).read_text(encoding="utf-8"))
    after = json.loads(json.dumps(_toml(settings)))
    for key in sorted(after.keys() - {"deployed"}):
        if before.get(key) == after[key] or (key == "rounds" and after[key] > before.get(key, 0)):
            continue
        raise ConfigError(
            f"{folder} was begun with another {key}: {before.get(key)!r}, not {after[key]!r}."
        )
    fixed = strategy.follows_progress and not after["server"]["schedule_rounds"]
    if fixed and before.get("rounds") != after["rounds"]:
        raise ConfigError(
            f"{folder} was planned for {before.get('rounds')} rounds; what {strategy.title} does "
            "in a round depends on that, so the run cannot be made longer."
        )

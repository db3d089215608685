"""A node's model after a run, or during one: its answers, and its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context, RecordDict

from fedkt.deploy.node_note import NODE
from fedkt.errors import ConfigError, unknown
from fedkt.text import foreign

if TYPE_CHECKING:
    from fedkt.simulations.api.trained import TrainedClient
    from fedkt.strategies import KnowledgeStrategy


def model(
    state_dir: str | Path,
    app: str | Path | None = None,
    run: str = "",
    strategy: KnowledgeStrategy | str | None = None,
) -> TrainedClient:
    """Return a node's model as its newest state has it.

    It answers with either read-out (``predict``, ``classify``) and is saved with ``save``: a
    network as ``.safetensors``. ``predict`` takes samples as ``load_data`` returns them.

    Parameters
    ----------
    state_dir : str or Path
        The folder of the node's state.
    app : str or Path, optional
        The folder of the app; by default the copy that the node has run.
    run : str
        Name of the run; by default the latest.
    strategy : KnowledgeStrategy or str, optional
        The method of the run; by default ``strategy`` of that run's configuration. It matters to
        methods with heads or nets beside the model.

    Raises
    ------
    ConfigError
        If the folder holds no state of a node in that run, or its app cannot be read.
    """
    from fedkt.clients.state import FileStore
    from fedkt.deploy.party import client_id
    from fedkt.deploy.rehearsal import party_of
    from fedkt.deploy.run_config import plain
    from fedkt.deploy.serving import strategy_of
    from fedkt.simulations.api.trained import TrainedClient

    folder = Path(state_dir)
    number, store = client_id(_context(_read(folder))), FileStore(folder)
    runs = store.runs(number)
    if not runs:
        raise ConfigError(f"{folder} holds no state of client {number}: it never took part.")
    if run and run not in runs:
        raise unknown("run", run, runs)
    name = run or runs[-1]
    state, about = store.get(name, number), _read(folder / f"run-{name}")
    assert state is not None
    party, _ = party_of(Path(app if app is not None else about["app"]))
    context = _context(about)
    client = party(context)
    given = strategy if strategy is not None else str(plain(context.run_config, "strategy"))
    recipe = (strategy_of(given) if isinstance(given, str) else given).settled_recipe
    client.learner.follow(recipe)
    client.learner.load_state(state["learner"])
    data = client.data
    architecture = client.learner.architecture.partition("#")[0]
    who = client.id, int(state["round"]), data.classes, architecture, client.learner
    none: dict[str, Any] = {}  # of preprocessing that is known
    return TrainedClient(*who, state, data.log_prior, data.input_shape, none, recipe.world)


def _context(about: dict[str, Any]) -> Context:
    return Context(0, 0, about["node-config"], RecordDict(), about["run-config"])


def _read(folder: Path) -> dict[str, Any]:
    path = folder / NODE
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {key: about[key] for key in ("app", "node-config", "run-config")}
    except FileNotFoundError:
        raise ConfigError(f"{folder} is not the folder of a node's state: no {NODE}.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged: {foreign(error)}.") from error

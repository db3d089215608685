"""The server of a federation: the Flower ServerApp that runs a strategy and writes a run folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result

from fedkt import by_value
from fedkt.clients.learners.at_server import LearnerModels
from fedkt.data.samples import Samples
from fedkt.deploy.client_list import MOST_CLIENTS, Listed, names_of, nodes_of, read_clients
from fedkt.deploy.deployed_run import opened_run
from fedkt.deploy.party import TABLE as TRAINING
from fedkt.deploy.party import ask
from fedkt.deploy.run_config import check_keys, number, options_in, plain
from fedkt.errors import ConfigError, FedktError
from fedkt.machine import one_thread
from fedkt.simulations.experiment.references import read_strategy
from fedkt.simulations.runs.fitting import check_recipe
from fedkt.strategies import KnowledgeStrategy, ServerOptions
from fedkt.strategies.construction import make_strategy
from fedkt.strategies.server.bounds import Bounds
from fedkt.strategies.server.strategy import Observer
from fedkt.training import TrainingOptions

logger = logging.getLogger("fedkt")

# The tables of a run's configuration, and what declares their keys.
TABLES: Mapping[str, type] = {TRAINING: TrainingOptions, "server": ServerOptions, "bounds": Bounds}


class KnowledgeServerApp(ServerApp):
    """A ServerApp that tells what it was made with, for a rehearsal."""

    strategy: KnowledgeStrategy | str | None = None
    server_model: str | Callable[..., Any] = ""
    public_labels: Any = None


def server(
    strategy: KnowledgeStrategy | str | None = None,
    server_model: str | Callable[..., Any] = "",
    public: Any = None,
    public_labels: Any = None,
    validation: Samples | None = None,
) -> KnowledgeServerApp:
    """Return the ServerApp of a federation: ``app = fedkt.deploy.server()``.

    Parameters
    ----------
    strategy : KnowledgeStrategy or str, optional
        The method; by default ``strategy`` of the run's configuration, ``"knfu(beta=2)"``.
    server_model, public, public_labels, validation
        See :func:`serve`. Functions are called when the run begins.
    """
    app = KnowledgeServerApp()
    app.strategy, app.server_model, app.public_labels = strategy, server_model, public_labels

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        method = strategy if strategy is not None else str(plain(context.run_config, "strategy"))
        try:
            serve(method, grid, context, server_model, public, public_labels, validation)
        except FedktError as error:  # Flower shows the last traceback: the line alone
            logger.error("The run has failed: %s", error)
            raise error.with_traceback(None) from None

    return app


def strategy_of(reference: str) -> KnowledgeStrategy:
    """Return the strategy that text names: ``"knfu"``, ``"knfu(beta=2)"``, ``"mine.py:Mine"``.

    Raises
    ------
    ConfigError
        For an unknown strategy or option, or a value that is not allowed.
    """
    strategy = make_strategy(read_strategy(reference))
    check_recipe(strategy)
    return strategy


def serve(
    strategy: KnowledgeStrategy | str,
    grid: Grid,
    context: Context,
    server_model: str | Callable[..., Any] = "",
    public: Any = None,
    public_labels: Any = None,
    validation: Samples | None = None,
    observers: Sequence[Observer] = (),
) -> Result:
    """Run a strategy over a grid, as the run's configuration says, and write its run folder.

    Parameters
    ----------
    strategy : KnowledgeStrategy or str
        The method, or its name with options.
    grid : Grid
        Flower's.
    context : Context
        Flower's, with the run's configuration; see ``fedkt new`` for its keys.
    server_model : str or callable, optional
        The model like the clients' at the server: the name of a registered one, or a function that
        returns a new network. Needed by methods that exchange weights or have a model there.
    public : array or callable, optional
        Inputs of the public set, ``[M, ...]``, for methods whose server works on them.
    public_labels : array or callable, optional
        int ``[M]``: the labels that the server knows, -1 where it does not.
    validation : Samples, optional
        Labelled samples held out at the server.
    observers : Sequence[Observer]
        Observers beside the writer of the run folder.

    Returns
    -------
    Result
        Flower's.

    Raises
    ------
    ConfigError
        For a configuration that cannot be run, or clients that do not fit.
    RunFailedError
        If too few clients are left.
    """
    config = context.run_config
    _use_log()
    check_keys(config, TABLES)
    method = strategy_of(strategy) if isinstance(strategy, str) else strategy
    _check_method(method)
    listed = _listed(str(plain(config, "clients-file")))
    given = {"public": public, "public_labels": public_labels, "validation": validation}
    contents = {"strategy": method, "server_model": server_model, **given}
    settings = settings_of(method, config, contents)
    options = replace(
        _options(config, listed),
        models=_maker(server_model, context),
        public=_tensor(public, context),
        public_labels=_tensor(public_labels, context),
        validation=validation,
    )
    with one_thread(), opened_run(method, context, settings, names_of(listed)) as run:
        method.options = options
        method.observers = [*method.observers, run, *observers]
        return run.carried_out(method, grid)


def _check_method(method: KnowledgeStrategy) -> None:
    """Refuse a strategy that has run already, or that only a simulation can run."""
    if "_exchange" in vars(method):
        raise ConfigError(f"{method.title} has run already; give serve() a new object.")
    if method.pools:
        raise ConfigError(f"{method.title} is for simulations: no client has everybody's data.")


def _use_log() -> None:
    """Let fedkt's lines reach the log of the process, unless the user has decided otherwise."""
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("fedkt: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def settings_of(
    strategy: KnowledgeStrategy, config: Mapping[str, Any], contents: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings of a deployed run, as its ``config.toml`` holds them.

    Of what is given in code, ``contents``, they have digests.
    """
    settings = {k: v for k, v in vars(strategy).items() if not k.startswith("_")}
    options = {k: v for k, v in settings.items() if isinstance(v, str | int | float | bool)}
    tables = {name: vars(cls(**options_in(config, name, cls))) for name, cls in TABLES.items()}
    return {
        "seed": number(config, "seed", 0),
        "rounds": number(config, "num-server-rounds", 1),
        "strategy": {"name": strategy.title, **options},
        "content": {k: by_value.digest(v) for k, v in contents.items() if v is not None},
        **{
            name: {k: v for k, v in table.items() if _is_plain(v)} for name, table in tables.items()
        },
    }


def _options(config: Mapping[str, Any], listed: Sequence[Listed]) -> ServerOptions:
    values = options_in(config, "server", ServerOptions)
    bounds = Bounds(**options_in(config, "bounds", Bounds))
    nodes = nodes_of(listed)
    values["clients"] = len(nodes) or values.get("clients", 0)
    values |= {"bounds": bounds, "nodes": nodes, "names": names_of(listed)}
    values["most_clients"] = MOST_CLIENTS
    return ServerOptions(**values, seed=number(config, "seed", 0))


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool) or (
        isinstance(value, tuple) and all(isinstance(part, str) for part in value)
    )


def _maker(model: str | Callable[..., Any], context: Context) -> LearnerModels | None:
    """Return the maker of the server's models; None without a model."""
    training = TrainingOptions(**options_in(context.run_config, TRAINING, TrainingOptions))
    if isinstance(model, str):
        return LearnerModels(model, training) if model else None
    made = ask(model, context)
    return LearnerModels(made if isinstance(made, str) else partial(ask, model, context), training)


def _tensor(given: Any, context: Context) -> torch.Tensor | None:
    """Return an array as float32, or as int64 if it holds whole numbers."""
    value = ask(given, context) if callable(given) else given
    if value is None:
        return None
    tensor = torch.as_tensor(value)
    return tensor.float() if tensor.is_floating_point() else tensor.long()


def _listed(file: str) -> tuple[Listed, ...]:
    """Return the clients of a ``clients.toml``, if one is named.

    Raises
    ------
    ConfigError
        If it lists nobody: then nobody would be checked.
    """
    listed = read_clients(Path(file)) if file else ()
    if file and not listed:
        raise ConfigError(f"{file} lists no client; see `fedkt deploy certs`.")
    return listed

"""Joining Ray, keeping it over several runs, and fetching results from it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import worker as ray_worker
from ray.exceptions import RayActorError, RayTaskError

from fedkt.errors import ConfigError, FedktError, RunFailedError
from fedkt.simulations.engines.stopping import keeping
from fedkt.text import one_line

idle: list[Any] = []  # actors without a run, while a session is open
sessions: list[int] = []


@contextmanager
def session(workers: int, address: str | None = None) -> Iterator[None]:
    """Keep Ray and its worker processes for several runs; starting them takes seconds."""
    joined = join_ray(workers, address)
    sessions.append(workers)
    try:
        yield
    finally:
        sessions.pop()
        while idle and not sessions:
            actor = idle.pop()
            if ray.is_initialized() and not dead():
                ray.kill(actor)
        if joined:
            leave_ray()


def leave_ray() -> None:
    """Leave Ray, unless it has died: then any call to it ends this process at once."""
    if not dead():
        ray.shutdown()


def dead() -> str:
    """Return the name of a dead process of the Ray started here; empty if all are alive."""
    node = ray_worker._global_node
    kinds = [kind for kind, _ in node.dead_processes()] if node is not None else []
    return next((kind for kind in kinds if kind in ("raylet", "gcs_server")), "")


def check_alive() -> None:
    """Raise RunFailedError if the Ray of this process has died."""
    if kind := dead():
        raise RunFailedError(f"Ray has died: its process {kind} is gone.")


def join_ray(workers: int, address: str | None) -> bool:
    """Start or join Ray unless this process has already; return whether it did so now.

    Raises
    ------
    ConfigError
        If the cluster cannot be reached or has fewer CPUs than workers.
    RunFailedError
        If this process's Ray has died; the process cannot start another.
    """
    joined = False
    check_alive()
    if not ray.is_initialized():
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            with keeping():
                if address:
                    _knock(address)
                    ray.init(address=address, **quiet)
                else:
                    # "local": a cluster is joined by `address` only, not by RAY_ADDRESS.
                    ray.init("local", num_cpus=workers, include_dashboard=False, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            what = f"reached at {address!r}" if address else "started"
            raise ConfigError(f"Ray cannot be {what}: {str(error).splitlines()[0]}") from error
        joined = True
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < workers:
        if joined:
            ray.shutdown()
        raise ConfigError(f"--workers {workers}: the Ray cluster has {cpus} CPUs.")
    return joined


def result_of(reference: Any) -> Any:
    """Return a result from Ray; an error of fedkt in a worker is raised again, on one line."""
    try:
        return ray.get(reference)
    except RayActorError:
        raise
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, FedktError):
            raise type(cause)(str(cause.args[0] if cause.args else cause)) from None
        reason = f"{type(cause).__name__}: {one_line(cause)}"
        raise RunFailedError(f"A Ray worker failed: {reason}") from error


def _knock(address: str) -> None:
    """Raise OSError at once if no server listens; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()

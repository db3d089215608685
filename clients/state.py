"""Stores of client state between messages.

State is a plain value (see ``fedkt.snapshot``). It is read at the start of a message and written
only after the message has been handled, so a client that fails keeps its last state. It belongs to
a run, and says after which phase of which round it is. A message of a round starts from the newest
state of before, whatever has happened since: so a message that comes again gets the same answer,
and a run that goes on from an earlier round gives the figures of one that was never stopped.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedkt import snapshot
from fedkt.disk import writing
from fedkt.errors import ConfigError

logger = logging.getLogger("fedkt")

ClientState = dict[str, Any]

PHASES = ("train", "evaluate")  # of a round, in their order
END = 2**62  # a round after all others
KEPT = 2  # rounds
NAME = re.compile(r"[\w.-]{1,100}")  # of a run, which becomes the name of a folder


@dataclass(frozen=True, order=True)
class Moment:
    """The moment after a phase of a round: (round, place of the phase in ``PHASES``)."""

    round: int
    phase: int

    @classmethod
    def of(cls, round: int, phase: str) -> Moment:
        """Return the moment after a phase.

        Raises
        ------
        ConfigError
            If a round has no such phase.
        """
        if phase not in PHASES:
            raise ConfigError(f"phase is {phase!r}; a round has {' and '.join(PHASES)}.")
        return cls(round, PHASES.index(phase))

    @classmethod
    def read(cls, text: str) -> Moment | None:
        """Return the moment of a text that :meth:`__str__` returned; None for another text."""
        number, _, phase = text.partition("-")
        return cls.of(int(number), phase) if number.isdecimal() and phase in PHASES else None

    def __str__(self) -> str:
        return f"{self.round}-{PHASES[self.phase]}"


class StateStore(Protocol):
    """A store of client state.

    A state holds, beside what the client keeps, where it belongs (``run``, ``round`` and ``phase``)
    and ``first``, the ``ROUND-PHASE`` of the client's first state in that run.
    """

    def get(
        self, run: str, client: int, before: int = END, phase: str = PHASES[0]
    ) -> ClientState | None:
        """Return a client's newest state in a run from before a phase of round ``before``.

        None if the client had none then.

        Raises
        ------
        ConfigError
            If it had one that is not kept any more, or cannot be read.
        """
        ...

    def put(self, run: str, client: int, round: int, phase: str, state: ClientState) -> str:
        """Keep a state; return where, as text. States of the last two rounds are kept at least."""
        ...

    def rewind(self, run: str, client: int, round: int) -> None:
        """Forget a client's states of a run from a round on, which the server begins (again)."""
        ...

    def runs(self, client: int) -> list[str]:
        """Return the runs that a client has states of, the latest last."""
        ...

    def snapshot(self) -> dict[int, ClientState]:
        """Return the newest state of every client in its latest run."""
        ...

    def restore(self, states: Mapping[int, ClientState]) -> None:
        """Replace all states."""
        ...


class MemoryStore:
    """Client state in the memory of the process: the newest of each client, for simulations.

    A simulation goes on from a checkpoint and repeats no message.
    """

    def __init__(self) -> None:
        self._states: dict[int, ClientState] = {}

    def get(
        self, run: str, client: int, before: int = END, phase: str = PHASES[0]
    ) -> ClientState | None:
        """Return the client's state; see :class:`StateStore`."""
        state = self._states.get(client)
        if state is None or state["run"] != run:
            return None
        asked, at = Moment.of(before, phase), Moment.of(state["round"], state["phase"])
        if at < asked:
            return state
        _check_first(asked, at, state, client)
        return None

    def put(self, run: str, client: int, round: int, phase: str, state: ClientState) -> str:
        """Keep the client's state instead of the one before."""
        self._states[client] = _labelled(state, run, Moment.of(round, phase))
        return "memory"

    def rewind(self, run: str, client: int, round: int) -> None:
        """Forget the client's state if it was its first, in that round or later."""
        state = self._states.get(client)
        if state is None or state["run"] != run or state["round"] < round:
            return
        if _first(state) >= Moment(round, 0):
            del self._states[client]

    def runs(self, client: int) -> list[str]:
        """Return the run of the client's state."""
        return [self._states[client]["run"]] if client in self._states else []

    def snapshot(self) -> dict[int, ClientState]:
        """Return the newest state of every client; states are never changed in place."""
        return dict(sorted(self._states.items()))

    def restore(self, states: Mapping[int, ClientState]) -> None:
        """Replace all states."""
        self._states = dict(states)


class FileStore:
    """Client state in safetensors files: for deployment, stock Flower and large runs.

    A client's files are ``run-NAME/client-ID/ROUND-PHASE.safetensors``: all of the last round in
    which it took part, and the last of the round before.

    Parameters
    ----------
    folder : Path
        Folder of the files; made if needed, readable by its owner alone.
    durable : bool
        Whether a state is on the disk, whatever happens to the machine, before ``put`` returns.

    Raises
    ------
    ConfigError, DiskError
        If the folder cannot be written to.
    """

    def __init__(self, folder: Path, durable: bool = True) -> None:
        self._folder, self._durable = folder, durable
        with writing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def get(
        self, run: str, client: int, before: int = END, phase: str = PHASES[0]
    ) -> ClientState | None:
        """Return a client's state; see :class:`StateStore`.

        Where the newest cannot be read it is the one before it, which the log says.
        """
        asked, folder = Moment.of(before, phase), self._of(run, client)
        moments = sorted(_moments(folder), reverse=True)
        earlier = [moment for moment in moments if moment < asked]
        if moments and not earlier:
            _check_first(asked, moments[-1], _load(folder, moments[-1]), client)
        while earlier:
            moment, *earlier = earlier
            try:
                return _load(folder, moment)
            except ConfigError as error:
                if not earlier:
                    raise
                logger.warning(f"client {client} goes on from its state {earlier[0]}: {error}")
        return None

    def put(self, run: str, client: int, round: int, phase: str, state: ClientState) -> str:
        """Keep a state in a file; return its path within the folder."""
        moment, folder = Moment.of(round, phase), self._of(run, client)
        path = _path(folder, moment)
        snapshot.save(path, _labelled(state, run, moment), self._durable)
        for old in _outdated(_moments(folder), moment):
            _path(folder, old).unlink(missing_ok=True)
        _remove_parts(folder, moment)
        return path.relative_to(self._folder).as_posix()

    def rewind(self, run: str, client: int, round: int) -> None:
        """Remove the files from a round on, unless nothing of before is left to go on from."""
        folder, begins = self._of(run, client), Moment(round, 0)
        later = [moment for moment in _moments(folder) if moment >= begins]
        if later:
            self.get(run, client, round)  # refused if it is gone
        _remove_parts(folder, begins)
        for moment in later:
            _path(folder, moment).unlink(missing_ok=True)

    def runs(self, client: int) -> list[str]:
        """Return the runs that a client has states of, the latest last."""
        folders = (path / f"client-{client}" for path in self._runs())
        files = {
            folder.parent.name.removeprefix("run-"): max(
                _path(folder, moment).stat().st_mtime_ns for moment in moments
            )
            for folder in folders
            if (moments := list(_moments(folder)))
        }
        return sorted(files, key=files.__getitem__)

    def snapshot(self) -> dict[int, ClientState]:
        """Return the newest state of every client in its latest run."""
        names = {path.name for folder in self._runs() for path in folder.glob("client-*")}
        clients = sorted(int(name.removeprefix("client-")) for name in names)
        found = {c: self.get(runs[-1], c) for c in clients if (runs := self.runs(c))}
        return {client: state for client, state in found.items() if state is not None}

    def restore(self, states: Mapping[int, ClientState]) -> None:
        """Replace all files."""
        for folder in self._runs():
            shutil.rmtree(folder)
        for client, state in states.items():
            moment = Moment.of(state["round"], state["phase"])
            snapshot.save(_path(self._of(state["run"], client), moment), state, self._durable)

    def _runs(self) -> list[Path]:
        return list(self._folder.glob("run-*"))

    def _of(self, run: str, client: int) -> Path:
        if not NAME.fullmatch(run):  # it came over the wire
            raise ConfigError(
                f"The run is called {run[:100]!r}; a name has at most 100 letters, digits, dots, "
                "hyphens and underscores."
            )
        return self._folder / f"run-{run}" / f"client-{client}"


def _labelled(state: ClientState, run: str, moment: Moment) -> ClientState:
    where = {"run": run, "round": moment.round, "phase": PHASES[moment.phase]}
    return {"first": str(moment), **state, **where}


def _first(state: ClientState) -> Moment:
    moment = Moment.read(state["first"])
    assert moment is not None
    return moment


def _check_first(asked: Moment, oldest: Moment, state: ClientState, client: int) -> None:
    """Refuse a moment before the oldest state that is kept if the client had states before it."""
    if _first(state) < asked:
        raise ConfigError(
            f"the state of client {client} before {PHASES[asked.phase]} of round {asked.round} is "
            f"gone: it has gone on, and the oldest kept of run {state['run']} is {oldest}"
        )


def _outdated(moments: Iterator[Moment], newest: Moment) -> list[Moment]:
    """Return the moments whose states no message can ask for any more."""
    earlier = sorted((m for m in moments if m.round < newest.round), reverse=True)
    return earlier[KEPT - 1 :]


def _moments(folder: Path) -> Iterator[Moment]:
    # One folder a client: a folder of all clients would be read at every put.
    for name in os.listdir(folder) if folder.is_dir() else []:
        moment = Moment.read(name.removesuffix(".safetensors"))
        if moment is not None:
            yield moment


def _remove_parts(folder: Path, before: Moment) -> None:
    """Remove the half-written states of before a moment, of processes that were killed."""
    for path in folder.glob(".*.safetensors.*.part"):  # as ``snapshot.save`` calls them
        moment = Moment.read(path.name.split(".")[1])
        if moment is not None and moment < before:
            path.unlink(missing_ok=True)


def _path(folder: Path, moment: Moment) -> Path:
    return folder / f"{moment}.safetensors"


def _load(folder: Path, moment: Moment) -> ClientState:
    state: ClientState = snapshot.load(_path(folder, moment))
    return state

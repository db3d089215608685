"""The Ray grid: actors own their clients' state; one machine or a running cluster.

A worker that dies costs only time. Its replacement loads the state of the last snapshot and
repeats the messages handled since. Every message is deterministic, so the result is the same
bit for bit. There is one exception: messages that kill a second worker are sent one by one, to
find the client at fault. Cohorts then train client by client, with other rounding.
"""

from __future__ import annotations

import gc
import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from flwr.app import ArrayRecord, Context, Error, Message, MessageType, Metadata, RecordDict
from ray.exceptions import RayActorError

from fedkt.clients.state import ClientState, FileStore
from fedkt.data.federation import Federation
from fedkt.errors import RunFailedError
from fedkt.machine import collect_rarely
from fedkt.simulations.engines import _flwr_shim as shim
from fedkt.simulations.engines.grid import SimulationGrid, deliver_all
from fedkt.simulations.engines.population import Population, PopulationSpec
from fedkt.simulations.engines.ray_session import (
    check_alive,
    dead,
    idle,
    join_ray,
    leave_ray,
    result_of,
    sessions,
)

CHUNKS_PER_WORKER = 32  # calls to a worker per phase: small enough for progress and repeats
LOOK_SECONDS = 1.0  # between two checks that Ray is alive
LAST_SECONDS = 10.0  # for a worker to finish its calls
LOST_CLIENT = 8  # the code of Flower for a client whose process has ended
AHEAD = 2  # calls of a worker at a time: one runs, the next waits
MAX_DEATHS = 3  # of workers on one message, before its client is dropped from the phase
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class _Shell:
    """A message on its way to a worker; records that several messages share are references."""

    metadata: Metadata
    records: Mapping[str, Any]


@dataclass(eq=False)
class _Chunk:
    """Messages for one worker, handled in one call."""

    worker: int
    shells: list[_Shell]
    messages: list[Message]
    deaths: int = 0
    stored: Any = None  # reference to the shells, once sent


class _Worker:
    """A worker in an actor process: some clients, their app and their state."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        shim.claim_identity()

    def begin(self, spec: PopulationSpec, federation: Federation, state: Path | None) -> None:
        """Prepare for a run; the app and the state of an earlier run are dropped."""
        self._clients, store = federation.num_clients, None
        if state is not None:
            state.mkdir(parents=True, exist_ok=True)
            store = FileStore(Path(tempfile.mkdtemp(dir=state)), durable=False)
        self._app = Population(spec, federation).app(store)
        self._contexts: dict[int, Context] = {}
        gc.unfreeze()  # objects of an earlier run
        collect_rarely()

    def handle(self, shells: list[_Shell]) -> list[Message]:
        """Return the replies to messages."""
        fetched: dict[Any, Any] = {}
        messages = [self._open(shell, fetched) for shell in shells]
        return deliver_all(self._app, messages, self._contexts, self._clients)

    def _open(self, shell: _Shell, fetched: dict[Any, Any]) -> Message:
        content = RecordDict()
        for name, record in shell.records.items():
            if isinstance(record, ray.ObjectRef):
                if record not in fetched:
                    fetched[record] = ray.get(record)
                record = fetched[record]
            content[name] = record
        return shim.rebuild(shell.metadata, content)

    def snapshot(self) -> dict[int, ClientState]:
        return self._app.store.snapshot()

    def restore(self, states: dict[int, ClientState]) -> None:
        self._contexts.clear()
        self._app.store.restore(states)

    def ready(self) -> int:
        return os.getpid()


@dataclass
class _Seat:
    """A worker's place: its present actor, and the records to replace the actor after its death."""

    actor: Any
    saved: Any = None  # reference to the last snapshot of its clients
    done: list[Any] = field(default_factory=list)  # references to the shells handled since


class RayGrid(SimulationGrid):
    """A grid on Ray actors; a client has one actor, and a cohort has one.

    Parameters
    ----------
    spec : PopulationSpec
        Models and options of the clients.
    federation : Federation
        Data of the clients; put into Ray's object store once.
    workers : int
        Number of actors, one CPU and one torch thread each.
    address : str, optional
        Address of a running cluster (``"auto"``, ``"host:6379"``, ``"ray://…"``); by default the
        Ray that this process has joined is used, or else one is started.
    state : Path, optional
        Folder, on every machine of the cluster, for client state; by default it is in the
        workers' memory. Messages since the last snapshot are always in memory.

    Raises
    ------
    ConfigError
        If the cluster cannot be reached or is too small.
    """

    def __init__(
        self,
        spec: PopulationSpec,
        federation: Federation,
        workers: int,
        address: str | None = None,
        state: Path | None = None,
    ) -> None:
        super().__init__(federation.num_clients)
        self._owns_ray = join_ray(workers, address)
        self._population, self._spec = spec, ray.put(spec)
        self._federation, self._state = ray.put(federation), state and state.resolve()
        workers = self._workers = max(1, min(workers, self.clients))
        self._seats: list[_Seat] = []
        try:
            self._seats = [_Seat(self._hire()) for _ in range(workers)]
            result_of([seat.actor.ready.remote() for seat in self._seats])
        except BaseException as error:  # leave Ray after any error, or it would go on running
            self.close()
            if isinstance(error, RayActorError):
                raise RunFailedError(f"A Ray worker cannot start: {error}") from error
            raise

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers, for tests of failure."""
        return [int(p) for p in result_of([s.actor.ready.remote() for s in self._seats])]

    def _hire(self) -> Any:
        """Return an actor that is ready for this run, from the idle ones of the session or new."""
        while idle:
            actor = idle.pop()
            try:
                result_of(actor.begin.remote(self._spec, self._federation, self._state))
                return actor
            except RayActorError:
                continue
        gpus = ray.cluster_resources().get("GPU", 0) if self._population.device == "cuda" else 0
        options = {"num_cpus": 1, "runtime_env": {"env_vars": ENVIRONMENT}, "max_restarts": 0}
        # Workers share the GPUs evenly, at most one each.
        actor = ray.remote(num_gpus=min(1, gpus / self._workers), **options)(_Worker).remote()
        result_of(actor.begin.remote(self._spec, self._federation, self._state))
        return actor

    # --- messages ----------------------------------------------------------------------

    def _handle(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        deadline = None if timeout is None else time.monotonic() + timeout
        ids = [m.metadata.message_id for m in messages]
        waiting = self._chunks(messages)
        replies: dict[str, Message] = {}
        running: dict[Any, _Chunk] = {}
        for worker in range(len(self._seats)):
            self._feed(worker, waiting, running)
        while running:
            left = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _ = ray.wait(list(running), num_returns=1, timeout=min(left, LOOK_SECONDS))
            check_alive()
            if not ready:
                if left > LOOK_SECONDS:
                    continue
                self._abandon({chunk.worker for chunk in running.values()})
                break
            chunk = running.pop(ready[0])
            try:
                answers = result_of(ready[0])
            except RayActorError:
                lost = [chunk, *self._take(running, chunk.worker)]
                self._replace(chunk.worker)
                waiting[chunk.worker].extendleft(reversed(self._blame(lost, replies)))
            else:
                self._note(chunk)
                replies.update({a.metadata.reply_to_message_id: a for a in answers})
                self._tell(len(replies), len(ids))
            self._feed(chunk.worker, waiting, running)
        return [replies[i] for i in ids if i in replies]

    def _feed(self, worker: int, waiting: list[deque[_Chunk]], running: dict[Any, _Chunk]) -> None:
        """Send calls to a worker until one runs and one waits."""
        check_alive()
        under_way = sum(chunk.worker == worker for chunk in running.values())
        for _ in range(AHEAD - under_way):
            if waiting[worker]:
                chunk = waiting[worker].popleft()
                # Stored once, for the call and for a replacement of the worker.
                chunk.stored = ray.put(chunk.shells)
                running[self._seats[worker].actor.handle.remote(chunk.stored)] = chunk

    def _chunks(self, messages: Sequence[Message]) -> list[deque[_Chunk]]:
        """Return the messages in chunks by worker; records of several messages are stored once."""
        seen: dict[int, int] = {}
        for message in messages:
            for record in message.content.values():
                seen[id(record)] = seen.get(id(record), 0) + 1
        stored: dict[int, Any] = {}
        per_worker: list[list[Message]] = [[] for _ in self._seats]
        for message in messages:
            per_worker[self._seat_of(self.client_of(message))].append(message)
        return [
            deque(
                _Chunk(worker, [self._shell(m, seen, stored) for m in part], part)
                for part in self._parts(batch)
            )
            for worker, batch in enumerate(per_worker)
        ]

    def _parts(self, messages: Sequence[Message]) -> Iterator[list[Message]]:
        """Yield the messages of one worker in parts of about one size; cohorts stay whole."""
        units: dict[tuple[int | None, int], list[Message]] = {}
        for message in messages:
            client = self.client_of(message)
            cohort = self._population.cohort_of(client)
            units.setdefault((cohort, client if cohort is None else -1), []).append(message)
        size, part = -(-len(messages) // CHUNKS_PER_WORKER), []
        for unit in units.values():
            part += unit
            if len(part) >= size:
                yield part
                part = []
        if part:
            yield part

    def _seat_of(self, client: int) -> int:
        return self._population.seat_of(client, len(self._seats))

    def _shell(self, message: Message, seen: dict[int, int], stored: dict[int, Any]) -> _Shell:
        records: dict[str, Any] = {}
        for name, record in message.content.items():
            if isinstance(record, ArrayRecord) and seen[id(record)] > 1:
                if id(record) not in stored:
                    stored[id(record)] = ray.put(record)
                records[name] = stored[id(record)]
            else:
                records[name] = record
        return _Shell(message.metadata, records)

    def _note(self, chunk: _Chunk) -> None:
        if any(s.metadata.message_type != MessageType.QUERY for s in chunk.shells):
            self._seats[chunk.worker].done.append(chunk.stored)

    # --- death and replacement ------------------------------------------------------------

    @staticmethod
    def _take(running: dict[Any, _Chunk], worker: int) -> list[_Chunk]:
        """Remove and return the unfinished chunks of a worker, in the order of their messages."""
        refs = [ref for ref, chunk in running.items() if chunk.worker == worker]
        taken = [running.pop(ref) for ref in refs]
        return taken

    @staticmethod
    def _blame(lost: list[_Chunk], replies: dict[str, Message]) -> list[_Chunk]:
        """Return the chunks to try again; drop a client whose message kills every worker."""
        lost.sort(key=lambda c: int(c.messages[0].metadata.message_id))
        first, rest = lost[0], lost[1:]
        deaths = first.deaths + 1
        if len(first.messages) > 1 and deaths > 1:  # find out which message it is
            parts = zip(first.shells, first.messages, strict=True)
            return [_Chunk(first.worker, [s], [m]) for s, m in parts] + rest
        if deaths < MAX_DEATHS:  # the same call again: only a whole cohort gives the same bits
            first.deaths = deaths
            return [first, *rest]
        message = first.messages[0]
        reason = f"its worker process died {deaths} times"
        replies[message.metadata.message_id] = Message(Error(LOST_CLIENT, reason), reply_to=message)
        return rest

    def _replace(self, worker: int) -> None:
        """Put a new actor into a worker's seat, with the last state of its clients."""
        seat = self._seats[worker]
        for _ in range(MAX_DEATHS):
            seat.actor = self._hire()
            try:
                if seat.saved is not None:
                    result_of(seat.actor.restore.remote(seat.saved))
                for stored in seat.done:
                    result_of(seat.actor.handle.remote(stored))
                return
            except RayActorError:
                continue
        raise RunFailedError(f"Ray worker {worker} died {MAX_DEATHS} times while being replaced.")

    def _abandon(self, workers: set[int]) -> None:
        """Replace workers that have not answered in time; their clients keep their last state."""
        for worker in workers:
            ray.kill(self._seats[worker].actor)
            self._replace(worker)

    # --- state -----------------------------------------------------------------------------

    def snapshot(self) -> dict[int, ClientState]:
        """Return the state of every client that has one; replacements start from here."""
        states: dict[int, ClientState] = {}
        for worker, seat in enumerate(self._seats):
            while True:
                reference = seat.actor.snapshot.remote()
                try:
                    states.update(result_of(reference))
                    break
                except RayActorError:
                    self._replace(worker)
            seat.saved, seat.done = reference, []
        return dict(sorted(states.items()))

    def restore(self, states: Mapping[int, ClientState]) -> None:
        """Replace all client state."""
        for worker, seat in enumerate(self._seats):
            part = {c: s for c, s in states.items() if self._seat_of(c) == worker}
            seat.saved, seat.done = ray.put(part), []
            try:
                result_of(seat.actor.restore.remote(seat.saved))
            except RayActorError:
                self._replace(worker)

    def close(self) -> None:
        """Stop the workers, or keep them for the next run of a session.

        A stopped run may leave unfinished calls, which still write states into its folder.
        """
        calls = {} if dead() else {seat.actor.ready.remote(): seat.actor for seat in self._seats}
        if calls:  # a worker handles its calls in order, so these are the last
            done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=LAST_SECONDS)
            for call, actor in calls.items():
                if sessions and call in done:
                    idle.append(actor)
                else:
                    ray.kill(actor)
        self._seats = []
        if self._owns_ray and ray.is_initialized():
            leave_ray()

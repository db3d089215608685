"""The exchange of messages between a strategy and its clients.

It keeps the server's state of the clients between rounds: their roster and the messages sent; what
they hold is in ``delivery``.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, Metadata, RecordDict
from flwr.serverapp import Grid

from fedkt import wire
from fedkt.errors import ConfigError
from fedkt.knowledge import Fused, Knowledge
from fedkt.recipe import Recipe
from fedkt.strategies.server.attendance import Attendance, Wait
from fedkt.strategies.server.choosing import chosen, drawn
from fedkt.strategies.server.delivery import Delivery, Made
from fedkt.strategies.server.greeter import LEFT, NODE_UNAVAILABLE, Greeter, why
from fedkt.strategies.server.roster import Roster
from fedkt.strategies.server.round import Failure, Phase, RoundReport, ServerOptions, needed
from fedkt.text import foreign

# A client says in which part of a message's work something was not finite; see ``clients.turn``.
NAMED_PHASE = re.compile(r"NotFiniteError: client \d+, (start|learn|share|absorb|evaluate): ")

# A grid in front of another gives a message that it did not deliver, or whose reply came too late,
# an id that begins so. Ids are given at the server, so no client can say either of itself.
UNDELIVERED, LATE = "undelivered-", "late-"


# What clients fail to do where they do not answer in a phase.
FAILING: Mapping[Phase, str] = {"train": "learn", "evaluate": "absorb"}

# Codes of Flower's own answers: the message or the reply has expired, the node is gone, or the
# process of the client has ended. The client did not get to answer.
LOST = frozenset({3, 4, NODE_UNAVAILABLE, 8})

# From clients without a reply to those of them that are there now, and their replies.
Again = Callable[[Sequence[int]], tuple[Sequence[int], Iterable[Message]]]


class Exchange:
    """The exchange of one strategy with its clients.

    Parameters
    ----------
    title : str
        The method's name, for messages to people.
    recipe : Recipe
        Recipe of the run.
    options : ServerOptions
        Options of the run.
    begins : callable
        Called before the messages of a phase are sent, with the round as it stands.
    """

    def __init__(
        self,
        title: str,
        recipe: Recipe,
        options: ServerOptions,
        begins: Callable[[Phase, RoundReport], None] = lambda phase, report: None,
    ) -> None:
        self.title, self.recipe, self.options, self._begins = title, recipe, options, begins
        # Clients' states belong to a run: one without a name is never taken for another.
        self.run = options.run or secrets.token_hex(6)
        self.next_round = 1
        self.last_round = 0  # to be run; 0 if unknown
        self.timeout = 3600.0  # for the replies of phases without a deadline of their own
        self.report = RoundReport(0, ())
        self.delivery = Delivery(recipe, options)
        self.attendance = Attendance(recipe, title, options)
        self.again: Again | None = None  # how clients of the phase are asked again
        self._met = 0  # the round that the clients were greeted for last
        self._notes: list[str] = []  # of the greeting, for the next round's report
        self._asked: dict[int, Metadata] = {}  # of the last message to each client, if it got one
        self._unreached: set[int] = set()  # clients of the round that no message has reached
        self._learnt: dict[int, bool] = {}  # whether a client asked to learn has ever done so
        self.shapes: dict[str, tuple[int, ...]] = {}  # of the first weights, and so of all others

    # --- state -----------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state after a finished round; see ``fedkt.snapshot`` for types."""
        return {
            "run": self.run,
            "next_round": self.next_round,
            "clients": list(self.clients),
            "learnt": dict(self._learnt),
            "shapes": dict(self.shapes),
            **self.delivery.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state."""
        self.run, self.next_round = state["run"], state["next_round"]
        self.attendance.earlier = frozenset(state["clients"])
        self._learnt = dict(state["learnt"])
        self.shapes = {name: tuple(shape) for name, shape in state["shapes"].items()}
        self.delivery.load_state_dict(state)

    @property
    def rounds(self) -> int:
        """The number of rounds of the run, 0 if unknown."""
        return self.delivery.rounds

    @rounds.setter
    def rounds(self, rounds: int) -> None:
        self.delivery.rounds = rounds

    @property
    def latest(self) -> Fused:
        """The latest fused knowledge."""
        return self.delivery.latest

    # --- the clients ------------------------------------------------------------------

    def meet(
        self,
        grid: Grid,
        arrays: ArrayRecord,
        first: Callable[[Knowledge | None], Fused] = lambda weights: Fused(),
        made: Callable[[], Knowledge] | None = None,
        remarks: Callable[[], Sequence[str]] = lambda: (),
    ) -> Roster:
        """Greet the clients that are new, once before each round; return the roster.

        ``arrays`` are the first weights if weights are shared, else ``made`` makes them; ``first``
        makes from them the other knowledge for the first round. ``remarks`` are noted once.

        Raises
        ------
        ConfigError
            If the clients do not fit the method, or weights are shared and ``arrays`` is empty.
        RunFailedError
            If too few clients come, answer and fit.
        """
        if self._met != self.next_round:
            begins = self.attendance.roster is None
            self._notes += self.attendance.meet(grid, self._greeter(grid, self.next_round))
            self._met = self.next_round
            if begins:
                self.delivery.public_size = self.roster.public_size
            if begins and not self.delivery.version:  # not resumed
                self._notes += remarks()
                self.delivery.accept(self._begun(arrays, first, made), 0)
        return self.roster

    def _greeter(self, grid: Grid, next_round: int) -> Greeter:
        """Return the greeting, which makes clients forget what they have of the next round."""
        report = RoundReport(self.next_round, self.clients)
        send = partial(self.send, grid, phase="greeting", report=report)
        of_run: dict[str, str | int] = {"run": self.run, "server-round": next_round}
        learnt = sorted(client for client, ever in self._learnt.items() if ever)
        options = self.options
        known = options.most_clients, options.names
        return Greeter(self.recipe, options.nodes, of_run, send, learnt, *known)

    def send(
        self, grid: Grid, messages: list[Message], phase: Phase, report: RoundReport | None = None
    ) -> Iterable[Message]:
        """Send the messages of a phase; return the replies that come in time."""
        if not messages:
            return ()
        self._begins(phase, self.report if report is None else report)
        return self._exchanged(grid, messages, phase)

    def _exchanged(self, grid: Grid, messages: list[Message], phase: Phase) -> Iterable[Message]:
        longest = self.timeout
        if phase == "greeting" and self.attendance.roster is not None:
            longest = min(longest, self.options.wait)  # a newcomer must not hold up the others
        return grid.send_and_receive(messages, timeout=self.options.deadline(phase, longest))

    def resend(
        self,
        grid: Grid,
        phase: Phase,
        make: Callable[[Sequence[int]], list[Message]],
        clients: Sequence[int],
    ) -> tuple[Sequence[int], Iterable[Message]]:
        """Ask those of some clients again that are there; return which, and their replies.

        A client that has been away is greeted first, without a rewind: the round goes on.
        """
        greeter = self._greeter(grid, self.report.round + 1)
        back, lines = self.attendance.back(clients, grid, greeter)
        self.report.notes += lines
        return back, self._exchanged(grid, make(back), phase) if back else ()

    def _begun(
        self,
        arrays: ArrayRecord,
        first: Callable[[Knowledge | None], Fused],
        made: Callable[[], Knowledge] | None,
    ) -> Fused:
        """Return the knowledge for the first round; see :meth:`meet`."""
        if not self.recipe.begins_with_weights:
            return first(None)
        if not len(arrays) and made is None:
            raise ConfigError(f"{self.title} exchanges weights and needs initial_arrays.")
        weights = made() if made and not len(arrays) else wire.weights_of(arrays)
        self.shapes = {n: tuple(t.shape) for n, t in weights.tensors.items()}
        told = next(iter(self.roster.values())).told  # as the others
        shares = (share for share in self.recipe.share if share.begins)
        begun = {s.name: s.share_of(weights, told) for s in shares}
        given = first(weights)
        return Fused({**begun, **given.shared}, given.personal)

    @property
    def roster(self) -> Roster:
        """The clients that have come, after the first greeting."""
        assert self.attendance.roster is not None
        return self.attendance.roster

    @property
    def clients(self) -> tuple[int, ...]:
        """All clients of the run so far, ascending; some may not have come since a resume."""
        return self.attendance.clients

    @property
    def num_classes(self) -> int:
        """C; 0 before the greeting."""
        roster = self.attendance.roster
        return 0 if roster is None else roster.num_classes

    def begin(
        self, server_round: int, choose: Callable[[Sequence[int]], Sequence[int]] | None = None
    ) -> None:
        """Start a round: a new report, and the clients chosen for it; by default drawn.

        Raises
        ------
        ConfigError
            If ``choose`` names no client, or one that is not there.
        RunFailedError
            If it raises.
        """
        clients = self.clients
        self.report = RoundReport(server_round, clients, notes=self._notes)
        self._notes = []
        self._unreached = set()
        if self.delivery.version:  # before the first round all knowledge may be for its start
            self.delivery.latest = self.delivery.kept()
        choose = choose or self.drawn
        self.report.participants = chosen(self.title, server_round, choose, clients)
        present = [client for client in clients if self.attendance.absence(client) is None]
        if present and not set(present).intersection(self.report.participants):
            self.report.participants = chosen(self.title, server_round, choose, present)
            self.report.notes.append("all clients chosen were away: others were chosen")
        if self.report.participants != self.drawn(clients):
            self.report.notes.append("its clients are not those that train in the local baseline")
        self.report.one_model = any(share.whole(self.recipe.world) for share in self.recipe.share)

    def drawn(self, clients: Sequence[int]) -> list[int]:
        """Return as many of the clients as take part in the round, drawn uniformly."""
        return drawn(self.options, self.report.round, clients)

    # --- down --------------------------------------------------------------------------

    def messages(
        self, message_type: str, clients: Iterable[int], names: Sequence[str], config: ConfigRecord
    ) -> list[Message]:
        """Return a message for each client that is there, with the named knowledge due to it."""
        base = ConfigRecord({
            **config,
            "run": self.run,
            "server-round": self.report.round,
            "seed": self.options.seed,
            "codec": self.options.codec,
            "recipe": self.recipe.to_json(),
            "num-rounds": self.rounds,
        })  # fmt: skip
        made: Made = {}
        built, once = [], self.recipe.once
        for client in clients:
            self._asked.pop(client, None)
            if self.attendance.absence(client) is not None:
                continue
            content = RecordDict({"config": base})
            if decoded := self.delivery.bases.acknowledgement(client):
                content["acknowledged"] = ConfigRecord({**decoded})
            due = [n for n in names if n not in once or not self._learnt.get(client)]
            self.delivery.attach(content, client, due, made, self.report.traffic)
            node, group = self.roster[client].node, str(self.report.round)
            message = Message(content, node, message_type, group_id=group)
            self._asked[client] = message.metadata  # the grid writes the id of the message into it
            self._unreached.discard(client)
            built.append(message)
        return built

    # --- up ----------------------------------------------------------------------------

    def contents(
        self, replies: Iterable[Message], phase: Phase, asked: Sequence[int]
    ) -> Iterator[tuple[int, RecordDict]]:
        """Yield (client, content) of the replies, by client; note clients without as failures.

        A reply belongs to the message that it answers, whatever node it names as its source:
        Flower itself answers for a node that is gone. The first of several replies counts.
        """
        before, wait = len(self.report.failures), Wait(self.options.wait)
        lost = yield from self._answered(replies, FAILING[phase], asked)
        while lost and self._waits(phase, asked, before) and self.again and wait.more():
            back, replies = self.again(lost)
            failures = self.report.failures[before:]
            self.report.failures[before:] = [f for f in failures if f.client not in back]
            left = [client for client in lost if client not in back]
            lost = left + (yield from self._answered(replies, FAILING[phase], back))

    def _answered(
        self, replies: Iterable[Message], phase: str, asked: Sequence[int]
    ) -> Generator[tuple[int, RecordDict], None, list[int]]:
        """Yield (client, content) of the replies; return the clients that did not get to answer."""
        message_of = {c: m.message_id for c in asked if (m := self._asked.get(c)) is not None}
        client_of = {message_id: client for client, message_id in message_of.items()}
        answers: dict[int, Message] = {}
        for reply in replies:
            client = client_of.get(reply.metadata.reply_to_message_id)
            if client is not None:
                answers.setdefault(client, reply)
        lost = []
        for client in asked:
            answer = answers.pop(client, None)
            if client not in message_of:
                self._unreached.add(client)
                self.fail(client, phase, self.attendance.absence(client) or LEFT)
                lost.append(client)
            elif answer is None:
                self.fail(client, phase, "no reply in time")
                lost.append(client)
            elif answer.has_error():
                self._note_mark(client)
                reason = why(answer)
                named = NAMED_PHASE.match(reason)
                self.fail(client, named[1] if named else phase, reason)
                if answer.error.code in LOST:
                    lost.append(client)
            else:
                yield client, answer.content
        return lost

    def _note_mark(self, client: int) -> None:
        """Note what the grid in front says of a message: nobody got it, or it was worked on."""
        message_id = self._asked[client].message_id
        if message_id.startswith(UNDELIVERED):
            self.delivery.take_back(client, self.report.traffic)
            self._unreached.add(client)
        elif message_id.startswith(LATE):
            self._learnt[client] = True

    def acknowledge(self, client: int) -> None:
        """Note that a client holds the knowledge sent to it, since its reply was sound."""
        self.delivery.acknowledge(client)

    def note_learning(self, asked: Sequence[int], sound: Iterable[int]) -> None:
        """Note the clients that have learnt, and in the report those that never have."""
        learnt = set(sound)
        for client in set(asked) - self._unreached:
            self._learnt[client] = client in learnt or self._learnt.get(client, False)
        self.report.untrained = tuple(sorted(c for c, ever in self._learnt.items() if not ever))

    def withdraw(self, client: int, phase: str, reason: str) -> None:
        """Note that a client whose upload was sound in itself drops out of this phase."""
        self.report.mean_predictions.pop(client, None)
        self.fail(client, phase, reason)

    def accept(self, fused: Fused) -> None:
        """Set the latest fused knowledge and the diagnostics of the report."""
        self.delivery.accept(fused, self.report.round)
        self.report.diagnostics = fused.diagnostics

    def fail(self, client: int, phase: str, reason: str) -> None:
        """Note that a client drops out of this phase."""
        self.report.failures.append(Failure(client, phase, foreign(reason)))
        self.delivery.bases.forget(client)

    def _waits(self, phase: Phase, asked: Sequence[int], before: int) -> bool:
        """Return whether to wait for clients, since too few are sound of those asked."""
        failed = {failure.client for failure in self.report.failures[before:]}
        least = needed(self.options.quorum_of(phase), len(asked))
        return self.options.on_quorum_missed == "wait" and len(set(asked) - failed) < least

"""The exchange of messages between a strategy and its clients.

It keeps the server's state of the clients between rounds: their roster and the messages sent; what
they hold is in ``delivery``.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedkt import wire
from fedkt.codecs import uses_base
from fedkt.declared import check_content, check_packet
from fedkt.errors import ConfigError, FedktError, KnowledgeError, RunFailedError
from fedkt.evaluation.leakage import mean_prediction
from fedkt.knowledge import ANSWERS, Fused, Knowledge, Upload
from fedkt.recipe import Recipe
from fedkt.rng import numpy_rng
from fedkt.shares import Asked, Share
from fedkt.strategies.server.delivery import Delivery, Made
from fedkt.strategies.server.forms import of_other_form
from fedkt.strategies.server.roster import Roster, meet
from fedkt.strategies.server.round import Failure, RoundReport, ServerOptions
from fedkt.text import foreign, last_line, raised
from fedkt.upload_check import Expected, check

# A client says in which part of a message's work something was not finite; see ``clients.turn``.
NAMED_PHASE = re.compile(r"NotFiniteError: client \d+, (start|learn|share|absorb|evaluate): ")

# A grid in front of another gives a message that it did not deliver, or whose reply came too late,
# an id that begins so. Ids are given at the server, so no client can say either of itself.
UNDELIVERED, LATE = "undelivered-", "late-"


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
    """

    def __init__(self, title: str, recipe: Recipe, options: ServerOptions) -> None:
        self.title, self.recipe, self.options = title, recipe, options
        # Clients' states belong to a run: one without a name is never taken for another.
        self.run = options.run or secrets.token_hex(6)
        self.next_round, self.rounds = 1, 0  # rounds of the run, 0 if unknown
        self.last_round = 0  # to be run; 0 if unknown
        self.report = RoundReport(0, ())
        self.delivery = Delivery(recipe, options)
        self._roster: Roster | None = None
        self._notes: list[str] = []  # of the greeting, for the next round's report
        self._asked: dict[int, Metadata] = {}  # of the last message to each client
        self._unreached: set[int] = set()  # clients of the round that no message has reached
        self._learnt: dict[int, bool] = {}  # whether a client asked to learn has ever done so
        self._shapes: dict[str, tuple[int, ...]] = {}  # of the first weights, and so of all others

    # --- state -----------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state after a finished round; see ``fedkt.snapshot`` for types."""
        return {
            "run": self.run,
            "next_round": self.next_round,
            "learnt": dict(self._learnt),
            "shapes": dict(self._shapes),
            **self.delivery.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state."""
        self.run, self.next_round = state["run"], state["next_round"]
        self._learnt = dict(state["learnt"])
        self._shapes = {name: tuple(shape) for name, shape in state["shapes"].items()}
        self.delivery.load_state_dict(state)

    @property
    def latest(self) -> Fused:
        """The latest fused knowledge."""
        return self.delivery.latest

    # --- the clients ------------------------------------------------------------------

    def meet(
        self,
        grid: Grid,
        arrays: ArrayRecord,
        timeout: float,
        first: Callable[[Knowledge | None], Fused] = lambda weights: Fused(),
    ) -> Roster:
        """Greet the clients, once; return the roster.

        ``arrays`` are the first weights if weights are shared; ``first`` makes from them the
        other knowledge for the first round.

        Raises
        ------
        ConfigError
            If the clients do not fit the method, or weights are shared and ``arrays`` is empty.
        RunFailedError
            If too few clients come, answer and fit.
        """
        if self._roster is None:
            of_run: dict[str, str | int] = {"run": self.run, "server-round": self.next_round}
            self._roster = meet(grid, self.recipe, self.title, self.options, timeout, of_run)
            self._notes = [f"left out of the run: {node}" for node in self._roster.left_out]
            self.delivery.public_size = self._roster.public_size
            if not self.delivery.version:  # not resumed
                self.delivery.accept(self._begun(arrays, first), 0)
        return self._roster

    def _begun(self, arrays: ArrayRecord, first: Callable[[Knowledge | None], Fused]) -> Fused:
        """Return the knowledge for the first round; see :meth:`meet`."""
        if not self.recipe.begins_with_weights:
            return first(None)
        if not len(arrays):
            raise ConfigError(f"{self.title} exchanges weights and needs initial_arrays.")
        weights = wire.weights_of(arrays)
        self._shapes = {n: tuple(t.shape) for n, t in weights.tensors.items()}
        told = next(iter(self.roster.values())).told  # as the others
        shares = (share for share in self.recipe.share if share.begins)
        begun = {s.name: s.share_of(weights, told) for s in shares}
        given = first(weights)
        return Fused({**begun, **given.shared}, given.personal)

    @property
    def roster(self) -> Roster:
        """The clients, after the greeting."""
        assert self._roster is not None
        return self._roster

    @property
    def num_classes(self) -> int:
        """C; 0 before the greeting."""
        return 0 if self._roster is None else self._roster.num_classes

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
        self.report = RoundReport(server_round, self.roster.clients, notes=self._notes)
        self._notes = []
        self._unreached = set()
        if self.delivery.version:  # before the first round all knowledge may be for its start
            self.delivery.latest = self.delivery.kept()
        clients = self.roster.clients
        self.report.participants = self._chosen(choose or self.drawn, clients)
        if self.report.participants != self.drawn(clients):
            self.report.notes.append("its clients are not those that train in the local baseline")
        self.report.one_model = any(share.whole(self.recipe.world) for share in self.recipe.share)

    def drawn(self, clients: Sequence[int]) -> list[int]:
        """Return as many of the clients as take part in the round, drawn uniformly."""
        count = max(1, math.floor(self.options.participation * len(clients) + 0.5))
        if count >= len(clients):
            return list(clients)
        rng = numpy_rng(self.options.seed, "participants", self.report.round)
        return sorted(int(c) for c in rng.choice(clients, size=count, replace=False))

    def _chosen(self, choose: Callable[[Sequence[int]], Any], clients: Sequence[int]) -> list[int]:
        """Return the chosen clients, each once and in order; refuse others."""
        try:
            chosen = choose(clients)
        except FedktError:
            raise
        except Exception as error:  # a user's code may raise anything
            where = f"{self.title}, round {self.report.round}"
            raise RunFailedError(f"{where}: choose() raised {raised(error)}") from error
        chosen = getattr(chosen, "tolist", lambda: chosen)()  # of arrays and tensors
        if (
            not isinstance(chosen, Collection)
            or not chosen
            or any(c not in clients for c in chosen)
        ):
            raise ConfigError(
                f"{self.title}: choose() returned {foreign(chosen)}; it must return at least one "
                f"of the clients {foreign(list(clients))}."
            )
        return sorted(set(map(int, chosen)))

    # --- down --------------------------------------------------------------------------

    def messages(
        self, message_type: str, clients: Iterable[int], names: Sequence[str], config: ConfigRecord
    ) -> list[Message]:
        """Return a message for each client with the named knowledge that it does not hold yet."""
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
        built = []
        for client in clients:
            content = RecordDict({"config": base})
            if decoded := self.delivery.bases.acknowledgement(client):
                content["acknowledged"] = ConfigRecord({**decoded})
            self.delivery.attach(content, client, names, made, self.report.traffic)
            node, group = self.roster[client].node, str(self.report.round)
            message = Message(content, node, message_type, group_id=group)
            self._asked[client] = message.metadata  # the grid writes the id of the message into it
            built.append(message)
        return built

    # --- up ----------------------------------------------------------------------------

    def contents(
        self, replies: Iterable[Message], phase: str, asked: Sequence[int]
    ) -> Iterator[tuple[int, RecordDict]]:
        """Yield (client, content) of the replies, by client; note clients without as failures.

        A reply belongs to the message that it answers, whatever node it names as its source:
        Flower itself answers for a node that is gone. The first of several replies counts.
        """
        client_of = {self._asked[client].message_id: client for client in asked}
        answers: dict[int, Message] = {}
        for reply in replies:
            client = client_of.get(reply.metadata.reply_to_message_id)
            if client is not None:
                answers.setdefault(client, reply)
        for client in asked:
            answer = answers.pop(client, None)
            if answer is None:
                self.fail(client, phase, "no reply in time")
            elif answer.has_error():
                self._note_mark(client)
                reason = last_line(answer.error.reason)
                named = NAMED_PHASE.match(reason)
                self.fail(client, named[1] if named else phase, reason)
            else:
                yield client, answer.content

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

    def read_upload(self, client: int, content: RecordDict) -> Upload:
        """Return one client's upload, decoded and checked.

        Parameters
        ----------
        client : int
            Its id.
        content : RecordDict
            The reply.

        Raises
        ------
        KnowledgeError
            If the upload is not sound; the message names the reason.
        """
        packets, knowledge, delivery = wire.extract(content), {}, self.delivery
        self.report.traffic.up += sum(p.num_bytes for p in packets.values())
        check_content(content, [share.name for share in self.recipe.share])
        for share in self.recipe.share:
            if share.name not in packets:
                raise KnowledgeError(f"no knowledge called {share.name!r} in the reply")
            ids = partial(delivery.ids, share.name, known=self.latest.for_client(client))
            base = delivery.bases.of_server(client, share.name)
            codec = delivery.codec(share.name, "up")
            expected = self._expected(share, client)
            check_packet(packets[share.name], expected, codec, self.options.bounds.open_bytes)
            decoded = wire.decode(packets[share.name], ids, codec, self.report.round, base)
            check(decoded, expected, self.roster.num_classes)
            knowledge[share.name] = decoded
        metrics, most = wire.record(content, "metrics", MetricRecord), self.options.bounds.examples
        examples = wire.scalar(metrics, "num-examples", 0, most)
        if examples is None:
            raise KnowledgeError("the reply does not say num-examples")
        kept = [n for n in knowledge if uses_base(delivery.codec(n, "up"))]
        bases = {name: wire.Base(self.report.round, knowledge[name]) for name in kept}
        delivery.bases.receive(client, bases)
        return Upload(client, int(examples), knowledge, self.roster[client].architecture)

    def withdraw(self, client: int, phase: str, reason: str) -> None:
        """Note that a client whose upload was sound in itself drops out of this phase."""
        self.report.mean_predictions.pop(client, None)
        self.fail(client, phase, reason)

    def without_outliers(self, uploads: Sequence[Upload]) -> list[Upload]:
        """Return the uploads that go with the others'; note the rest as failures."""
        grouped = {share.name for share in self.recipe.share if share.group}
        outliers = self.options.bounds.outliers(uploads) | of_other_form(uploads, grouped)
        for client, reason in outliers.items():
            self.fail(client, "share", reason)
        return [upload for upload in uploads if upload.client not in outliers]

    def note_leakage(self, upload: Upload) -> None:
        """Note the mean of the client's answers, which the report shows as leakage."""
        answers = next((s.name for s in self.recipe.share if s.kind in ANSWERS), None)
        if answers is None:
            return
        knowledge = upload.knowledge[answers]
        if knowledge.absent < len(knowledge.values):
            mean = mean_prediction(knowledge, self.roster.num_classes)
            self.report.mean_predictions[upload.client] = mean

    def _expected(self, share: Share, client: int) -> Expected:
        roster, known = self.roster, self.latest.for_client(client)
        asked = Asked(
            self.delivery.ids(share.name, self.report.round, known),
            roster.num_classes,
            roster.input_shape,
            self._shapes,
            known.get(share.name),
            roster[client].told,
        )
        expected = share.expected(asked)
        most = self.options.bounds.value
        largest = most if expected.largest is None else min(expected.largest, most)
        return replace(expected, largest=largest, partial=share.partial or expected.partial)

    def accept(self, fused: Fused) -> None:
        """Set the latest fused knowledge and the diagnostics of the report."""
        self.delivery.accept(fused, self.report.round)
        self.report.diagnostics = fused.diagnostics

    def fail(self, client: int, phase: str, reason: str) -> None:
        """Note that a client drops out of this phase."""
        self.report.failures.append(Failure(client, phase, foreign(reason)))
        self.delivery.bases.forget(client)

    def stop_unless(self, alive: Sequence[Any], phase: str) -> None:
        """Stop the run if a phase has left no client.

        Raises
        ------
        RunFailedError
            If no client is left; the message names the first client's reason.
        """
        if not alive:
            first = next(f for f in self.report.failures)
            raise RunFailedError(
                f"{self.title}, round {self.report.round}: every client failed to {phase}; "
                f"client {first.client}: {first.reason}"
            )

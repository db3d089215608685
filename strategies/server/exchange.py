"""The exchange of messages between a strategy and its clients.

Keeps what the server must know about the clients from round to round: who they are,
which fused knowledge each already holds, and what was sent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, Metadata, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedkt import wire
from fedkt.arrival import Expected, check
from fedkt.errors import ConfigError, KnowledgeError, RunFailedError
from fedkt.evaluation.leakage import mean_prediction
from fedkt.knowledge import ANSWERS, Fused, Knowledge, Upload
from fedkt.recipe import Recipe
from fedkt.rng import numpy_rng
from fedkt.shares import Asked, Share
from fedkt.strategies.server.roster import Roster, meet
from fedkt.strategies.server.round import Failure, RoundReport, ServerOptions
from fedkt.text import foreign, last_line

# A client says in which part of a message's work something was not finite; see ``clients.turn``.
NAMED_PHASE = re.compile(r"NotFiniteError: client \d+, (start|learn|share|absorb|evaluate): ")


class Exchange:
    """One strategy's conversation with its clients.

    Parameters
    ----------
    title : str
        The method's name, for messages to people.
    recipe : Recipe
        What the clients do.
    options : ServerOptions
        Seed, participation, codec.
    """

    def __init__(self, title: str, recipe: Recipe, options: ServerOptions) -> None:
        self.title, self.recipe, self.options = title, recipe, options
        self.next_round, self.rounds = 1, 0  # rounds: how many the run has, 0 if unknown
        self.report = RoundReport(0, ())
        self.latest = Fused()
        self._roster: Roster | None = None
        self._notes: list[str] = []  # of the greeting, for the next round's report
        self._version = 0  # the round in which `latest` was fused; 0 is before the first
        self._held: dict[int, dict[str, int]] = {}  # client -> share name -> version
        self._sent: dict[int, dict[str, int]] = {}  # the same of what was sent this phase
        self._asked: dict[int, Metadata] = {}  # of the last message to each client
        self._learnt: dict[int, bool] = {}  # whether a client that was asked to learn ever has
        self._shapes: dict[str, tuple[int, ...]] = {}  # of the first weights, and so of all others

    # --- state -----------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what must outlive a stop after a finished round."""
        kept = self._kept()
        return {
            "next_round": self.next_round,
            "version": self._version,
            "held": {c: dict(h) for c, h in self._held.items()},
            "learnt": dict(self._learnt),
            "shapes": dict(self._shapes),
            "shared": dict(kept.shared),
            "personal": {c: dict(own) for c, own in kept.personal.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        self.next_round, self._version = state["next_round"], state["version"]
        self._held = {c: dict(h) for c, h in state["held"].items()}
        self._learnt = dict(state["learnt"])
        self._shapes = {name: tuple(shape) for name, shape in state["shapes"].items()}
        self.latest = Fused(state["shared"], state["personal"])

    def _kept(self) -> Fused:
        """Return what later rounds read; all other knowledge is used up within its round."""
        keep = set(self.recipe.needs("learn"))
        return Fused(
            {n: k for n, k in self.latest.shared.items() if n in keep},
            {
                client: {n: k for n, k in own.items() if n in keep}
                for client, own in self.latest.personal.items()
            },
        )

    # --- who is there ------------------------------------------------------------------

    def meet(
        self,
        grid: Grid,
        arrays: ArrayRecord,
        timeout: float,
        first: Callable[[Knowledge | None], Mapping[str, Knowledge]] = lambda weights: {},
    ) -> Roster:
        """Greet the clients once; take ``arrays`` as the first weights if weights are shared.

        ``first`` makes, of these weights, what else the clients are sent in the first round.
        """
        if self._roster is None:
            self._roster = meet(grid, self.recipe, self.title, self.options, timeout)
            self._notes = [f"left out of the run: {one}" for one in self._roster.left_out]
            if self.recipe.needs_one_architecture and self._version == 0:
                if not len(arrays):
                    raise ConfigError(f"{self.title} exchanges weights and needs initial_arrays.")
                weights = wire.weights_of(arrays)
                self._shapes = {n: tuple(t.shape) for n, t in weights.tensors.items()}
                names = [s.name for s in self.recipe.share if s.kind == "weights"]
                self.latest = Fused({**dict.fromkeys(names, weights), **first(weights)})
            elif self._version == 0:
                self.latest = Fused(first(None))
        return self._roster

    @property
    def roster(self) -> Roster:
        """The clients, once met."""
        assert self._roster is not None
        return self._roster

    def begin(self, server_round: int) -> None:
        """Start a round: a new report, and the clients drawn for it."""
        self.report = RoundReport(server_round, self.roster.clients, notes=self._notes)
        self._notes = []
        if self._version:  # what was there before the first round may be for its start
            self.latest = self._kept()
        self.report.participants = self._draw(server_round)
        self.report.one_model = any(share.whole_model for share in self.recipe.share)

    def _draw(self, server_round: int) -> list[int]:
        clients = self.roster.clients
        count = max(1, math.floor(self.options.participation * len(clients) + 0.5))
        if count >= len(clients):
            return list(clients)
        rng = numpy_rng(self.options.seed, "participants", server_round)
        return sorted(int(c) for c in rng.choice(clients, size=count, replace=False))

    # --- down --------------------------------------------------------------------------

    def messages(
        self, message_type: str, clients: Iterable[int], names: Sequence[str], config: ConfigRecord
    ) -> list[Message]:
        """Build one message for each client with the named knowledge it does not hold yet."""
        base = ConfigRecord({
            **config,
            "server-round": self.report.round,
            "seed": self.options.seed,
            "codec": self.options.codec,
            "recipe": self.recipe.to_json(),
            "num-rounds": self.rounds,
        })  # fmt: skip
        # One packet object for all receivers: grids recognise a broadcast by identity.
        shared = {
            n: self._encode(n, self.latest.shared[n]) for n in names if n in self.latest.shared
        }
        built = []
        for client in clients:
            packets = self._due(client, names, shared)
            self._sent[client] = dict.fromkeys(packets, self._version)
            content = RecordDict({"config": base})
            wire.attach(content, packets)
            node, group = self.roster[client].node, str(self.report.round)
            message = Message(content, node, message_type, group_id=group)
            self._asked[client] = message.metadata  # in which the grid writes the message's id
            built.append(message)
        return built

    def _due(
        self, client: int, names: Iterable[str], shared: Mapping[str, wire.Packet]
    ) -> dict[str, wire.Packet]:
        """Return what a client must be sent of the named knowledge, and meter it."""
        personal, held = self.latest.personal.get(client, {}), self._held.get(client, {})
        packets, traffic = {}, self.report.traffic
        for name in names:
            if held.get(name) == self._version:
                continue
            if name in personal:
                packets[name] = self._encode(name, personal[name])
                traffic.down_unicast += packets[name].num_bytes
            elif name in shared:
                packets[name] = shared[name]
                traffic.down_broadcast += packets[name].num_bytes
        return packets

    def _encode(self, name: str, knowledge: Knowledge) -> wire.Packet:
        known = self._ids(name, self._version)
        return wire.encode(knowledge, self._version, known, self.options.codec)

    def _ids(self, name: str, round_: int) -> Tensor | None:
        size = self.roster.public_size
        return self.recipe.ids(name, size, self.options.seed, round_)

    # --- up ----------------------------------------------------------------------------

    def contents(
        self, replies: Iterable[Message], phase: str, asked: Sequence[int]
    ) -> Iterator[tuple[int, RecordDict]]:
        """Yield (client, content) of the replies by client; note those without as failures.

        A reply belongs to the message that it answers, whichever node it says that it comes from:
        Flower answers itself for a node that is gone. Of several the first counts.
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
                reason = last_line(answer.error.reason)
                named = NAMED_PHASE.match(reason)
                self.fail(client, named[1] if named else phase, reason)
            else:
                yield client, answer.content

    def acknowledge(self, client: int) -> None:
        """Take note that a client holds what it was sent: it has replied, and soundly."""
        self._held.setdefault(client, {}).update(self._sent.get(client, {}))

    def note_learning(self, asked: Sequence[int], sound: Iterable[int]) -> None:
        """Note who of those asked to learn has, and in the report who never has."""
        learnt = set(sound)
        for client in asked:
            self._learnt[client] = client in learnt or self._learnt.get(client, False)
        self.report.untrained = tuple(sorted(c for c, ever in self._learnt.items() if not ever))

    def read_upload(self, client: int, content: RecordDict) -> Upload:
        """Decode and check one client's upload.

        Parameters
        ----------
        client : int
            Its id.
        content : RecordDict
            The reply.

        Raises
        ------
        KnowledgeError
            Saying what is wrong with it.
        """
        packets, knowledge = wire.extract(content), {}
        self.report.traffic.up += sum(p.num_bytes for p in packets.values())
        for share in self.recipe.share:
            if share.name not in packets:
                raise KnowledgeError(f"no knowledge called {share.name!r} in the reply")
            ids = partial(self._ids, share.name)
            one = wire.decode(packets[share.name], ids, self.options.codec, self.report.round)
            check(one, self._expected(share), self.roster.num_classes)
            knowledge[share.name] = one
        metrics, most = content.metric_records.get("metrics"), self.options.bounds.examples
        examples = wire.scalar(metrics, "num-examples", 0, most)
        if examples is None:
            raise KnowledgeError("the reply does not say num-examples")
        return Upload(client, int(examples), knowledge)

    def withdraw(self, client: int, phase: str, reason: str) -> None:
        """Note that a client drops out of this phase whose upload was sound in itself."""
        self.report.mean_predictions.pop(client, None)
        self.fail(client, phase, reason)

    def without_outliers(self, uploads: Sequence[Upload]) -> list[Upload]:
        """Return the uploads that are not too far from the others'; note the rest as failures."""
        outliers = self.options.bounds.outliers(uploads)
        for client, reason in outliers.items():
            self.fail(client, "share", reason)
        return [upload for upload in uploads if upload.client not in outliers]

    def note_leakage(self, upload: Upload) -> None:
        """Note what the client's answers give away on the average, for the report."""
        answers = next((s.name for s in self.recipe.share if s.kind in ANSWERS), None)
        if answers is None:
            return
        knowledge = upload.knowledge[answers]
        if knowledge.absent < len(knowledge.values):
            mean = mean_prediction(knowledge, self.roster.num_classes)
            self.report.mean_predictions[upload.client] = mean

    def _expected(self, share: Share) -> Expected:
        ids, roster = self._ids(share.name, self.report.round), self.roster
        asked = Asked(ids, roster.num_classes, roster.input_shape, self._shapes)
        expected = share.expected(asked)
        largest = min(expected.largest, self.options.bounds.value)
        return replace(expected, largest=largest, partial=share.partial)

    def check_fused(self, fused: Fused) -> None:
        """Refuse what cannot be sent; every participant must find in it what it reads.

        Raises
        ------
        ConfigError
            If a participant is given less than the recipe reads.
        KnowledgeError
            If knowledge is not sound: the clients would be ruined by it.
        """
        self._check_form(fused)
        needed = dict.fromkeys((*self.recipe.needs("absorb"), *self.recipe.needs("learn")))
        for client in self.report.participants:
            missing = [n for n in needed if n not in fused.for_client(client)]
            if missing:
                raise ConfigError(f"{self.title}: fuse() gave client {client} no {missing[0]!r}.")
        for receiver, given in (("everyone", fused.shared), *fused.personal.items()):
            for name, one in given.items():
                self._check_fused(name, one, receiver)

    def accept(self, fused: Fused) -> None:
        """Take what the strategy fused as what the clients are to get."""
        self.latest, self._version = fused, self.report.round
        self.report.diagnostics = fused.diagnostics

    def _check_form(self, fused: Any) -> None:
        """Refuse what is no knowledge by name."""
        form = "Fused(shared={name: Knowledge}) or Fused(personal={client: {name: Knowledge}})"
        if not isinstance(fused, Fused):
            raise ConfigError(
                f"{self.title}: fuse() must return {form}, not {type(fused).__name__}."
            )
        gifts: list[tuple[str, Any]] = [("everyone", fused.shared)]
        gifts += [(f"client {client}", own) for client, own in fused.personal.items()]
        for whom, given in gifts:
            named = given.items() if isinstance(given, Mapping) else [("its share", given)]
            for name, one in named:
                if not isinstance(one, Knowledge):
                    what = f"{type(one).__name__} as {name!r}"
                    raise ConfigError(f"{self.title}: fuse() gave {whom} {what}, not {form}.")

    def _check_fused(self, name: str, one: Knowledge, receiver: object) -> None:
        shapes = {n: tuple(t.shape) for n, t in one.tensors.items()}
        if one.kind in ("logits", "probabilities") and one.ids is not None:
            shapes = {"values": (len(one.ids), self.roster.num_classes)}
        try:
            check(one, Expected(one.kind, one.ids, shapes), self.roster.num_classes)
        except KnowledgeError as error:
            whom = receiver if receiver == "everyone" else f"client {receiver}"
            raise type(error)(
                f"what fuse() gave {whom} as {name!r} cannot be sent: {error}"
            ) from error

    def fail(self, client: int, phase: str, reason: str) -> None:
        """Note that a client drops out of this phase."""
        self.report.failures.append(Failure(client, phase, foreign(reason)))

    def stop_unless(self, alive: Sequence[Any], phase: str) -> None:
        """Stop the run when a phase has left no client.

        Raises
        ------
        RunFailedError
            Naming the first client's reason.
        """
        if not alive:
            first = next(f for f in self.report.failures)
            raise RunFailedError(
                f"{self.title}, round {self.report.round}: every client failed to {phase}; "
                f"client {first.client}: {first.reason}"
            )

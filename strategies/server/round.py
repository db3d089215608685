"""The options of a run at the server, and the report of a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from fedkt.codecs import wire_name
from fedkt.context import ServerSamples
from fedkt.data.samples import Samples
from fedkt.errors import ConfigError
from fedkt.greeting import LARGEST_ID
from fedkt.metrics import wire_metrics
from fedkt.options import AtLeastOne, Count, Factor, Positive, PositiveFraction, checked
from fedkt.strategies.server.bounds import Bounds
from fedkt.strategies.server.model import MakeModel

Quorum = Literal["strict", "majority"] | AtLeastOne
Phase = Literal["greeting", "train", "evaluate"]


@checked
@dataclass(frozen=True)
class ServerOptions:
    """Options of a run at the server, the same for all methods.

    Parameters
    ----------
    run : str
        Name of the run, which clients keep their states under; by default a new one, so that they
        start afresh. A strategy that is loaded with a state goes on with its run.
    seed : int
        Seed of every random stream, at the server and at the clients.
    participation : float
        Share of the clients drawn each round, in (0, 1]; at least one takes part.
    clients : int
        Number of clients to wait for before the first round; 0 takes those that are there
        once the first has come.
    codec : str
        Codecs for both directions, joined by ``+``; ``"none"`` sends float32. A share may have
        its own.
    wait : float
        Seconds to wait for the clients to come.
    quorum : {"strict", "majority"} or int
        Number of clients that must come, answer the greeting and fit before a run starts without
        the others. ``strict``: all. ``majority``: more than half of ``clients``, or of those that
        came if they are more.
    train_quorum, evaluate_quorum : {"strict", "majority"} or int
        Number of sound replies that a round needs, of the clients that were asked to learn, and to
        evaluate.
    on_quorum_missed : {"wait", "skip", "stop"}
        What happens if a quorum is missed. ``stop``: the run fails. ``skip``: the round ends
        without a fusion, its clients evaluate the models that they have, and the next begins; a run
        cannot start so. ``wait``: clients without a reply are asked again once their nodes are
        there, as long as ``wait`` says, and then the run fails.
    greeting_deadline, train_deadline, evaluate_deadline : float, optional
        Seconds to wait for the replies of a phase; None: the ``timeout`` of ``start``, and for
        clients that come during a run at most ``wait``.
    nodes : Mapping[int, int]
        Flower's id of the node of each client, by client id. A node that is registered with its key
        has the same id for ever. No other node may then be one of these clients, and no other
        clients take part. Empty: a client id belongs to the first node that comes with it, until
        that has left.
    names : Mapping[int, str]
        Names of clients by id, for messages.
    most_clients : int
        Clients have ids below it.
    public_labels : Tensor, optional
        int64 ``[M]``: labels of the public samples by id, -1 where the server does not know the
        label. A simulation gives those of its public set; a deployed server gives those that it
        has. Only methods that say so read them (``trust="root"``).
    public : Tensor, optional
        float32 ``[M, ...]``: inputs of the public samples by id; in domain adaptation those of the
        target. For methods that work on them at the server.
    validation : Samples, optional
        Labelled samples held out at the server.
    models : MakeModel, optional
        The maker of models at the server, for methods that have any, e.g.
        ``fedkt.clients.LearnerModels``.
    group_effect : bool
        Whether participants also measure their model between learning and fusion, on the
        common test set. This is evaluation only and changes no model.
    schedule_rounds : int
        Number of rounds for schedules over the progress of a run (λ_p of domain adaptation, the
        gates of ``kd3a``), if this run is the beginning of a longer one; 0: this run's.
    bounds : Bounds
        Bounds on uploads.
    metrics : tuple[str, ...]
        Metrics that the clients measure beside accuracy: ``macro-f1``, ``mine.py:Kappa``.
    """

    run: str = ""
    seed: Count = 0
    participation: PositiveFraction = 1.0
    clients: Count = 0
    codec: str = "none"
    wait: Factor = 120.0
    quorum: Quorum = "majority"
    train_quorum: Quorum = 1
    evaluate_quorum: Quorum = 1
    on_quorum_missed: Literal["wait", "skip", "stop"] = "stop"
    greeting_deadline: Positive | None = None
    train_deadline: Positive | None = None
    evaluate_deadline: Positive | None = None
    nodes: Mapping[int, int] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    most_clients: AtLeastOne = LARGEST_ID
    # Tensors cannot be compared by ==, and are too long for a log line.
    public_labels: Tensor | None = field(default=None, compare=False, repr=False)
    public: Tensor | None = field(default=None, compare=False, repr=False)
    validation: Samples | None = field(default=None, compare=False, repr=False)
    models: MakeModel | None = field(default=None, compare=False, repr=False)
    group_effect: bool = False
    schedule_rounds: Count = 0
    bounds: Bounds = field(default_factory=Bounds)
    metrics: tuple[str, ...] = ()

    @cached_property
    def samples(self) -> ServerSamples:
        """The samples at the server, each of length 0 where there are none."""
        x = torch.zeros(0, 1) if self.public is None else self.public
        ids = torch.arange(len(x))
        none = labelled = Samples(x[:0], torch.zeros(0, dtype=torch.int64), ids[:0])
        if self.public is not None and self.public_labels is not None:
            if len(self.public_labels) != len(x):
                told = f"{len(self.public_labels)} public_labels"
                raise ConfigError(f"The server has {told} for {len(x)} public samples.")
            labelled = Samples(x, self.public_labels, ids).select(self.public_labels >= 0)
        return ServerSamples(Samples(x, None, ids), labelled, self.validation or none)

    def __post_init__(self) -> None:
        object.__setattr__(self, "codec", wire_name(self.codec))
        object.__setattr__(self, "metrics", wire_metrics(self.metrics))

        if any(type(number) is not int for pair in self.nodes.items() for number in pair):
            raise ConfigError("nodes must map ids of clients to ids of nodes, whole numbers both.")
        shared = [n for n, count in Counter(self.nodes.values()).items() if count > 1]
        if shared:
            clients = sorted(client for client, node in self.nodes.items() if node == shared[0])
            raise ConfigError(f"nodes: clients {clients} have one node, {shared[0]}.")

    def deadline(self, phase: Phase, otherwise: float) -> float:
        """Return the seconds to wait for the replies of a phase."""
        deadlines: dict[Phase, float | None] = {
            "greeting": self.greeting_deadline,
            "train": self.train_deadline,
            "evaluate": self.evaluate_deadline,
        }
        seconds = deadlines[phase]
        return otherwise if seconds is None else seconds

    def quorum_of(self, phase: Phase) -> Quorum:
        """Return the number of sound replies that a phase needs, as the options say it."""
        quorums: dict[Phase, Quorum] = {
            "greeting": self.quorum,
            "train": self.train_quorum,
            "evaluate": self.evaluate_quorum,
        }
        return quorums[phase]


def needed(quorum: Quorum, expected: int) -> int:
    """Return the number of clients that a quorum needs, of those expected."""
    if quorum == "strict":
        return expected
    return expected // 2 + 1 if quorum == "majority" else quorum


@dataclass(frozen=True)
class Failure:
    """A client dropped from a phase of a round, and the reason."""

    client: int
    phase: str
    reason: str


@dataclass
class Traffic:
    """Bytes of array data sent in a round, summed over the clients."""

    up: int = 0
    down_unicast: int = 0
    down_broadcast: int = 0

    @property
    def down(self) -> int:
        """Bytes from the server; a broadcast counts once for every receiver."""
        return self.down_unicast + self.down_broadcast


@dataclass
class RoundReport:
    """The report of one round: participants, figures, bytes, failures.

    Parameters
    ----------
    round : int
        Number of the round, from 1.
    clients : tuple[int, ...]
        The ids of all clients of the run so far, ascending.
    participants : list[int]
        Clients drawn for the round; after the fusion, those whose upload is in it.
    untrained : tuple[int, ...]
        Clients that have failed, or whose reply was refused, whenever they were asked to learn. As
        far as is known they still have their first model, so they get no figure.
    metrics : dict[int, dict[str, float]]
        By client: ``personalised-accuracy``, ``global-accuracy`` and
        ``validation-accuracy`` in [0, 1], and the same of each metric (``personalised-macro-f1``),
        if the client has measured them.
    tables : dict[int, dict[str, Tensor]]
        By client, the metrics that are tables, of the last round only: float64 ``[C]`` or
        ``[C, C]``.
    server_accuracy : float, optional
        Accuracy of the server's own model, if there is one.
    one_model : bool
        Whether all clients continue from the server's model.
    learnt : dict[int, float]
        By participant, the accuracy of its model on the common test set after learning, before
        the fusion; empty unless the run asks for the group effect.
    losses : dict[int, float]
        By participant, the mean loss of the last epoch of what it learnt last before sharing; not
        of models that are fitted at once.
    traffic : Traffic
        Bytes sent.
    failures : list[Failure]
        Clients dropped.
    notes : list[str]
        Other incidents, a line each, such as a figure that the server could not measure.
    diagnostics : Mapping[str, Any]
        Values that the strategy reports.
    mean_predictions : dict[int, Tensor]
        By client, the mean of its answers on the public set, float32 ``[C]``, for methods that
        share answers; a server could take it for the client's label histogram.
    seconds : float
        Wall time, in seconds.
    """

    round: int
    clients: tuple[int, ...]
    participants: list[int] = field(default_factory=list)
    untrained: tuple[int, ...] = ()
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    tables: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    server_accuracy: float | None = None
    one_model: bool = False
    learnt: dict[int, float] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    mean_predictions: dict[int, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    def per_client(self, metric: str) -> list[float | None]:
        """Return one metric for each client in order.

        None where the metric is missing, and for clients that never trained.
        """
        never = set(self.untrained)
        return [None if c in never else self.metrics.get(c, {}).get(metric) for c in self.clients]

"""What a strategy is told about a run, and what it reports about each round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from fedkt.options import AtLeastOne, Count, Factor, PositiveFraction, checked
from fedkt.strategies.server.bounds import Bounds
from fedkt.strategies.server.model import ServerModel

Quorum = Literal["strict", "majority"] | AtLeastOne


@checked
@dataclass(frozen=True)
class ServerOptions:
    """What belongs to a run and not to a method.

    Parameters
    ----------
    seed : int
        Seed of every random stream, at the server and at the clients.
    participation : float
        Share of the clients drawn each round, in (0, 1]; at least one takes part.
    clients : int
        How many clients to wait for before the first round; 0 takes those that are there
        once the first has come.
    codec : str
        Codecs for both directions, joined by ``+``; ``"none"`` sends float32.
    wait : float
        Seconds to wait for the clients to come.
    quorum : {"strict", "majority"} or int
        How many clients must have come, answered the greeting and fit for a run to start; it
        starts without the others. ``strict``: all. ``majority``: more than half of ``clients``,
        or of those that came if they are more. A number: so many.
    public_labels : Tensor, optional
        int64 ``[M]``: the labels of the public samples by id, -1 where the server does not
        know one. A simulation gives those of its public set; a deployed server that has
        labelled some rows gives what it has. Only methods that say so read it
        (``trust="root"``).
    server_model : ServerModel, optional
        The server's own model and unlabelled samples, for methods that train or ask one.
    group_effect : bool
        Whether participants also measure their model between learning and fusion, on the
        common test set; evaluation only, no model changes by it.
    schedule_rounds : int
        What follows the progress of a run (λ_p of domain adaptation, the gates of ``kd3a``)
        follows that of a run of so many rounds, of which this is the beginning; 0: of this.
    bounds : Bounds
        What the numbers of an upload may be.
    """

    seed: Count = 0
    participation: PositiveFraction = 1.0
    clients: Count = 0
    codec: str = "none"
    wait: Factor = 120.0
    quorum: Quorum = "majority"
    # Tensors have no single truth value to compare by, and are too long for a log line.
    public_labels: Tensor | None = field(default=None, compare=False, repr=False)
    server_model: ServerModel | None = field(default=None, compare=False, repr=False)
    group_effect: bool = False
    schedule_rounds: Count = 0
    bounds: Bounds = field(default_factory=Bounds)

    def needed(self, expected: int) -> int:
        """Return how many of the clients that are expected a run needs."""
        if self.quorum == "strict":
            return expected
        return expected // 2 + 1 if self.quorum == "majority" else self.quorum


@dataclass(frozen=True)
class Failure:
    """A client dropped from a phase of a round, and why."""

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
    """All that is known about one round.

    Parameters
    ----------
    round : int
        From 1.
    clients : tuple[int, ...]
        All client ids, ascending.
    participants : list[int]
        Those drawn for the round; once the uploads are in, those whose upload was good.
    untrained : tuple[int, ...]
        Clients that have failed whenever they were asked to learn, until now, or whose replies
        have all been refused: as far as is known they hold the model that they began with, and no
        figure is theirs.
    metrics : dict[int, dict[str, float]]
        By client: ``personalised-accuracy``, ``global-accuracy``,
        ``validation-accuracy``, each in [0, 1], as far as the client has them.
    server_accuracy : float, optional
        Accuracy of the server's own model, if there is one.
    one_model : bool
        Whether all clients go on from the server's model.
    learnt : dict[int, float]
        By participant, the accuracy on the common test set of its model as it was after
        learning, before the fusion; empty unless the run asks for the group effect.
    traffic : Traffic
        Bytes.
    failures : list[Failure]
        Clients dropped.
    notes : list[str]
        What else did not go as it should, a line each: a figure of the server's own that could
        not be taken.
    diagnostics : Mapping[str, Any]
        The strategy's own.
    mean_predictions : dict[int, Tensor]
        By client, the mean of its answers on the public set, float32 ``[C]``, of methods
        that share answers; what a server could take for its label histogram.
    seconds : float
        Wall time.
    """

    round: int
    clients: tuple[int, ...]
    participants: list[int] = field(default_factory=list)
    untrained: tuple[int, ...] = ()
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    server_accuracy: float | None = None
    one_model: bool = False
    learnt: dict[int, float] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    mean_predictions: dict[int, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    def per_client(self, metric: str) -> list[float | None]:
        """Return one metric for each client in order.

        ``None`` where it is missing, and for clients that never trained.
        """
        never = set(self.untrained)
        return [None if c in never else self.metrics.get(c, {}).get(metric) for c in self.clients]

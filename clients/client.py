"""One party of a federation."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedkt.clients.learners.base import Learner, TrainingOptions
from fedkt.data.samples import ClientData


@dataclass(frozen=True)
class Client:
    """One party.

    Parameters
    ----------
    id : int
        Stable over restarts; orders the clients at the server.
    learner : Learner
        What it trains; may be shared with other clients of one process.
    data : ClientData
        What it trains on.
    options : TrainingOptions
        How.
    personalised : {"split", "matched"}
        How personalised accuracy is measured; see ``phases.evaluate``.
    """

    id: int
    learner: Learner
    data: ClientData
    options: TrainingOptions = field(default_factory=TrainingOptions)
    personalised: str = "split"

"""A party of a federation."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedkt.clients.learners.base import Learner
from fedkt.clients.policy import Policy
from fedkt.data.samples import ClientData
from fedkt.training import TrainingOptions


@dataclass(frozen=True)
class Client:
    """A party of a federation: its learner, its data and its training options.

    Parameters
    ----------
    id : int
        Stable over restarts; orders the clients at the server.
    learner : Learner
        Its learner; other clients of the process may use the same one.
    data : ClientData
        Its private data, and the public and test sets.
    options : TrainingOptions
        Options of its training.
    personalised : {"split", "matched"}
        How personalised accuracy is measured; see ``phases.evaluate``.
    policy : Policy
        What it lets out. By default answers on the public set alone.
    """

    id: int
    learner: Learner
    data: ClientData
    options: TrainingOptions = field(default_factory=TrainingOptions)
    personalised: str = "split"
    policy: Policy = field(default_factory=Policy)

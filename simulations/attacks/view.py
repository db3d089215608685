"""What an attack is, and what an attacker may know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.rng import torch_rng


@dataclass(frozen=True)
class View:
    """What one attacker knows when it lies: more than it could in a real federation.

    All answers are float32 logits, a row for each public sample in use, ``[M, C]``. Where
    probabilities are shared they are log-probabilities, where labels are shared confident
    logits.

    Parameters
    ----------
    own : Tensor
        ``[M, C]``, what it would upload if it were honest.
    honest : Tensor
        ``[H, M, C]``, what the honest clients upload this round, by client; the attackers'
        own answers if no honest client takes part.
    attackers : Tensor
        ``[A, M, C]``, the honest answers of all attackers of the round, by client.
    first : Tensor
        ``[M, C]``, its honest answers in the first round in which it took part.
    ids : Tensor
        int64 ``[M]``, the public samples of the rows.
    target : Knowledge, optional
        The last fused knowledge it was sent, as probabilities; with ``public_samples`` it
        may be about other samples than ``ids``.
    seed, round, client : int
        The run's seed, the round from 1, and the attacker's id.
    """

    own: Tensor
    honest: Tensor
    attackers: Tensor
    first: Tensor
    ids: Tensor
    target: Knowledge | None
    seed: int
    round: int
    client: int

    @property
    def num_classes(self) -> int:
        """C."""
        return self.own.shape[-1]

    def rng(self, purpose: str) -> torch.Generator:
        """Return a random stream of this attacker's own for this round."""
        return torch_rng(self.seed, f"attack-{purpose}", self.round, self.client)

    def two_classes(self, source: int, target: int) -> tuple[int, int]:
        """Return the two classes of a targeted attack.

        Raises
        ------
        ConfigError
            If they are no two of the classes there are.
        """
        if source == target or not {source, target} <= set(range(self.num_classes)):
            raise ConfigError(
                f"source {source} and target {target} must be two of the "
                f"{self.num_classes} classes 0 to {self.num_classes - 1}"
            )
        return source, target


Attack = Callable[..., Tensor | None]
"""``attack(view, **options)`` returns the logits to upload, ``[M, C]``, or None for silence."""

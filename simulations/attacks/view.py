"""Attacks, and the view of an attacker."""

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
    """The knowledge of one attacker in a round: more than in a real federation.

    All answers are float32 logits with a row for each public sample in use, ``[M, C]``. Shared
    probabilities become log-probabilities, shared labels confident logits.

    Parameters
    ----------
    own : Tensor
        ``[M, C]``, the honest answers of this attacker.
    honest : Tensor
        ``[H, M, C]``, the uploads of the honest clients this round, by client; the attackers'
        honest answers if no honest client takes part.
    attackers : Tensor
        ``[A, M, C]``, the honest answers of all attackers of the round, by client.
    first : Tensor
        ``[M, C]``, the honest answers of this attacker in its first round.
    ids : Tensor
        int64 ``[M]``, the ids of the public samples.
    target : Knowledge, optional
        The last fused knowledge that the server sent it, as probabilities. With
        ``public_samples`` its ids may differ from ``ids``.
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
        """C, the number of classes."""
        return self.own.shape[-1]

    def rng(self, purpose: str) -> torch.Generator:
        """Return a random stream of this attacker for this round."""
        return torch_rng(self.seed, f"attack-{purpose}", self.round, self.client)

    def two_classes(self, source: int, target: int) -> tuple[int, int]:
        """Return the two classes of a targeted attack.

        Raises
        ------
        ConfigError
            If they are not two different classes.
        """
        if source == target or not {source, target} <= set(range(self.num_classes)):
            raise ConfigError(
                f"source {source} and target {target} must be two of the "
                f"{self.num_classes} classes 0 to {self.num_classes - 1}"
            )
        return source, target


Attack = Callable[..., Tensor | None]
"""``attack(view, **options)`` returns the logits to upload, ``[M, C]``, or None for silence."""

"""What ``compose`` refuses before a run, in one line."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fedkt.errors import ConfigError
from fedkt.fusion import Fusion
from fedkt.knowledge import Knowledge
from fedkt.strategies.answers.compose import Compose


@dataclass(frozen=True)
class Few(Fusion):
    """Fuses for all clients but the last."""

    single = "a test"

    def __call__(self, stack, round):
        rows = Knowledge.rows(stack.kind, stack.values[0], stack.ids)
        return dict.fromkeys(stack.clients[:-1], rows)


def test_a_private_loss_that_reads_public_answers() -> None:
    """Private sample ids are no rows of the public set."""
    with pytest.raises(ConfigError, match=r"compose: private distil reads public; .* nothing"):
        Compose(private="distil")


def test_a_fusion_that_forgets_a_client() -> None:
    with pytest.raises(ConfigError, match="do not go together: the fusion gives client 5 nothing"):
        Compose(fusion=Few())

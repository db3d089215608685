"""What ``compose`` refuses before a run, in one line."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fedkt.errors import ConfigError
from fedkt.fusion import Fusion
from fedkt.knowledge import Knowledge
from fedkt.objectives import Term, weighted_mean
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


@dataclass(frozen=True)
class Rich(Term):
    """Asks for all that a term on public samples may ask for."""

    needs_features = needs_labels = True

    def needs(self):
        return ("public",)

    def __call__(self, outputs, batch, knowledge):
        other = outputs.ask({}, batch.x).logits + outputs.classify(outputs.features)
        noise = batch.noise("z", outputs.logits.shape)
        losses = outputs.logits + batch.log_prior + noise + other - batch.y[:, None]
        return weighted_mean((losses - knowledge["public"].at(batch.ids)).sum(-1), batch.weight)


def test_no_objective_that_asks_for_what_training_gives() -> None:
    assert Compose(objective=Rich()).recipe().absorb[0].terms == (Rich(),)

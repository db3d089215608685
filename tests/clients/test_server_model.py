"""A learner at the server."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fedkt.clients import LearnerServerModel, TrainingOptions
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.objectives import Distil
from fedkt.objectives.heads import Head
from fedkt.recipe import Recipe, Train


@pytest.fixture
def server(learner_of, data):
    options = TrainingOptions(learning_rate=1e-2)
    return LearnerServerModel(learner_of("mlp"), data.public.x, Recipe(), 7, options)


def votes_of(data) -> dict[str, Knowledge]:
    rows = F.one_hot(data.public.y, 10).float()
    return {"votes": Knowledge.rows("probabilities", rows)}


STEP = Train("public", [Distil(source="votes")], epochs=20, batch_size=10)


def test_it_learns_from_votes(server, data) -> None:
    before = float((server.predict().argmax(-1) == data.public.y).float().mean())
    server.train(STEP, votes_of(data), 1, 2)
    after = float((server.predict().argmax(-1) == data.public.y).float().mean())
    assert after > max(0.9, before)


def test_training_is_a_stream_of_the_round(server, data) -> None:
    begin = server.state()

    def trained(round_: int) -> torch.Tensor:
        server.load_state(begin)
        server.train(STEP, votes_of(data), round_, 2)
        return server.weights().tensors["1.weight"]

    first = trained(1)
    assert torch.equal(first, trained(1))
    assert not torch.equal(first, trained(2))


def test_it_knows_no_labels(server) -> None:
    assert server._data.public.y is None
    assert len(server._data.train) == 0


def test_ids_choose_rows(server, data) -> None:
    ids = torch.tensor([4, 1])
    assert server.num_samples == len(data.public)
    assert torch.allclose(server.predict(ids), server.predict()[ids], atol=1e-6)
    assert torch.allclose(server.features(ids), server.features()[ids], atol=1e-6)


def test_it_has_the_recipe_s_heads(learner_of, data) -> None:
    recipe = Recipe(heads=[Head("domain", (2,))])
    server = LearnerServerModel(learner_of("mlp"), data.public.x, recipe)
    assert "heads.domain.0.weight" in server.weights().tensors


def test_no_samples_are_refused(learner_of, data) -> None:
    with pytest.raises(ConfigError, match="no samples to work on"):
        LearnerServerModel(learner_of("mlp"), data.public.x[:0], Recipe())

"""FedProto: equations 3, 6 and 7 in numbers, and its limit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt.objectives import Outputs
from fedkt.objectives.prototype_distance import PrototypeDistance
from fedkt.strategies.baselines.local import Local
from fedkt.strategies.prototypes.fedproto import FedProto

from .by_hand import assert_equal_runs, batch_of, uploads_of_rows

TOLD = (
    {1: ([0.0, 4.0], 1)},
    {1: ([4.0, 0.0], 3), 2: ([1.0, 1.0], 2)},
)


@pytest.mark.parametrize(("weighting", "first"), [("samples", [3.0, 1.0]), ("clients", [2.0, 2.0])])
def test_prototypes_are_means_over_the_clients_that_have_the_class(weighting, first) -> None:
    """Equation 6: (1 · [0, 4] + 3 · [4, 0]) / 4, or with equal weights."""
    fused = FedProto(weighting=weighting).fuse(uploads_of_rows("prototypes", "prototypes", *TOLD))
    prototypes = fused.shared["prototypes"]
    assert prototypes.at(torch.tensor([1, 2])).tolist() == [first, [1.0, 1.0]]
    assert prototypes.known_at(torch.tensor([0, 1, 2]))[1].tolist() == [False, True, True]
    assert fused.personal == {}


def test_the_distance_is_a_mean_and_leaves_out_absent_classes_and_padding() -> None:
    """Equation 7 with the mean squared difference."""
    uploads = uploads_of_rows("prototypes", "prototypes", *TOLD)
    fused = FedProto().fuse(uploads).shared
    z = torch.tensor([[3.0, 5.0], [9.0, 9.0], [2.0, 0.0], [7.0, 7.0]], requires_grad=True)
    loss = PrototypeDistance()(Outputs(z, z, {}), batch_of([1, 0, 2, 1], [1, 1, 1, 0]), fused)
    by_hand = (((5 - 1) ** 2) / 2 + 0 + (1 + 1) / 2) / 3
    assert float(loss.detach()) == pytest.approx(by_hand)
    (gradient,) = torch.autograd.grad(loss, z)
    expected = [[0, 4], [0, 0], [1, -1], [0, 0]]
    assert torch.allclose(gradient, torch.tensor(expected) / 3)


def test_clients_share_the_mean_features_of_their_trained_model(world, with_options) -> None:
    """Equation 3; nothing changes the model after it has shared."""
    seen = {}

    class Keeping(FedProto):
        def fuse(self, uploads):
            seen.update({upload.client: upload.knowledge["prototypes"] for upload in uploads})
            return super().fuse(uploads)

    run = world(models=("mlp",))
    run.start(with_options(Keeping()), 1)
    data = run.population.federation.client(2)
    learner = run.population.learner("mlp")
    learner.load_state(run.grid.snapshot()[2]["learner"])
    features, y = learner.features(data.train.x).double().numpy(), data.train.y.numpy()
    assert seen[2].ids.tolist() == np.unique(y).tolist()
    for row, label in enumerate(seen[2].ids.tolist()):
        assert np.allclose(seen[2].values[row], features[y == label].mean(0), atol=1e-5)


def test_without_the_distance_it_is_local_training(world, with_options) -> None:
    ours, theirs = FedProto(factor=0, readout="raw"), Local(local_epochs=1)
    assert_equal_runs(world, with_options(ours), with_options(theirs))

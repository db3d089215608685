"""LG-FedAvg: what is averaged and what stays, and its limit."""

from __future__ import annotations

import torch

from fedkt.strategies.weights.fedavg import FedAvg
from fedkt.strategies.weights.lg_fedavg import LGFedAvg

from .by_hand import assert_equal_runs, uploads_of_weights

HEAD = {"3.weight", "3.bias"}  # of the model mlp


def test_the_mean_is_by_examples() -> None:
    """Algorithm 1: (10 · 1 + 30 · 5) / 40."""
    told = uploads_of_weights("head", (10, {"w": torch.ones(2)}), (30, {"w": 5 * torch.ones(2)}))
    assert LGFedAvg().fuse(told).shared["head"].tensors["w"].tolist() == [4.0, 4.0]


def test_last_layers_become_equal_and_bodies_stay(world, with_options) -> None:
    seen = {}

    class Keeping(LGFedAvg):
        def fuse(self, uploads):
            seen.update({upload.client: upload.knowledge["head"].tensors for upload in uploads})
            return super().fuse(uploads)

    run = world(models=("mlp",))
    run.start(with_options(Keeping(local_epochs=1), model="mlp"), 2)
    first, second = run.model_of(0), run.model_of(1)
    assert {n for n in first if torch.equal(first[n], second[n])} == HEAD
    for name in HEAD:  # equally many samples
        mean = torch.stack([tensors[name] for tensors in seen.values()]).mean(0)
        assert torch.allclose(first[name], mean, atol=1e-6)
    sizes = sum(first[name].numel() for name in HEAD)
    assert [report.traffic.up for report in run.reports] == [4 * 4 * sizes] * 2


def test_without_a_body_it_is_fedavg(world, with_options) -> None:
    ours, theirs = with_options(LGFedAvg()), with_options(FedAvg())
    assert_equal_runs(world, ours, theirs, model="linear")

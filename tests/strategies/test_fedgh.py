"""FedGH: the header's step by hand, and what clients do with it."""

from __future__ import annotations

import numpy as np
import torch

from fedkt.strategies.baselines.local import Local
from fedkt.strategies.prototypes.class_pairs import labelled_prototypes
from fedkt.strategies.prototypes.fedgh import FedGH

from .by_hand import LocalSecond, assert_equal_runs, uploads_of_rows

TOLD = ({1: ([0.0, 4.0], 1)}, {1: ([4.0, 0.0], 3), 2: ([1.0, 1.0], 2)})


class Keeping(FedGH):
    """Keeps what it saw."""

    def fuse(self, uploads):
        self.before = self.model["header"].weights().tensors
        self.seen, self.fused = uploads["prototypes"], super().fuse(uploads)
        return self.fused


def test_the_pairs_are_those_that_clients_have() -> None:
    pairs = labelled_prototypes(uploads_of_rows("prototypes", "prototypes", *TOLD)["prototypes"])
    assert pairs.y.tolist() == [1, 1, 2]
    assert pairs.x.tolist() == [[0.0, 4.0], [4.0, 0.0], [1.0, 1.0]]


def test_the_header_goes_down_the_cross_entropy_of_the_prototypes(world, with_options) -> None:
    """Equations 6 and 7 in NumPy, with all pairs in one batch: W ← W - η (softmax - onehot)ᵀ x."""
    strategy = with_options(Keeping(server_batch=1000, server_rate=0.5, local_epochs=1))
    run = world(models=("mlp", "cnn"))
    run.start(strategy, 1)
    assert run.reports[0].failures == []
    pairs = labelled_prototypes(strategy.seen)
    x, y = pairs.x.double().numpy(), pairs.y.numpy()
    w, b = (strategy.before[n].double().numpy() for n in ("weight", "bias"))
    answers = np.exp(x @ w.T + b)
    off = (answers / answers.sum(1, keepdims=True) - np.eye(10)[y]) / len(y)
    fused = strategy.fused.shared["header"].tensors
    assert np.allclose(fused["weight"], w - 0.5 * off.T @ x, atol=1e-5)
    assert np.allclose(fused["bias"], b - 0.5 * off.sum(0), atol=1e-5)


def test_clients_of_any_architecture_take_the_header(world, with_options) -> None:
    strategy, run = with_options(Keeping(local_epochs=0)), world(models=("mlp", "cnn"))
    run.start(strategy, 2)
    for client in range(4):
        model = run.model_of(client)
        for name, tensor in strategy.before.items():  # of the fusion before
            same = [t for n, t in model.items() if n.endswith(name) and t.shape == tensor.shape]
            assert any(torch.equal(t, tensor) for t in same)


def test_in_the_first_round_it_is_local_training(world, with_options) -> None:
    ours, theirs = with_options(FedGH()), with_options(LocalSecond())
    assert_equal_runs(world, ours, theirs, rounds=1)
    assert isinstance(theirs, Local)

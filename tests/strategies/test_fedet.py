from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt.knowledge import Fused
from fedkt.objectives import Batch, Outputs
from fedkt.strategies.weights.fedavg import FedAvg
from fedkt.strategies.weights.fedet import ConsensusAndDiversity, FedET, ensemble
from fedkt.wire import weights_of

N, M, C = 4, 7, 3


@pytest.fixture
def logits() -> torch.Tensor:
    z = torch.randn(N, M, C, generator=torch.Generator().manual_seed(0))
    z[:, 0] = torch.tensor([2.0, 0, 1]) * torch.arange(1, N + 1)[:, None]  # all agree
    return z * torch.tensor([0.5, 1.0, 3.0, 1.0])[:, None, None]


def by_hand(z: np.ndarray) -> tuple[int, np.ndarray | None]:
    """Return the consensus of N rows of logits, and the mean of those who disagree."""
    variances = [((row - row.mean()) ** 2).mean() for row in z]
    alpha = [v / sum(variances) for v in variances]
    label = int(np.argmax(sum(a * row for a, row in zip(alpha, z, strict=True))))
    others = [(a, row) for a, row in zip(alpha, z, strict=True) if row.argmax() != label]
    if not others:
        return label, None
    return label, sum(a * row for a, row in others) / sum(a for a, _ in others)


def test_the_consensus_and_those_who_disagree(logits) -> None:
    told, seen = ensemble(logits), set()
    for m in range(M):
        label, diverse = by_hand(logits[:, m].double().numpy())
        values, there = told["diverse"].known_at(torch.tensor([m]))
        assert int(told["consensus"].values[m]) == label
        assert bool(there) == (diverse is not None)
        assert diverse is None or np.allclose(values[0], diverse, atol=1e-5)
        seen.add(diverse is None)
    assert seen == {True, False}


def test_variance_decides(logits) -> None:
    """One model that is sure outweighs two that are not."""
    rows = torch.tensor([[[0.0, 0.4, 0]], [[0.0, 0.4, 0]], [[6.0, 0, 0]]])
    assert int(ensemble(rows)["consensus"].values) == 0


def test_the_loss_is_cross_entropy_and_divergence(logits) -> None:
    z = torch.randn(M, C, generator=torch.Generator().manual_seed(1))
    told, weight = ensemble(logits), torch.tensor([1.0] * (M - 1) + [0])
    batch = Batch(torch.zeros(M, 1), None, torch.arange(M), weight)
    loss = ConsensusAndDiversity(0.3)(Outputs(z, None, {}), batch, told)

    def soft(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.exp(x).sum()

    expected = 0.0
    for m in range(M - 1):
        label, diverse = by_hand(logits[:, m].double().numpy())
        s = soft(z[m].double().numpy())
        expected -= np.log(s[label])
        if diverse is not None:
            d = soft(diverse)
            expected += 0.3 * (d * np.log(d / s)).sum()
    assert float(loss) == pytest.approx(expected / (M - 1), rel=1e-5)


def test_without_transfer_clients_are_those_of_fedavg(world, with_options) -> None:
    runs = [world(), world()]
    for run, method in zip(runs, (FedET(2, transfer_epochs=0), FedAvg(2)), strict=True):
        # Small models are built after the server's, from other random numbers.
        strategy = with_options(method)
        first = run.population.initial_arrays(3, FedAvg().recipe())
        strategy.first = lambda weights, told=first: Fused({"weights": weights_of(told)})
        run.start(strategy, 2)
    for client in range(4):
        ours, theirs = (run.model_of(client) for run in runs)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_larger_model_learns_from_small_ones_and_teaches_them(world, with_options) -> None:
    run = world(models=("linear", "mlp"), learning_rate=0.01)
    strategy = with_options(FedET(local_epochs=3), model="mlp")
    strategy.observers = [run.watch]
    strategy.start(run.grid, num_rounds=3, evaluate_fn=lambda number, arrays: None)
    losses = [report.diagnostics["server_loss"] for report in run.reports]
    assert losses[-1] < losses[0]
    assert strategy.serves == "server"
    assert len(strategy.model) == 3
    assert not any(report.failures for report in run.reports)

"""The equations of outside methods that share by class, or some rows only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedkt import registry
from fedkt.knowledge import CLASS_KINDS, Knowledge, Upload, Uploads
from fedkt.objectives import Batch
from fedkt.testing.plugin import references_in

OUTSIDE = sorted((Path(__file__).parent / "outside").glob("*.py"))
METHODS = {f.stem: references_in(f)[0] for f in OUTSIDE if references_in(f)}


def strategy(stem: str, **options: Any) -> Any:
    return registry.lookup("strategies", METHODS[stem])(**options)


def module(stem: str) -> Any:
    return registry.load_file(METHODS[stem].rpartition(":")[0])


def uploads(name: str, kind: Any, *clients: dict[int, tuple[list[float], int]]) -> Uploads:
    """Return uploads of rows and counts by id."""
    each = []
    for client, rows in enumerate(clients):
        values = torch.tensor([row for row, _ in rows.values()])
        counts = torch.tensor([n for _, n in rows.values()]) if kind in CLASS_KINDS else None
        knowledge = Knowledge(kind, {"values": values}, torch.tensor(list(rows)), counts)
        each.append(Upload(client, 1, {name: knowledge}))
    return Uploads(each)


def batch(y: list[int]) -> Batch:
    labels = torch.tensor(y)
    return Batch(torch.zeros(len(y), 1), labels, labels, torch.ones(len(y)))


def test_selective_fd_estimates_the_ratio_of_densities() -> None:
    """The estimate is the minimum of Kanamori's objective, and small outside of the data."""
    own = 0.3 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    ratio = module("selective_fd").density_ratio(own, 0.3, torch.Generator().manual_seed(1))
    inside, outside = ratio(torch.zeros(1, 2)), ratio(torch.tensor([[0.9, -0.9]]))
    assert float(inside) > 2
    assert float(outside) < 0.5
    noise = own.min(0).values + (own.max(0).values - own.min(0).values) * torch.rand(
        own.shape, generator=torch.Generator().manual_seed(1)
    )

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (-torch.cdist(x.double(), y.double()).square() / (2 * 0.3**2)).exp()

    # Where the objective is least, λ w(x) = mean of k(x, own) - mean of w(a) k(x, a) over noise a.
    x = torch.tensor([[0.1, 0.2], [-0.5, 0.4]])
    balance = kernel(x, own).mean(1) - (kernel(x, noise) * ratio(noise)).mean(1)
    assert torch.allclose(ratio(x) * 200**-0.5, balance, atol=1e-6)


def test_selective_fd_keeps_clear_answers_of_those_who_answered() -> None:
    told = uploads(
        "public", "probabilities",
        {3: ([0.9, 0.1], 1), 5: ([0.5, 0.5], 1)},
        {3: ([0.7, 0.3], 1), 8: ([0.1, 0.9], 1)},
    )  # fmt: skip
    fused = strategy("selective_fd", threshold=0.5).fuse(told).shared["public"]
    assert fused.ids.tolist() == [3, 8]
    assert torch.allclose(fused.values, torch.tensor([[0.8, 0.2], [0.1, 0.9]]))
    everything = strategy("selective_fd", threshold=2).fuse(told).shared["public"]
    assert everything.ids.tolist() == [3, 5, 8]

"""The equations of outside methods that share by class, or some rows only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedkt import registry
from fedkt.knowledge import CLASS_KINDS, Knowledge, Upload, Uploads
from fedkt.objectives import KL, Batch, Outputs
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


def test_fd_teaches_each_client_the_mean_of_the_others_with_the_class() -> None:
    told = uploads(
        "class-logits", "class-logits",
        {0: ([1.0, 0.0, 0.0], 5), 2: ([0.0, 0.0, 4.0], 1)},
        {0: ([3.0, 0.0, 0.0], 1)},
        {0: ([5.0, 2.0, 0.0], 90)},
    )  # fmt: skip
    fused = strategy("fd").fuse(told)
    values = {c: knowledge["class-logits"] for c, knowledge in fused.personal.items()}
    assert values[0].at(torch.tensor(0)).tolist() == [4.0, 1.0, 0.0], "not weighted by samples"
    assert values[1].at(torch.tensor(0)).tolist() == [3.0, 1.0, 0.0]
    assert values[1].at(torch.tensor(2)).tolist() == [0.0, 0.0, 4.0]
    assert not bool(values[0].known_at(torch.tensor(2))[1]), "nobody else has class 2"
    term, z = module("fd").ClassTeacher(), torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.0, 0.0]])
    loss = term(Outputs(z, None, {}), batch([0, 2]), {"class-logits": values[0]})
    by_hand = KL()(z[:1], torch.tensor([[4.0, 1.0, 0.0]]), "logits").sum() / 2
    assert float(loss) == pytest.approx(float(by_hand))

"""Votes against counting by hand."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from fedkt.errors import KnowledgeError
from fedkt.fusion.voting import counts, majority, tally, vote
from fedkt.knowledge import Stack

CLASSES = 5


def labels_of(models: int, samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, CLASSES, (models, samples), generator=torch.Generator().manual_seed(seed)
    )


def stack_of(values: torch.Tensor, kind: str = "labels") -> Stack:
    clients = tuple(range(len(values)))
    ids = torch.arange(values.shape[1])
    return Stack("public", kind, {"values": values}, ids, clients, torch.ones(len(values)))


def test_the_voted_label_has_the_most_votes() -> None:
    labels = labels_of(7, 200)
    voted = majority(labels, torch.arange(200), CLASSES, seed=1, round_=2)
    for column, chosen in zip(labels.T.tolist(), voted.tolist(), strict=True):
        votes = Counter(column)
        assert votes[chosen] == max(votes.values())


def test_one_model_votes_its_own_label() -> None:
    labels = labels_of(1, 50)
    assert torch.equal(majority(labels, torch.arange(50), CLASSES, 0, 1), labels[0])


def test_ties_are_reproducible_and_uniform() -> None:
    labels = torch.tensor([[0], [1], [2]]).expand(3, 3000)
    ids = torch.arange(3000)
    first = majority(labels, ids, CLASSES, 4, 1)
    assert torch.equal(first, majority(labels, ids, CLASSES, 4, 1))
    assert not torch.equal(first, majority(labels, ids, CLASSES, 4, 2))
    assert not torch.equal(first, majority(labels, ids, CLASSES, 5, 1))
    shares = torch.bincount(first, minlength=CLASSES) / 3000
    assert torch.equal(shares[3:], torch.zeros(2))
    # Three standard deviations of a share of a third over 3,000 draws are 0.026.
    assert torch.allclose(shares[:3], torch.full((3,), 1 / 3), atol=0.03)


def test_a_draw_depends_on_the_sample_and_not_on_its_company() -> None:
    labels, ids = labels_of(4, 60), torch.arange(60)
    some = torch.tensor([3, 17, 40])
    alone = majority(labels[:, some], some, CLASSES, 1, 1)
    assert torch.equal(alone, majority(labels, ids, CLASSES, 1, 1)[some])


def test_the_order_of_the_models_does_not_matter() -> None:
    labels, ids = labels_of(6, 60), torch.arange(60)
    turned = majority(labels.flip(0), ids, CLASSES, 1, 1)
    assert torch.equal(turned, majority(labels, ids, CLASSES, 1, 1))


def test_counts_and_tally() -> None:
    labels = torch.tensor([[0, 1], [0, 2]])
    assert counts(labels, 3).tolist() == [[2, 0, 0], [0, 1, 1]]
    assert tally(labels, 3) == {"agreement": 0.75, "ties": 0.5}


@pytest.mark.parametrize("kind", ["labels", "probabilities", "logits"])
def test_the_fusion_gives_one_hot_rows(kind) -> None:
    answers = torch.rand(3, 20, CLASSES).softmax(-1)
    values = answers.argmax(-1) if kind == "labels" else answers
    fused = vote(stack_of(values, kind), CLASSES, 0, 1)
    voted = majority(answers.argmax(-1), torch.arange(20), CLASSES, 0, 1)
    rows = fused.shared["public"]
    assert rows.kind == "probabilities"
    assert torch.equal(rows.values.argmax(-1), voted)
    assert torch.equal(rows.values.sum(-1), torch.ones(20))
    assert fused.diagnostics == tally(answers.argmax(-1), CLASSES)


def test_features_cannot_vote() -> None:
    with pytest.raises(KnowledgeError, match="features cannot vote"):
        vote(stack_of(torch.zeros(2, 4, 3), "features"), CLASSES, 0, 1)

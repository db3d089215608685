"""Shares of class means, class counts and features: what is sent, and how the server stacks it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkt.clients.learners.sklearn import SklearnLearner
from fedkt.clients.learners.torch import TorchLearner
from fedkt.data.samples import ClientData, Samples
from fedkt.errors import KnowledgeError
from fedkt.fusion import mean
from fedkt.knowledge import Knowledge, Upload, Uploads
from fedkt.models import build_model
from fedkt.shares import Asked, ClassCounts, ClassLogits, Features, Prototypes, Share
from fedkt.strategies.server.forms import of_other_form
from fedkt.upload_check import Expected, check

C, IDS = 4, torch.arange(4)
LABELS = torch.tensor([3, 0, 3, 0, 0])


def data(y: Tensor = LABELS, public: int = 6) -> ClientData:
    x = torch.randn(len(y), 5, generator=torch.Generator().manual_seed(1))
    train, none = Samples(x, y, torch.arange(len(y))), Samples(x[:0], y[:0], y[:0])
    common = Samples(torch.ones(public, 5), None, torch.arange(public))
    return ClientData(train, none, none, common, None, C, (5,))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, C))


LEARNER = TorchLearner(network, C, "small")


@dataclass
class Task:
    """The work of a share."""

    data: ClientData
    knowledge: dict[str, Knowledge] = field(default_factory=dict)
    losses: Tensor | None = None
    seed: int = 0
    round: int = 1
    client: int = 0


def made(share: Share, of: ClientData) -> Knowledge:
    ids = share.ids(6, 0, 1)
    knowledge = share.make(LEARNER, Task(of))
    check(knowledge, share.expected(Asked(ids, C, (5,), {})), C)
    return knowledge


@pytest.mark.parametrize("share", [ClassLogits(), ClassLogits("probabilities", 2.0), Prototypes()])
def test_a_class_mean_times_its_count_is_the_sum(share: Share) -> None:
    of = data()
    means = made(share, of)
    if isinstance(share, Prototypes):
        rows = LEARNER.features(of.train.x)
    else:
        rows = LEARNER.predict(of.train.x)
        rows = rows if share.form == "logits" else (rows / 2).softmax(-1)
    assert means.ids is not None
    assert means.counts is not None
    assert (means.ids.tolist(), means.counts.tolist()) == ([0, 3], [3, 2])
    for row, label in enumerate(means.ids.tolist()):
        total = rows[label == LABELS].sum(0)
        assert torch.allclose(means.values[row] * means.counts[row], total, atol=1e-5)


@pytest.mark.parametrize("share", [ClassLogits(), Prototypes()])
def test_a_client_without_samples_sends_no_rows(share: Share) -> None:
    nothing = made(share, data(LABELS[:0]))
    assert nothing.values.shape[0] == 0
    some = made(share, data())
    stack = Uploads([Upload(0, 0, {"s": nothing}), Upload(1, 5, {"s": some})])["s"]
    assert stack.ids is not None
    assert stack.counts is not None
    assert (stack.ids.tolist(), stack.counts.tolist()) == ([0, 3], [[0, 0], [3, 2]])


def test_class_counts_are_whole_numbers() -> None:
    counts = made(ClassCounts(), data()).tensors["counts"]
    assert (counts.tolist(), counts.dtype) == ([3, 0, 0, 2], torch.int64)
    expected = ClassCounts().expected(Asked(None, C, (5,), {}))
    for wrong, reason in (
        (torch.tensor([1, -1, 0, 0]), r"counts\[1\] is -1, not in \[0, 1e\+09\]"),
        (torch.ones(4), "counts has dtype float32, not int64"),
    ):
        with pytest.raises(KnowledgeError, match=reason):
            check(Knowledge("statistics", {"counts": wrong}), expected, C)


def test_features_of_public_samples() -> None:
    features = made(Features(samples=2), data())
    assert features.values.shape == (2, 3)
    assert features.ids is not None
    assert len(features.ids) == 2


def test_a_model_without_features_is_refused() -> None:
    forest = SklearnLearner(lambda: build_model("forest", (5,), C), C, "forest")
    for share in (Prototypes(), Features()):
        assert share.refuses(LEARNER, data()) is None
        assert share.refuses(forest, data()) == "model 'forest' has no features"


def test_what_reads_private_data() -> None:
    shares: list[Any] = [ClassLogits(), ClassCounts(), Prototypes(), Features()]
    assert [share.private for share in shares] == [True, True, True, False]


# --- partial uploads ---------------------------------------------------------------------------

EXPECTED = Expected("prototypes", IDS, {"values": (C, None)}, partial=True)


def rows(ids: list[int], width: int = 2, counts: list[int] | None = None) -> Knowledge:
    values = torch.tensor(ids, dtype=torch.float32)[:, None].expand(-1, width) + 1
    given = None if counts is None else torch.tensor(counts)
    return Knowledge("prototypes", {"values": values}, torch.tensor(ids).long(), given)


@pytest.mark.parametrize("ids", [[], [2], [3, 1], [0, 1, 2, 3]])
def test_a_client_may_send_some_rows(ids: list[int]) -> None:
    check(rows(ids), EXPECTED, C)


@pytest.mark.parametrize(
    ("knowledge", "reason"),
    [
        (rows([1, 4]), "id 4 is none of those asked for"),
        (rows([0, 1, 2, 3, 4]), r"values has shape \[5, 2\], not \[4, any\]"),
        (
            Knowledge("prototypes", {"values": torch.ones(1)}, IDS[:1]),
            r"shape \[1\], not \[4, any\]",
        ),
    ],
)
def test_rows_that_nobody_asked_for(knowledge: Knowledge, reason: str) -> None:
    with pytest.raises(KnowledgeError, match=reason):
        check(knowledge, EXPECTED, C)


def test_whole_uploads_stay_whole() -> None:
    whole = Expected("prototypes", IDS, {"values": (C, 2)})
    check(rows([0, 1, 2, 3]), whole, C)
    with pytest.raises(KnowledgeError, match=r"shape \[2, 2\], not \[4, 2\]"):
        check(rows([0, 1]), whole, C)


def test_the_stack_has_the_union_of_the_rows() -> None:
    uploads = Uploads([
        Upload(4, 1, {"p": rows([3, 1], counts=[5, 0])}),
        Upload(2, 1, {"p": rows([1])}),
        Upload(7, 1, {"p": rows([])}),
    ])  # fmt: skip
    stack = uploads["p"]
    assert (stack.clients, stack.kind) == ((2, 4, 7), "prototypes")
    assert stack.ids is not None
    assert stack.counts is not None
    assert stack.ids.tolist() == [1, 3]
    assert stack.counts.tolist() == [[1, 0], [0, 5], [0, 0]]
    assert stack.values[:, :, 0].tolist() == [[2, 0], [2, 4], [0, 0]]
    fused = mean(stack).shared["p"]
    assert fused.values[:, 0].tolist() == [2, 4], "rows are averaged over the clients with them"


def test_widths_that_nobody_can_stack() -> None:
    uploads = Uploads([Upload(0, 1, {"p": rows([1])}), Upload(1, 1, {"p": rows([2], width=3)})])
    with pytest.raises(KnowledgeError, match=r"client 1 has rows of shape \[3\], client 0"):
        uploads["p"]


def test_the_usual_width_stays() -> None:
    each = {0: rows([1]), 1: rows([2], width=3), 2: rows([2, 3]), 3: rows([], width=9)}
    odd = of_other_form([Upload(c, 1, {"p": knowledge}) for c, knowledge in each.items()])
    assert odd == {1: "'p': rows of shape [3] where the others have [2]"}


def test_rows_that_may_lack() -> None:
    knowledge = rows([3, 1], counts=[5, 0])
    values, known = knowledge.known_at(torch.tensor([[0, 1], [3, 9]]))
    assert known.tolist() == [[False, False], [True, False]]
    assert values[..., 0].tolist() == [[0, 0], [4, 0]]
    values, known = rows([]).known_at(torch.tensor([0, 5]))
    assert (values.shape, known.tolist()) == ((2, 2), [False, False])
    each = torch.func.vmap(knowledge.known_at)(torch.tensor([[3], [1]]))
    assert each[1].tolist() == [[True], [False]]

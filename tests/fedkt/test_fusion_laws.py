"""Every registered fusion and its variants keep the laws; what some of them do beyond those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedkt import registry
from fedkt.errors import KnowledgeError
from fedkt.fusion import (
    Fusion,
    FusionRound,
    KnowledgeVote,
    MeanByCounts,
    MeanByExamples,
    Median,
    PersonalisedMean,
    SampleWeightedMean,
    SemanticNeighbours,
    TrimmedMean,
    TrustedMean,
    Vote,
    mean,
)
from fedkt.knowledge import Knowledge, Stack, Upload, Uploads
from fedkt.testing import check_fusion

C, M = 4, 6
IDS = torch.tensor([2, 3, 5, 7, 8, 11])
EXAMPLES = (10, 30, 5, 60, 1, 9)
CLIENTS = (1, 2, 4, 7, 8, 9)
LABELS = torch.arange(20) % C
FUSIONS: dict[str, Fusion] = {
    **{name: registry.lookup("fusions", name)() for name in registry.names("fusions")},
    **{f"trusted-mean(choice={rule})": TrustedMean(rule) for rule in registry.names("trust-rules")},
    "trusted-mean(choice=off, weighting=entropy)": TrustedMean("off", weighting="entropy"),
    "trusted-mean(choice=root, form=probabilities)": TrustedMean("root", form="probabilities"),
    "sample-weighted-mean(weighting=variance)": SampleWeightedMean("variance"),
    "personalised-mean(own=0)": PersonalisedMean(0.0),
    "semantic-neighbours(estimator=argmax)": SemanticNeighbours(estimator="argmax"),
    "knowledge-vote(unsupported=true)": KnowledgeVote(0.5, unsupported=True),
}
# By client; None: all rows.
SOME = ([1, 0, 5, 1, 1, 1], [1, 1, 1, 0, 1, 1], [0, 7, 1, 1, 1, 1], None, [1] * 6, [1] * 5 + [0])
NOBODY_HAS_THE_SECOND = ([1, 0, 5, 1, 1, 1], [1, 0, 1, 0, 3, 1], *[[1, 0, 1, 1, 1, 1]] * 4)


def answers(seed: int, kind: Any = "probabilities", counts: Any = None) -> Knowledge:
    values = 2 * torch.randn(M, C, generator=torch.Generator().manual_seed(seed))
    values = values.softmax(-1) if kind == "probabilities" else values
    counts = None if counts is None else torch.tensor(counts)
    return Knowledge(kind, {"values": values}, IDS, counts)


def stack_of(pieces: list[Knowledge]) -> Stack:
    return Uploads([
        Upload(client, examples, {"public": knowledge})
        for client, examples, knowledge in zip(CLIENTS, EXAMPLES, pieces, strict=False)
    ])["public"]  # fmt: skip


def fuse(fusion: Fusion, stack: Stack) -> dict[int, Knowledge]:
    """Return what each client gets."""
    result = fusion(stack, FusionRound(1, C, seed=0, labels=LABELS))
    if isinstance(result, Mapping):
        assert tuple(result) == stack.clients
        return dict(result)
    return dict.fromkeys(stack.clients, result)


@pytest.mark.parametrize("fusion", FUSIONS.values(), ids=FUSIONS)
def test_a_fusion_keeps_the_laws(fusion: Fusion) -> None:
    check_fusion(fusion)


@pytest.mark.parametrize("name", [name for name in FUSIONS if "root" not in name])
def test_equal_uploads_are_what_comes_out(name: str) -> None:
    certain = Knowledge("probabilities", {"values": torch.eye(C)[LABELS[:M]]}, IDS)
    same = certain if name in ("vote", "knowledge-vote") else answers(0)
    for knowledge in fuse(FUSIONS[name], stack_of([same] * 6)).values():
        assert knowledge.kind == same.kind
        assert knowledge.ids is not None
        assert torch.equal(knowledge.ids, IDS)
        assert torch.allclose(knowledge.values, same.values, atol=1e-5)


def test_sums_without_a_weight_are_refused() -> None:
    piece = Knowledge("weights", {"a/b": torch.ones(2, 3), "scale": torch.ones(())})
    with pytest.raises(KnowledgeError, match="a client with a weight above 0"):
        MeanByExamples().from_sums(MeanByExamples().sums(piece, 0))


def test_sums_of_what_is_not_fused_are_refused() -> None:
    with pytest.raises(KnowledgeError, match="fuses logits or probabilities, not prototypes"):
        SampleWeightedMean().sums(answers(0, "prototypes"), 1)


def test_what_needs_single_uploads_says_why() -> None:
    with pytest.raises(KnowledgeError, match=r"^Median needs single uploads: \w"):
        Median().from_sums({})


# --- absent rows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", [MeanByCounts(), Median(), TrimmedMean(0.25), FUSIONS["mean"]])
def test_a_class_that_nobody_has_stays_with_a_count_of_0(fusion: Fusion) -> None:
    pieces = [answers(k, "prototypes", c) for k, c in enumerate(NOBODY_HAS_THE_SECOND)]
    fused = fuse(fusion, stack_of(pieces))[1]
    assert fused.ids is not None
    assert torch.equal(fused.ids, IDS)
    assert fused.counts is not None
    stack = stack_of(pieces)
    assert stack.counts is not None
    assert torch.equal(fused.counts, stack.counts.sum(0))
    assert int(fused.counts[1]) == 0
    assert float(fused.values[1].abs().sum()) == 0
    assert fused.without_absent() is fused


def test_means_by_counts_weigh_by_them() -> None:
    counts = torch.tensor([[1, 3, 0], [2, 1, 0]])
    values = torch.tensor([[[1.0], [2.0], [5.0]], [[4.0], [6.0], [7.0]]])
    ids = torch.arange(3)
    stack = Stack("p", "prototypes", {"values": values}, ids, (0, 1), torch.ones(2), counts)
    fused = MeanByCounts()(stack, FusionRound())
    assert torch.allclose(fused.values[:, 0], torch.tensor([3.0, 3.0, 0.0]))
    assert torch.equal(
        MeanByCounts()(replace(stack, counts=None), FusionRound()).values,
        mean(replace(stack, counts=None)).shared["p"].values,
    )


# --- the robust ones -----------------------------------------------------------------------------


@pytest.mark.parametrize("clients", [1, 2, 5, 6])
def test_the_median_is_the_median(clients: int) -> None:
    stack = stack_of([answers(k, "logits") for k in range(clients)])
    fused = fuse(Median(), stack)[1]
    assert torch.allclose(fused.values, stack.values.quantile(0.5, dim=0), atol=1e-6)


def test_rows_have_the_median_of_those_that_have_them() -> None:
    pieces = [answers(k, "logits", c) for k, c in enumerate(SOME)]
    stack = stack_of(pieces)
    assert stack.present is not None
    fused = fuse(Median(), stack)[1]
    for m in range(M):
        by_hand = stack.values[stack.present[:, m], m].quantile(0.5, dim=0)
        assert torch.allclose(fused.values[m], by_hand, atol=1e-6)


@pytest.mark.parametrize(("trim", "cut"), [(0.0, 0), (0.1, 0), (0.2, 1), (0.34, 2), (0.49, 2)])
def test_a_trimmed_mean_leaves_out_the_ends(trim: float, cut: int) -> None:
    stack = stack_of([answers(k, "logits") for k in range(6)])
    by_hand = stack.values.sort(dim=0).values[cut : 6 - cut].mean(0)
    assert torch.allclose(fuse(TrimmedMean(trim), stack)[1].values, by_hand, atol=1e-6)


def test_robust_means_of_weights() -> None:
    pieces = [Knowledge("weights", {"a": torch.full((2, 3), x)}) for x in (1.0, 2.0, 99.0)]
    fused = fuse(Median(), stack_of(pieces))[1]
    assert torch.equal(fused.tensors["a"], torch.full((2, 3), 2.0))
    assert fused.ids is None


def test_certain_answers_that_all_differ_have_their_mean_as_the_median() -> None:
    pieces = [Knowledge.rows("probabilities", torch.eye(C)[[k]]) for k in range(3)]
    fused = fuse(Median(), stack_of(pieces))[1]
    assert torch.allclose(fused.values, torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0]]))


def test_labels_vote_over_those_that_have_the_sample() -> None:
    labels = torch.tensor([[0, 1, 2], [0, 3, 2], [1, 3, 2]])
    counts = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 0]])
    ids = torch.tensor([4, 5, 6])
    stack = Stack("public", "labels", {"values": labels}, ids, (0, 1, 2), torch.ones(3), counts)
    round_ = FusionRound(1, C)
    fused = Vote()(stack, round_)
    assert fused.ids is not None
    assert fused.ids.tolist() == [4, 5]
    top = fused.values.argmax(-1).tolist()
    assert top[0] in (0, 1)
    assert top[1] in (1, 3)
    assert round_.diagnostics == {"agreement": 0.5, "ties": 1.0}


def test_counts_of_the_consensus_are_the_supporters() -> None:
    sure, unsure = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.6, 0.4]])
    pieces = [Knowledge.rows("probabilities", v) for v in (sure, sure, unsure)]
    fused = KnowledgeVote(0.8)(stack_of(pieces), FusionRound(1, 2))
    assert fused.counts is not None
    assert fused.counts.tolist() == [2]
    assert torch.allclose(fused.values, sure)
    fused = KnowledgeVote(0.95)(stack_of(pieces), FusionRound(1, 2))
    assert fused.counts is not None
    assert fused.counts.tolist() == [0]
    assert len(fused.without_absent().values) == 0

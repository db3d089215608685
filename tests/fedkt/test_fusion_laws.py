"""The laws of every registered fusion, and what each one does with absent rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

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
    TrimmedMean,
    TrustedMean,
    Vote,
    mean,
)
from fedkt.knowledge import Fused, Knowledge, Stack, Upload, Uploads

C, M = 4, 6
IDS = torch.tensor([2, 3, 5, 7, 8, 11])
EXAMPLES = (10, 30, 5, 60, 1, 9)
CLIENTS = (1, 2, 4, 7, 8, 9)
LABELS = torch.arange(20) % C
FUSIONS: dict[str, Fusion] = {
    **{name: registry.lookup("fusions", name)() for name in registry.names("fusions")},
    "trusted-mean(choice=off)": TrustedMean("off", weighting="entropy", form="probabilities"),
    "trusted-mean(choice=per-class)": TrustedMean("per-class"),
    "trusted-mean(choice=root)": TrustedMean("root", form="probabilities"),
    "personalised-mean(own=0)": PersonalisedMean(0.0),
    "knowledge-vote(unsupported=true)": KnowledgeVote(0.5, unsupported=True),
}
SUMMED = [name for name, fusion in FUSIONS.items() if not fusion.single]
PARTIAL = [name for name, fusion in FUSIONS.items() if fusion.partial]
# In the last case nobody has the second row.
SOME = (
    ([1, 0, 5, 1, 1, 1], [1, 1, 1, 0, 1, 1], [0, 7, 1, 1, 1, 1], None, [1] * 6, [1, 1, 1, 1, 2, 0]),
    ([1, 0, 5, 1, 1, 1], [1, 0, 1, 0, 3, 1], [0, 0, 1, 1, 1, 1], *[[1, 0, 1, 1, 1, 1]] * 3),
)


def answers(seed: int, kind: Any = "probabilities", counts: Any = None) -> Knowledge:
    values = 2 * torch.randn(M, C, generator=torch.Generator().manual_seed(seed))
    values = values.softmax(-1) if kind == "probabilities" else values
    counts = None if counts is None else torch.tensor(counts)
    return Knowledge(kind, {"values": values}, IDS, counts)


def uploads_of(pieces: list[Knowledge]) -> Uploads:
    return Uploads([
        Upload(client, examples, {"public": knowledge})
        for client, examples, knowledge in zip(CLIENTS, EXAMPLES, pieces, strict=False)
    ])  # fmt: skip


def stack_of(pieces: list[Knowledge]) -> Stack:
    return uploads_of(pieces)["public"]


def fuse(fusion: Fusion, stack: Stack) -> dict[int, Knowledge]:
    """Return what each client gets."""
    result = fusion(stack, FusionRound(1, C, seed=0, labels=LABELS))
    if isinstance(result, Mapping):
        assert tuple(result) == stack.clients
        return dict(result)
    return dict.fromkeys(stack.clients, result)


def close(a: Knowledge, b: Knowledge) -> None:
    assert a.kind == b.kind
    assert a.ids is not None
    assert torch.equal(a.ids, b.ids)
    assert torch.allclose(a.values, b.values, atol=1e-5)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize("name", list(FUSIONS))
def test_the_order_of_the_clients_does_not_matter(name: str, kind: str) -> None:
    stack = stack_of([answers(k, kind) for k in range(6)])
    order = [3, 0, 5, 1, 4, 2]
    turned = replace(
        stack,
        tensors={"values": stack.values[order]},
        clients=tuple(stack.clients[k] for k in order),
        num_examples=stack.num_examples[order],
    )
    before, after = fuse(FUSIONS[name], stack), fuse(FUSIONS[name], turned)
    for client in CLIENTS:
        close(before[client], after[client])


@pytest.mark.parametrize("name", [name for name in FUSIONS if "root" not in name])
def test_equal_uploads_are_what_comes_out(name: str) -> None:
    certain = Knowledge("probabilities", {"values": torch.eye(C)[LABELS[:M]]}, IDS)
    same = certain if name in ("vote", "knowledge-vote") else answers(0)
    for knowledge in fuse(FUSIONS[name], stack_of([same] * 6)).values():
        close(knowledge, same)


@pytest.mark.parametrize("name", list(FUSIONS))
def test_probabilities_stay_probabilities(name: str) -> None:
    stack = stack_of([answers(k) for k in range(6)])
    for knowledge in fuse(FUSIONS[name], stack).values():
        assert knowledge.kind == "probabilities"
        assert torch.allclose(knowledge.values.sum(-1), torch.ones(len(knowledge.values)))


@pytest.mark.parametrize("counts", [(None,) * 6, *SOME])
@pytest.mark.parametrize("kind", ["logits", "probabilities", "prototypes"])
@pytest.mark.parametrize("name", SUMMED)
def test_the_fusion_is_that_of_the_sums(name: str, kind: str, counts: Any) -> None:
    fusion, pieces = FUSIONS[name], [answers(k, kind, c) for k, c in enumerate(counts)]
    whole = [c if c is not None else [1] * M for c in counts]
    if any(c is not None for c in counts):
        pieces = [replace(p, counts=torch.tensor(c)) for p, c in zip(pieces, whole, strict=True)]
    if kind == "prototypes" and isinstance(fusion, SampleWeightedMean):
        with pytest.raises(KnowledgeError, match="fuses logits or probabilities, not prototypes"):
            fusion.sums(pieces[0], 1)
        return
    summed: dict[str, Tensor] = {}
    for upload in uploads_of(pieces):
        each = fusion.sums(upload.knowledge["public"], upload.num_examples)
        assert each is not None
        summed = {name: summed.get(name, 0) + tensor for name, tensor in each.items()}
    of_sums, direct = fusion.from_sums(summed), fuse(fusion, stack_of(pieces))[1]
    assert of_sums.ids is not None
    close(replace(of_sums, ids=IDS[of_sums.ids]), direct)
    if kind == "prototypes" and direct.counts is not None:
        assert of_sums.counts is not None
        assert torch.equal(of_sums.counts, direct.counts)


def test_sums_of_weights_keep_every_shape() -> None:
    pieces = [
        Knowledge("weights", {"a/b": torch.randn(2, 3), "scale": torch.randn(())}) for _ in range(3)
    ]
    for fusion in (FUSIONS["mean"], FUSIONS["mean-by-examples"]):
        summed: dict[str, Tensor] = {}
        for upload in uploads_of(pieces):
            each = fusion.sums(upload.knowledge["public"], upload.num_examples) or {}
            summed = {name: summed.get(name, 0) + tensor for name, tensor in each.items()}
        of_sums, direct = fusion.from_sums(summed), fuse(fusion, stack_of(pieces))[1]
        for name, tensor in direct.tensors.items():
            assert torch.allclose(of_sums.tensors[name], tensor, atol=1e-5)
    nothing = {name: 0 * tensor for name, tensor in summed.items()}
    with pytest.raises(KnowledgeError, match="a client with a weight above 0"):
        MeanByExamples().from_sums(nothing)


@pytest.mark.parametrize("name", [name for name in FUSIONS if name not in SUMMED])
def test_what_needs_single_uploads_says_why(name: str) -> None:
    assert FUSIONS[name].sums(answers(0), 1) is None
    with pytest.raises(KnowledgeError, match="needs single uploads: "):
        FUSIONS[name].from_sums({})


# --- absent rows ---------------------------------------------------------------------------------


def spoilt(knowledge: Knowledge, noise: Knowledge) -> Knowledge:
    """Return the knowledge with other numbers in its absent rows."""
    assert knowledge.counts is not None
    has = knowledge.counts[:, None] > 0
    return knowledge.with_tensors({"values": torch.where(has, knowledge.values, 9 * noise.values)})


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize("counts", SOME)
@pytest.mark.parametrize("name", PARTIAL)
def test_absent_rows_have_no_influence(name: str, counts: Any, kind: str) -> None:
    pieces = [answers(k, kind, c) for k, c in enumerate(counts)]
    noise = [answers(50 + k, kind) for k in range(6)]
    other = [p if p.counts is None else spoilt(p, n) for p, n in zip(pieces, noise, strict=True)]
    one, two = (fuse(FUSIONS[name], stack_of(p)) for p in (pieces, other))
    nobody = counts is SOME[1]
    for client in CLIENTS:
        shared = Fused(shared={"public": one[client]}).without_absent().shared["public"]
        close(shared, two[client].without_absent())
        assert shared.ids is not None
        assert not (nobody and 3 in shared.ids), "nobody has it"


@pytest.mark.parametrize("name", [name for name in FUSIONS if name not in PARTIAL])
def test_what_needs_all_rows_refuses_them_in_a_line(name: str) -> None:
    pieces = [answers(k, counts=c) for k, c in enumerate(SOME[0])]
    with pytest.raises(KnowledgeError, match="needs all rows of every client, and client 1 lacks"):
        fuse(FUSIONS[name], stack_of(pieces))


@pytest.mark.parametrize("fusion", [MeanByCounts(), Median(), TrimmedMean(0.25), FUSIONS["mean"]])
def test_a_class_that_nobody_has_stays_with_a_count_of_0(fusion: Fusion) -> None:
    pieces = [answers(k, "prototypes", c) for k, c in enumerate(SOME[1])]
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
    pieces = [answers(k, "logits", c) for k, c in enumerate(SOME[0])]
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

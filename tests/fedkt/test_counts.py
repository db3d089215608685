"""Counts of rows: checked where they arrive, carried to the fusions, a mask where they are 0."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from fedkt.errors import KnowledgeError
from fedkt.evaluation.leakage import mean_prediction
from fedkt.fusion import (
    FusionRound,
    average,
    mean,
    mean_by_examples,
    personalised_mean,
    sample_weighted_mean,
    trust_rule,
    trusted_mean,
)
from fedkt.fusion.trust_rules import NoTrust
from fedkt.knowledge import Knowledge, Stack, Upload, Uploads
from fedkt.upload_check import LARGEST_COUNT, Expected, check

IDS = torch.tensor([2, 3, 5, 7])
ALL = [1, 4, 2, 10**9]


def told(counts: Any, kind: Any = "logits", seed: int = 0) -> Knowledge:
    values = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
    if kind == "probabilities":
        values = values.softmax(-1)
    counts = None if counts is None else torch.as_tensor(counts)
    return Knowledge(kind, {"values": values}, IDS, counts)


def stacked(*counts: Any, kind: Any = "logits") -> Stack:
    uploads = [
        Upload(k, 10 * (k + 1), {"public": told(one, kind, k)}) for k, one in enumerate(counts)
    ]
    stack: Stack = Uploads(uploads)["public"]
    return stack


# --- on arrival --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ([-5, 0, 10**9], r"counts of shape \[3\] for 4 rows"),
        ([1] * 5, r"counts of shape \[5\] for 4 rows"),
        ([], r"counts of shape \[0\] for 4 rows"),
        ([[1, 1, 1, 1]], r"counts of shape \[1, 4\] for 4 rows"),
        (torch.tensor(3), r"counts of shape \[\] for 4 rows"),
        (torch.ones(4), "counts have dtype float32, not int64"),
        (torch.full((4,), torch.nan), "counts have dtype float32, not int64"),
        (torch.ones(4, dtype=torch.bool), "counts have dtype bool, not int64"),
    ],
)
def test_counts_that_do_not_fit_are_no_knowledge(counts: Any, reason: str) -> None:
    with pytest.raises(KnowledgeError, match=reason):
        told(counts)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ([-5, 0, 1, 1], rf"counts lie in \[-5, 1\], not in \[0, {LARGEST_COUNT}\]"),
        ([1, 1, 1, LARGEST_COUNT + 1], "counts lie in"),
        ([0, 0, 0, torch.iinfo(torch.int64).min], "counts lie in"),
    ],
)
def test_counts_out_of_range_are_refused(counts: Any, reason: str, kind: Any) -> None:
    with pytest.raises(KnowledgeError, match=reason):
        check(told(counts, kind), Expected(kind, IDS, {"values": (4, 3)}), 3)


@pytest.mark.parametrize("counts", [ALL, [0, 1, 1, 0], [0, 0, 0, 0], None])
def test_good_counts_pass(counts: Any) -> None:
    check(told(counts), Expected("logits", IDS, {"values": (4, 3)}, partial=True), 3)


@pytest.mark.parametrize("kind", ["weights", "statistics"])
def test_what_has_no_rows_has_no_counts(kind: Any) -> None:
    with pytest.raises(KnowledgeError, match=f"{kind} have no rows and take no counts"):
        Knowledge(kind, {"a": torch.ones(2)}, counts=torch.ones(2, dtype=torch.int64))


def test_only_rows_that_are_there_must_be_probabilities() -> None:
    values = told(None, "probabilities").values.clone()
    values[1] = 0
    expected = Expected("probabilities", IDS, {"values": (4, 3)}, partial=True)
    whole = Knowledge("probabilities", {"values": values}, IDS, torch.tensor([1, 1, 1, 1]))
    with pytest.raises(KnowledgeError, match="rows are not probabilities"):
        check(whole, expected, 3)
    check(
        Knowledge("probabilities", {"values": values}, IDS, torch.tensor([1, 0, 1, 1])), expected, 3
    )
    values[1] = torch.nan  # and finite they must be: zero times NaN is NaN
    with pytest.raises(KnowledgeError, match="NaN"):
        check(
            Knowledge("probabilities", {"values": values}, IDS, torch.tensor([1, 0, 1, 1])),
            expected,
            3,
        )


# --- in the stack --------------------------------------------------------------------------------


def test_the_stack_carries_counts() -> None:
    stack = stacked(ALL, None, [0, 2, 0, 1])
    assert stack.counts is not None
    assert stack.counts.tolist() == [ALL, [1, 1, 1, 1], [0, 2, 0, 1]]
    assert stack.present is not None
    assert stack.present[2].tolist() == [False, True, False, True]
    assert stacked(None, None).counts is None
    assert stacked(ALL, ALL).present is None, "nothing is missing"


# --- in fusions ----------------------------------------------------------------------------------

WEIGHTS = torch.tensor([0.2, 0.5, 0.3])
ROWS = torch.tensor([[1.0, 2.0, 0.5, 1.0], [0.0, 1.0, 1.0, 3.0], [4.0, 1.0, 0.0, 1.0]])
NEIGHBOURS = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]])
AVERAGES: dict[str, tuple[Callable[[Stack], Any], Tensor]] = {
    "mean": (mean, torch.full((3, 4), 1 / 3)),
    "mean_by_examples": (mean_by_examples, torch.tensor([[1.0], [2.0], [3.0]]).expand(3, 4)),
    "average": (partial(average, weights=WEIGHTS), WEIGHTS[:, None].expand(3, 4)),
    "sample_weighted_mean": (partial(sample_weighted_mean, weights=ROWS), ROWS),
    "trusted_mean": (
        lambda stack: trusted_mean(stack, NoTrust(), FusionRound(), weigh=lambda z: ROWS),
        ROWS,
    ),
}


def by_hand(values: Tensor, weights: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Average row by row over the clients that have it; return the rows and where they are."""
    rows, places = [], []
    for m in range(values.shape[1]):
        clients = [n for n in range(len(values)) if counts[n, m] > 0]
        if not clients:
            continue
        given = [float(weights[n, m]) for n in clients]
        given = given if sum(given) else [1.0] * len(clients)
        parts = [w * values[n, m] for n, w in zip(clients, given, strict=True)]
        rows.append(torch.stack(parts).sum(0) / sum(given))
        places.append(m)
    return torch.stack(rows), torch.tensor(places)


@pytest.mark.parametrize("name", list(AVERAGES))
@pytest.mark.parametrize(
    "counts",
    [
        ([1, 0, 5, 1], [1, 1, 1, 0], [0, 7, 1, 1]),
        ([1, 0, 1, 0], [1, 0, 1, 1], [1, 0, 1, 1]),  # nobody has the second row
        ([0, 0, 0, 0], None, [3, 3, 3, 3]),
        ([1, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_averages_go_over_the_clients_that_have_the_row(name: str, counts: Any, kind: Any) -> None:
    fuse, weights = AVERAGES[name]
    stack = stacked(*counts, kind=kind)
    (fused,) = fuse(stack).shared.values()
    assert stack.counts is not None
    expected, places = by_hand(stack.values, weights, stack.counts)
    assert fused.kind == kind
    assert torch.equal(fused.ids, IDS[places])
    assert torch.allclose(fused.values, expected, atol=1e-6)


@pytest.mark.parametrize(
    "counts",
    [
        ([1, 0, 5, 1], [1, 1, 1, 0], [0, 7, 1, 1]),
        ([1, 0, 1, 0], [1, 0, 1, 1], [1, 0, 1, 1]),
    ],
)
def test_so_do_personalised_ones(counts: Any) -> None:
    stack = stacked(*counts)
    fused = personalised_mean(stack, NEIGHBOURS).personal
    assert stack.counts is not None
    for n in stack.clients:
        weights = NEIGHBOURS[n][:, None].expand(3, 4)
        expected, places = by_hand(stack.values, weights, stack.counts)
        assert torch.equal(fused[n]["public"].ids, IDS[places])
        assert torch.allclose(fused[n]["public"].values, expected, atol=1e-6)


@pytest.mark.parametrize("name", [*AVERAGES, "personalised_mean"])
@pytest.mark.parametrize("counts", [ALL, [1, 1, 1, 1]])
def test_counts_of_whole_uploads_change_nothing(name: str, counts: Any) -> None:
    personal = name == "personalised_mean"
    fuse = partial(personalised_mean, weights=NEIGHBOURS) if personal else AVERAGES[name][0]
    plain, counted = fuse(stacked(None, None, None)), fuse(stacked(counts, None, counts))
    for client in range(3):
        a, b = (one.for_client(client)["public"] for one in (plain, counted))
        assert torch.equal(a.values, b.values), "bit for bit"
        assert a.ids is b.ids or torch.equal(a.ids, b.ids)


@pytest.mark.parametrize("choice", ["correlation", "per-class", "median", "root"])
def test_what_needs_all_rows_says_so(choice: Any) -> None:
    stack = stacked(None, [1, 0, 1, 1], None, kind="probabilities")
    said = "needs all rows of every client, and client 1 lacks some"
    with pytest.raises(KnowledgeError, match=f"trust '{choice}' {said}"):
        trusted_mean(stack, trust_rule(choice), FusionRound())


def test_what_an_upload_gives_away_is_of_its_rows() -> None:
    one = told([1, 0, 0, 2], "probabilities")
    expected = one.values[[0, 3]].mean(0)
    assert torch.allclose(mean_prediction(one, 3), expected)

"""Averaging with trust: what is averaged, what the labelled root adds, what is remembered."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fedkt.answers import logits_of
from fedkt.errors import ConfigError, KnowledgeError
from fedkt.fusion import FusionRound, TrustedMean, mean, trust, trust_rule, trusted_mean
from fedkt.fusion.trust_rules import Correlation, Root
from fedkt.fusion.weighting import sample_weights
from fedkt.knowledge import Stack

M, C = 60, 6
CHOICES = ["off", "correlation", "per-class", "median", "root"]


def logits(clients: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return 4 * torch.eye(C)[truth()] + torch.randn(clients, M, C, generator=rng)


def truth() -> torch.Tensor:
    return torch.arange(M) % C


def stack_of(values: torch.Tensor, kind: Any = "logits", ids: torch.Tensor | None = None) -> Stack:
    n = len(values)
    ids = torch.arange(values.shape[1]) if ids is None else ids
    return Stack("public", kind, {"values": values}, ids, tuple(range(n)), torch.ones(n))


def fuse(stack: Stack, choice: Any, **more: Any) -> Any:
    root = more.pop("root", 50)
    return trusted_mean(stack, trust_rule(choice, root=root), FusionRound(labels=truth()), **more)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_off_is_the_plain_mean_bit_for_bit(kind: Any) -> None:
    z = logits(6)
    stack = stack_of(z if kind == "logits" else z.softmax(-1), kind)
    fused = fuse(stack, "off").shared["public"]
    assert fused.kind == kind
    assert torch.equal(fused.values, mean(stack).shared["public"].values)


@pytest.mark.parametrize("choice", CHOICES)
def test_probabilities_are_judged_as_the_logits_they_come_from(choice: Any) -> None:
    z = logits(7)
    z[0] = -3 * z[0]
    of_logits = fuse(stack_of(z), choice, kind="probabilities")
    of_answers = fuse(stack_of(z.softmax(-1), "probabilities"), choice)
    for name in ("trust", "mean_weight"):
        one, other = of_logits.diagnostics[name], of_answers.diagnostics[name]
        assert torch.allclose(one, other, atol=1e-4), name
    one, other = (f.shared["public"].values for f in (of_logits, of_answers))
    assert torch.allclose(one, other, atol=1e-4)
    assert torch.allclose(one.sum(-1), torch.ones(M), atol=1e-5)


def test_log_probabilities_of_impossible_answers_are_finite() -> None:
    certain = torch.eye(C)[None]
    assert bool(torch.isfinite(logits_of(certain, "probabilities")).all())
    with pytest.raises(KnowledgeError, match="labels"):
        logits_of(torch.zeros(5, M), "labels")


def test_of_logits_softened_logits_are_averaged_with_the_trust_as_weight() -> None:
    z = logits(8)
    z[2] = -2 * z[2]
    z[5, :, 0] += 1.5
    r = trust.correlation_trust(trust.correlations(z))
    assert float(r[2]) == 0
    a = r.clamp_min(1e-3)[:, None, None]
    by_hand = (a * trust.soften(z)).sum(0) / a.sum()
    fused = fuse(stack_of(z), "correlation")
    assert fused.shared["public"].kind == "logits"
    assert torch.allclose(fused.shared["public"].values, by_hand, atol=1e-5)
    assert torch.equal(fused.diagnostics["trust"], r)
    assert fused.diagnostics["clients"] == list(range(8))
    assert torch.allclose(fused.diagnostics["mean_weight"], (a / a.sum())[:, 0, 0], atol=1e-6)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_reports_each_client(choice: Any) -> None:
    told = fuse(stack_of(logits(6)), choice, kind="probabilities").diagnostics
    assert told["clients"] == list(range(6))
    assert told["trust"].shape == told["mean_weight"].shape == (6,)
    assert float(told["mean_weight"].sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_the_median_ignores_a_minority(kind: Any) -> None:
    z = logits(7)
    z[:3] = 100.0 * torch.eye(C)[(truth() + 1) % C]
    fused = fuse(stack_of(z), "median", kind=kind).shared["public"]
    assert fused.kind == kind
    assert float((fused.values.argmax(-1) == truth()).float().mean()) > 0.9


def test_few_clients_are_all_trusted_and_nothing_is_remembered() -> None:
    memory: dict[str, Any] = {}
    z = logits(4)
    z[0] = -z[0]
    assert torch.equal(Correlation()(stack_of(z), FusionRound(memory=memory)), torch.ones(4))
    assert memory == {}


def test_the_past_counts_as_it_is_told_to() -> None:
    memory: dict[str, Any] = {}
    first, second = logits(6), logits(6, seed=1)
    second[0] = -second[0]
    for z in (first, second):
        Correlation(0.25)(stack_of(z), FusionRound(memory=memory))
    expected = 0.25 * trust.correlations(first) + 0.75 * trust.correlations(second)
    assert memory["agreement"]["0/1"] == pytest.approx(float(expected[0, 1]), abs=1e-6)


# --- the labelled root -----------------------------------------------------------------------


def test_root_target_by_hand() -> None:
    z, gamma = logits(6), 2.0
    z[4] = 0.3 * z[4]
    z[1] = z[1].roll(1, -1)
    fused = fuse(
        stack_of(z),
        "root",
        kind="probabilities",
        root=20,
        weigh=lambda v: sample_weights(v, "entropy", gamma),
    )
    soft = trust.soften(z).double()
    p = soft.softmax(-1)
    r = trust.correlation_trust(trust.correlations(z)).double().clamp_min(1e-3)
    w = torch.exp(gamma * torch.xlogy(p, p).sum(-1))
    expected = torch.zeros(M, C, dtype=torch.float64)
    for n in range(6):
        for c in range(C):
            hits = sum(float(p[n, x, c]) for x in range(20) if int(truth()[x]) == c)
            said = float(p[n, :20, c].sum())
            precision = ((hits + 1 / C) / (said + 1)) ** 3
            expected[:, c] += r[n] * w[n] * precision * p[n, :, c]
    expected = expected / expected.sum(-1, keepdim=True)
    assert torch.allclose(fused.shared["public"].values.double(), expected, atol=1e-5)
    assert fused.diagnostics["root_rows"] == 20


def test_the_root_stops_a_majority_that_calls_one_class_another() -> None:
    z = logits(9)
    threes = truth() == 3
    liars = [0, 1, 2, 3, 4]
    for n in liars:
        z[n, threes] = z[n, threes].roll(1, -1)
    answers = {
        choice: fuse(stack_of(z), choice, kind="probabilities").shared["public"].values
        for choice in ("correlation", "root")
    }
    wrong = {choice: float(p[threes, 4].mean()) for choice, p in answers.items()}
    assert wrong["root"] < 0.6 * wrong["correlation"]


def test_root_rows_are_those_in_use_with_a_low_id_and_a_label() -> None:
    ids = torch.tensor([1, 4, 7, 30, 55])
    z = logits(6)[:, ids]
    labels = truth().clone()
    labels[4] = -1
    stack = stack_of(z, ids=ids)
    fused = trusted_mean(stack, Root(root=30), FusionRound(labels=labels), "probabilities")
    assert fused.diagnostics["root_rows"] == 2, "ids 1 and 7"
    elsewhere = torch.full((M,), -1)
    elsewhere[[1, 7]] = truth()[[1, 7]]
    again = trusted_mean(stack, Root(root=M), FusionRound(labels=elsewhere), "probabilities")
    assert torch.equal(fused.shared["public"].values, again.shared["public"].values)


def test_without_a_root_row_in_use_it_is_correlation() -> None:
    z, late = logits(6), torch.arange(M) + 100
    labels = torch.cat([truth(), torch.full((100,), -1)])
    round_ = FusionRound(labels=labels)
    fused = trusted_mean(stack_of(z, ids=late), Root(), round_, "probabilities")
    plain = fuse(stack_of(z, ids=late), "correlation", kind="probabilities")
    assert fused.diagnostics["root_rows"] == 0
    assert torch.allclose(fused.shared["public"].values, plain.shared["public"].values, atol=1e-6)


@pytest.mark.parametrize("labels", [None, torch.full((M,), -1)], ids=["none", "unknown"])
def test_a_root_needs_labels(labels: Any) -> None:
    with pytest.raises(ConfigError, match=r"root.*labels of public samples.*below 50"):
        trusted_mean(stack_of(logits(6)), Root(), FusionRound(labels=labels), "probabilities")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"choice": "blind"}, "trust rule 'blind'.*root"),
        ({"history": 1.0}, "history"),
        ({"root": 0}, "root must be .* at least 1"),
        ({"choice": "correlation(root=3)"}, "root"),
    ],
)
def test_bad_rules(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        TrustedMean(**wrong)

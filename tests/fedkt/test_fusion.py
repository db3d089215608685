from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt import registry
from fedkt.errors import KnowledgeError
from fedkt.fusion import (
    MeanByExamples,
    PersonalisedMean,
    averaging,
    mean,
    mean_by_examples,
    personalised_mean,
)
from fedkt.knowledge import Knowledge, Stack, Upload, Uploads

EXAMPLES = (10, 30, 0, 60)
CLIENTS = (2, 3, 7, 9)


def answers(
    n: int, kind: str = "probabilities", shape: tuple[int, ...] = (5, 3)
) -> list[Knowledge]:
    generator = torch.Generator().manual_seed(n)
    logits = [torch.randn(*shape, generator=generator) for _ in range(n)]
    rows = [z.softmax(-1) if kind == "probabilities" else z for z in logits]
    return [Knowledge.rows(kind, r, range(4, 4 + shape[0])) for r in rows]


def stack_of(knowledge: list[Knowledge], examples: tuple[int, ...] = EXAMPLES) -> Stack:
    each = zip(CLIENTS, examples, knowledge, strict=False)
    return Uploads([Upload(c, n, {"public": k}) for c, n, k in each])["public"]


def as_numpy(knowledge: list[Knowledge]) -> np.ndarray:
    return np.stack([k.values.numpy() for k in knowledge]).astype(np.float64)


@pytest.mark.parametrize("kind", ["logits", "probabilities", "features"])
def test_mean(kind: str) -> None:
    knowledge = answers(4, kind)
    fused = mean(stack_of(knowledge))
    one = fused.shared["public"]
    assert one.kind == kind
    assert one.ids.tolist() == [4, 5, 6, 7, 8]
    assert np.allclose(one.values, as_numpy(knowledge).mean(0), atol=1e-7)
    assert fused.personal == {}


def test_weighted_mean() -> None:
    knowledge = answers(4)
    by_hand = np.average(as_numpy(knowledge), axis=0, weights=EXAMPLES)
    assert np.allclose(
        mean_by_examples(stack_of(knowledge)).shared["public"].values, by_hand, atol=1e-7
    )


def test_weighted_mean_of_no_examples_is_the_mean() -> None:
    stack = stack_of(answers(3), (0, 0, 0))
    left, right = mean_by_examples(stack).shared["public"], mean(stack).shared["public"]
    assert torch.equal(left.values, right.values)


def test_means_of_weights_keep_every_shape() -> None:
    models = [
        Knowledge(
            "weights",
            {"conv": torch.randn(2, 3, 4, 4), "bias": torch.randn(5), "scale": torch.randn(())},
        )
        for _ in range(3)
    ]
    fused = mean_by_examples(stack_of(models)).shared["public"]
    for name in ("conv", "bias", "scale"):
        values = np.stack([m.tensors[name].numpy() for m in models]).astype(np.float64)
        by_hand = np.average(values, axis=0, weights=EXAMPLES[:3])
        assert fused.tensors[name].shape == models[0].tensors[name].shape
        assert np.allclose(fused.tensors[name], by_hand, atol=1e-6)
    assert fused.kind == "weights"


def test_the_mean_of_probabilities_is_not_that_of_logits() -> None:
    logits = answers(4, "logits")
    probabilities = [k.with_tensors({"values": k.values.softmax(-1)}) for k in logits]
    probabilities = [Knowledge.rows("probabilities", k.values, k.ids) for k in probabilities]
    of_logits = mean(stack_of(logits)).shared["public"].values.softmax(-1)
    of_probabilities = mean(stack_of(probabilities)).shared["public"].values
    assert float((of_logits - of_probabilities).abs().max()) > 0.01
    assert torch.allclose(of_probabilities.sum(-1), torch.ones(5))


def test_personalised_mean_equals_the_double_loop() -> None:
    knowledge = answers(4)
    weights = torch.rand(4, 4, generator=torch.Generator().manual_seed(1))
    weights = weights / weights.sum(1, keepdim=True)
    fused = personalised_mean(stack_of(knowledge), weights)
    assert fused.shared == {}
    assert set(fused.personal) == set(CLIENTS)
    for n, client in enumerate(CLIENTS):
        by_hand = sum(float(weights[n, m]) * as_numpy(knowledge)[m] for m in range(4))
        one = fused.personal[client]["public"]
        assert np.allclose(one.values, by_hand, atol=1e-6)
        assert one.kind == "probabilities"
        assert one.ids.tolist() == [4, 5, 6, 7, 8]
        assert torch.allclose(one.values.sum(-1), torch.ones(5), atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "off"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.float16, 1e-3)]
)
@pytest.mark.parametrize("sparse", [False, True])
def test_rows_mixed_in_blocks_equal_the_loops(dtype, off, sparse, monkeypatch) -> None:
    """Blocks of twelve numbers a client, the last one shorter; halves are summed in single."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(6, 7, 4, generator=generator, dtype=torch.float64).to(dtype)
    weights = torch.rand(5, 6, generator=generator).softmax(1)
    if sparse:
        weights = weights * torch.eye(6)[:5]
        monkeypatch.setattr(averaging, "SPARSE_FROM", 1)
        monkeypatch.setattr(averaging, "SPARSE", 0.2)
    monkeypatch.setattr(averaging, "BLOCK", 12 * 6)
    mixed = averaging.mix_rows(weights, values)
    assert mixed.dtype == dtype
    for n in range(5):
        expected = sum(float(weights[n, m]) * values[m].double() for m in range(6))
        assert torch.allclose(mixed[n].double(), expected, atol=off)


def test_a_fusion_may_learn_its_weights() -> None:
    values = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0))
    weights = torch.full((3, 3), 1 / 3, requires_grad=True)
    averaging.mix_rows(weights, values).sum().backward()
    assert torch.allclose(weights.grad, values.sum((1, 2)).expand(3, 3))


def test_personalised_mean_with_rows_of_more_axes() -> None:
    knowledge = answers(2, "features", (3, 2, 4))
    weights = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    fused = personalised_mean(stack_of(knowledge), weights)
    by_hand = 0.25 * knowledge[0].values + 0.75 * knowledge[1].values
    assert torch.allclose(fused.personal[2]["public"].values, by_hand, atol=1e-6)
    assert torch.equal(fused.personal[3]["public"].values, knowledge[0].values)


@pytest.mark.parametrize("fusion", [mean, mean_by_examples])
def test_one_client_is_the_identity(fusion) -> None:
    knowledge = answers(1)
    assert torch.equal(fusion(stack_of(knowledge)).shared["public"].values, knowledge[0].values)


def test_one_client_is_the_identity_personally_too() -> None:
    knowledge = answers(1)
    fused = personalised_mean(stack_of(knowledge), torch.ones(1, 1))
    assert torch.equal(fused.personal[2]["public"].values, knowledge[0].values)


@pytest.mark.parametrize(
    "fusion", [mean, mean_by_examples, lambda s: personalised_mean(s, torch.eye(len(s)))]
)
def test_labels_are_not_averaged(fusion) -> None:
    labels = [Knowledge.rows("labels", torch.tensor([0, 2])) for _ in range(2)]
    with pytest.raises(KnowledgeError, match="labels cannot be averaged"):
        fusion(stack_of(labels))


def test_weights_are_not_personalised_by_rows() -> None:
    models = [Knowledge("weights", {"a": torch.randn(3)}) for _ in range(2)]
    with pytest.raises(KnowledgeError, match="weights have no rows"):
        personalised_mean(stack_of(models), torch.eye(2))


def test_the_order_of_arrival_does_not_change_a_bit() -> None:
    knowledge = answers(4)
    uploads = [
        Upload(c, n, {"public": k}) for c, n, k in zip(CLIENTS, EXAMPLES, knowledge, strict=True)
    ]
    forward, backward = Uploads(uploads)["public"], Uploads(uploads[::-1])["public"]
    for fusion in (mean, mean_by_examples):
        left, right = fusion(forward).shared["public"], fusion(backward).shared["public"]
        assert torch.equal(left.values, right.values)


def test_by_name() -> None:
    assert registry.lookup("fusions", "mean-by-examples") is MeanByExamples
    assert registry.lookup("fusions", "personalised-mean") is PersonalisedMean

"""Loss terms against numbers made by other means (NumPy in float64, loops, autograd)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fedkt import registry
from fedkt.errors import ConfigError, KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives import (
    KL,
    MAE,
    MSE,
    Batch,
    CrossEntropy,
    Distil,
    Outputs,
    Proximal,
    Supported,
    Term,
    weighted_mean,
)

B, C = 6, 5


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2


def batch_of(size: int = B, weight: Tensor | None = None, labelled: bool = True) -> Batch:
    y = torch.arange(size) % C if labelled else None
    weight = torch.ones(size, dtype=torch.float64) if weight is None else weight
    return Batch(torch.zeros(size, 1), y, torch.arange(size), weight)


def outputs_of(logits: Tensor, **parameters: Tensor) -> Outputs:
    return Outputs(logits, None, parameters)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl_by_hand(student: Tensor, teacher: np.ndarray, temperature: float) -> np.ndarray:
    s = softmax(student.numpy() / temperature)
    rows = []
    for t_row, s_row in zip(teacher, s, strict=True):
        total = sum(t * (math.log(t) - math.log(p)) for t, p in zip(t_row, s_row, strict=True) if t)
        rows.append(temperature**2 * total)
    return np.array(rows)


# --- KL ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_equals_the_formula(temperature: float) -> None:
    student, teacher = draw(0, B, C), draw(1, B, C)
    target = softmax(teacher.numpy() / temperature)
    by_hand = kl_by_hand(student, target, temperature)
    kl = KL(temperature)
    assert np.allclose(kl(student, teacher, "logits"), by_hand, rtol=1e-12)
    assert np.allclose(kl(student, torch.tensor(target), "probabilities"), by_hand, rtol=1e-12)


def test_kl_golden() -> None:
    # t = (1/2, 1/2), s = (3/4, 1/4): ½ ln(2/3) + ½ ln 2
    student = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    target = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    value = float(KL()(student, target, "probabilities"))
    assert value == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))


def test_kl_of_one_hot_targets_is_finite_with_a_finite_gradient() -> None:
    student = draw(0, B, C).requires_grad_()
    target = torch.eye(C, dtype=torch.float64)[torch.arange(B) % C]
    losses = KL()(student, target, "probabilities")
    expected = torch.nn.functional.cross_entropy(student, torch.arange(B) % C, reduction="none")
    assert torch.allclose(losses, expected)
    losses.sum().backward()
    assert torch.isfinite(student.grad).all()


def test_kl_is_zero_only_at_the_target() -> None:
    student = draw(0, B, C)
    assert float(KL(3)(student, student + 7, "logits").abs().max()) < 1e-12
    assert float(KL(3)(student, draw(1, B, C), "logits").min()) > 0.01


def test_the_gradient_of_kl() -> None:
    # d/dz of T² KL is T (s - t): with T² its size does not fall with T
    for temperature in (1.0, 2.0, 10.0):
        student = draw(0, B, C).requires_grad_()
        teacher = draw(1, B, C)
        KL(temperature)(student, teacher, "logits").sum().backward()
        s = (student.detach() / temperature).softmax(-1)
        t = (teacher / temperature).softmax(-1)
        assert torch.allclose(student.grad, temperature * (s - t), atol=1e-12)


def test_the_gradient_keeps_its_size_as_the_temperature_grows() -> None:
    sizes = []
    for temperature in (20.0, 40.0, 80.0):
        student = draw(0, B, C).requires_grad_()
        KL(temperature)(student, draw(1, B, C), "logits").sum().backward()
        sizes.append(float(student.grad.norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)
    assert sizes[2] == pytest.approx(sizes[1], rel=0.05)
    # the limit of high temperature: (z_s - z_t, both centred) / C
    difference = draw(0, B, C) - draw(1, B, C)
    limit = (difference - difference.mean(-1, keepdim=True)) / C
    assert sizes[2] == pytest.approx(float(limit.norm()), rel=0.05)


def test_the_mean_is_over_samples_and_not_over_classes() -> None:
    student, teacher = draw(0, B, C), draw(1, B, C)
    knowledge = {"public": Knowledge.rows("logits", teacher)}
    loss = Distil(KL())(outputs_of(student), batch_of(), knowledge)
    log_s, t = student.log_softmax(-1), teacher.softmax(-1)
    batchmean = torch.nn.functional.kl_div(log_s, t, reduction="batchmean")
    over_everything = (t * (t.log() - log_s)).mean()
    assert float(loss) == pytest.approx(float(batchmean), rel=1e-12)
    assert float(loss / over_everything) == pytest.approx(C, rel=1e-12)


# --- the other divergences -----------------------------------------------------------------


@pytest.mark.parametrize(("divergence", "power"), [(MSE(), 2), (MAE(), 1)], ids=["mse", "mae"])
def test_divergences_of_logits(divergence, power) -> None:
    student, teacher = draw(0, B, C), draw(1, B, C)
    by_hand = [
        sum(abs(float(a) - float(b)) ** power for a, b in zip(s, t, strict=True)) / C
        for s, t in zip(student, teacher, strict=True)
    ]
    assert np.allclose(divergence(student, teacher, "logits"), by_hand)
    with pytest.raises(KnowledgeError, match=r"compares logits .* holds probabilities"):
        divergence(student, teacher, "probabilities")


@pytest.mark.parametrize("divergence", [KL(2.0), MSE(), MAE()])
def test_no_gradient_flows_into_the_target(divergence) -> None:
    student = draw(0, B, C).requires_grad_()
    teacher = draw(1, B, C).requires_grad_()
    divergence(student, teacher, "logits").sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize("divergence", [KL(2.0), MSE(), MAE()])
def test_no_gradient_flows_into_the_knowledge(divergence) -> None:
    student = draw(0, B, C).requires_grad_()
    teacher = draw(1, B, C).requires_grad_()
    knowledge = {"public": Knowledge.rows("logits", teacher)}
    Distil(divergence)(outputs_of(student), batch_of(), knowledge).backward()
    assert student.grad is not None
    assert teacher.grad is None


# --- Distil --------------------------------------------------------------------------------


def test_distil_looks_targets_up_by_sample_id() -> None:
    student, teacher = draw(0, 3, C), draw(1, 8, C)
    ids = torch.tensor([6, 0, 3])
    batch = Batch(torch.zeros(3, 1), None, ids, torch.ones(3, dtype=torch.float64))
    stored = torch.randperm(8, generator=torch.Generator().manual_seed(5))
    knowledge = {"other": Knowledge.rows("logits", teacher[stored], stored)}
    loss = Distil(MSE(), source="other")(outputs_of(student), batch, knowledge)
    assert float(loss) == pytest.approx(float((student - teacher[ids]).square().mean()))
    assert Distil(source="other").needs() == ("other",)


# --- supported -----------------------------------------------------------------------------


def test_every_sample_counts_as_often_as_it_has_supporters() -> None:
    student, teacher = draw(0, 4, C), draw(1, 4, C).softmax(-1)
    ids, counts = torch.tensor([5, 2, 9, 7]), torch.tensor([3, 0, 1, 2])
    votes = {"votes": Knowledge("probabilities", {"values": teacher}, ids, counts)}
    rows = torch.tensor([3, 1, 0])
    batch = Batch(torch.zeros(3, 1), None, ids[rows], torch.ones(3, dtype=torch.float64))
    loss = Supported(floor=0.25)(outputs_of(student[rows]), batch, votes)
    each = kl_by_hand(student, teacher.numpy(), 1.0)
    assert float(loss) == pytest.approx((2 * each[3] + 0.25 * each[1] + 3 * each[0]) / 3)
    plain = {"votes": Knowledge.rows("probabilities", teacher, ids)}
    with pytest.raises(KnowledgeError, match="come without counts"):
        Supported()(outputs_of(student[rows]), batch, plain)
    with pytest.raises(ConfigError, match=r"floor must be .* at least 0"):
        Supported(floor=-1)


# --- cross-entropy -------------------------------------------------------------------------


def test_cross_entropy_equals_the_formula() -> None:
    logits = draw(0, B, C)
    by_hand = -np.mean(np.log(softmax(logits.numpy()))[np.arange(B), np.arange(B) % C])
    assert float(CrossEntropy()(outputs_of(logits), batch_of(), {})) == pytest.approx(by_hand)
    assert CrossEntropy().needs() == ()


def test_cross_entropy_needs_labels() -> None:
    with pytest.raises(KnowledgeError, match="needs labels"):
        CrossEntropy()(outputs_of(draw(0, B, C)), batch_of(labelled=False), {})


# --- proximal ------------------------------------------------------------------------------


def test_proximal_is_half_mu_times_the_squared_distance() -> None:
    w = {"a": draw(0, 2, 3).requires_grad_(), "b": draw(1, 4).requires_grad_()}
    w0 = {"a": draw(2, 2, 3), "b": draw(3, 4)}
    anchor = {"weights": Knowledge("weights", {**w0, "buffer": torch.zeros(9)})}
    loss = Proximal(0.3)(outputs_of(draw(0, B, C), **w), batch_of(), anchor)
    by_hand = 0.5 * 0.3 * sum(float(((w[n].detach() - w0[n]) ** 2).sum()) for n in w)
    assert float(loss.detach()) == pytest.approx(by_hand)
    loss.backward()
    for n in w:
        assert torch.allclose(w[n].grad, 0.3 * (w[n].detach() - w0[n]))
    assert Proximal(source="w").needs() == ("w",)
    part = {"weights": Knowledge("weights", {"b": w0["b"]})}  # the others are free
    loss = Proximal(0.3)(outputs_of(draw(0, B, C), **w), batch_of(), part)
    assert float(loss.detach()) == pytest.approx(
        0.15 * float(((w["b"].detach() - w0["b"]) ** 2).sum())
    )


# --- padding and means ---------------------------------------------------------------------


def test_weighted_mean() -> None:
    losses, weight = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 0.0])
    assert float(weighted_mean(losses, weight)) == pytest.approx(7 / 4)
    assert float(weighted_mean(losses, torch.zeros(3))) == 0.0


TERMS: list[Term] = [
    CrossEntropy(),
    Distil(KL(2.0)),
    Distil(MSE()),
    Distil(MAE()),
    Supported(MSE(), floor=0.5),
]
KNOWLEDGE = {
    "public": Knowledge.rows("logits", draw(1, B, C)),
    "votes": Knowledge("logits", {"values": draw(2, B, C)}, torch.arange(B), torch.arange(B)),
}


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_padding_changes_neither_loss_nor_gradient(term: Term) -> None:
    logits = draw(0, 4, C)
    plain = logits.clone().requires_grad_()
    padded = torch.cat([logits, 100 * draw(9, 2, C)]).requires_grad_()
    weight = torch.tensor([1, 1, 1, 1, 0, 0], dtype=torch.float64)
    one = term(outputs_of(plain), batch_of(4), KNOWLEDGE)
    two = term(outputs_of(padded), batch_of(6, weight), KNOWLEDGE)
    one.backward()
    two.backward()
    assert float(one.detach()) == pytest.approx(float(two.detach()), rel=1e-12)
    assert torch.allclose(plain.grad, padded.grad[:4])
    assert float(padded.grad[4:].abs().max()) == 0.0


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_a_batch_of_padding_only_is_worth_nothing(term: Term) -> None:
    logits = draw(0, B, C).requires_grad_()
    loss = term(outputs_of(logits), batch_of(B, torch.zeros(B, dtype=torch.float64)), KNOWLEDGE)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(logits.grad.abs().max()) == 0.0


# --- vmap ----------------------------------------------------------------------------------


@pytest.mark.parametrize("term", [*TERMS, Proximal(0.2)], ids=repr)
def test_a_cohort_by_vmap_equals_the_loop(term: Term) -> None:
    clients, width = 3, 4
    w = draw(0, clients, width, C)
    x, ids = draw(1, clients, B, width), torch.stack([torch.randperm(B) for _ in range(clients)])
    weight = (torch.arange(B).expand(clients, B) < torch.tensor([[6], [4], [1]])).double()
    y = ids % C
    knowledge = {**KNOWLEDGE, "weights": Knowledge("weights", {"w": draw(2, width, C)})}

    def loss(w: Tensor, x: Tensor, y: Tensor, ids: Tensor, weight: Tensor) -> Tensor:
        return term(Outputs(x @ w, None, {"w": w}), Batch(x, y, ids, weight), knowledge)

    step = torch.func.grad_and_value(loss)
    gradients, values = torch.func.vmap(step)(w, x, y, ids, weight)
    for c in range(clients):
        gradient, value = step(w[c], x[c], y[c], ids[c], weight[c])
        assert torch.allclose(gradients[c], gradient, atol=1e-12)
        assert float(values[c]) == pytest.approx(float(value), rel=1e-12)
    assert float(gradients.abs().min(-1).values.max()) > 0


# --- as parts ------------------------------------------------------------------------------


def test_terms_are_frozen_values_with_names() -> None:
    for name in ("cross-entropy", "distil", "proximal", "supported"):
        term = registry.lookup("objectives", name)()
        assert isinstance(term, Term)
        assert term == type(term)()
        assert registry.name_of(type(term)) == name
    with pytest.raises(dataclasses.FrozenInstanceError):
        KL().temperature = 2

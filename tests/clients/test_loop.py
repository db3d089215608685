"""The training loop against loops written out by hand."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedkt.clients import TrainingOptions
from fedkt.clients.learners import loop
from fedkt.clients.learners.optimisers import ModelDescent
from fedkt.data import Samples
from fedkt.errors import KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives import KL, CrossEntropy, Distil, Proximal, weighted_mean
from fedkt.optimisers import optimiser_of
from fedkt.recipe import Train, Weighted
from fedkt.rng import global_torch_stream, torch_rng

ON_PRIVATE = Train("private", [CrossEntropy()])


def mlp(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def cnn() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    return nn.Sequential(*layers)


def same(a: nn.Module, b: nn.Module, exactly: bool = False) -> bool:
    left, right = a.state_dict(), b.state_dict()
    close = torch.equal if exactly else lambda x, y: torch.allclose(x, y, atol=1e-6)
    return all(close(left[n], right[n]) for n in left)


def sgd(model: nn.Module, momentum: float = 0.0) -> ModelDescent:
    options = TrainingOptions(optimiser="sgd", momentum=momentum)
    return ModelDescent([*model.parameters()], optimiser_of(options), {})


@pytest.fixture
def work_on(work_on):
    return partial(work_on, learning_rate=0.1)


def batches(stream: str, n: int, size: int, epochs: int, client: int = 1) -> list[torch.Tensor]:
    """The rows of each batch: one named stream, one permutation an epoch.

    Public data (``absorb``) come in one order for all clients.
    """
    public = stream.startswith("absorb")
    name = f"public-batches/{stream}" if public else f"batches/{stream}"
    generator = torch_rng(7, name, 1, 0 if public else client)
    return [
        rows
        for _ in range(epochs)
        for rows in torch.split(torch.randperm(n, generator=generator), size)
    ]


def sgd_by_hand(model: nn.Module, loss: torch.Tensor, rate: float) -> None:
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for p, g in zip(model.parameters(), gradients, strict=True):
            p -= rate * g


# --- steps by hand -------------------------------------------------------------------------


def test_private_training_equals_the_loop_by_hand(data, work_on) -> None:
    model, by_hand = mlp(), mlp()
    step = replace(ON_PRIVATE, epochs=3)
    last = loop.train(model, sgd(model), step, work_on(data, batch_size=8), "learn/0")
    losses = []
    for rows in batches("learn/0", 41, 8, 3):
        loss = F.cross_entropy(by_hand(data.train.x[rows]), data.train.y[rows])
        sgd_by_hand(by_hand, loss, 0.1)
        losses.append(float(loss.detach()))
    assert len(losses) == 3 * 6
    assert same(model, by_hand)
    assert last == pytest.approx(sum(losses[-6:]) / 6, abs=1e-6)


@pytest.mark.parametrize("build", [mlp, cnn])
def test_bfloat16_rounds_the_products_and_nothing_else(data, work_on, build) -> None:
    moved = {}
    for precision in ("float32", "bfloat16"):
        model, before = build(), build()
        optimiser = sgd(model, momentum=0.9)
        work = work_on(data, batch_size=8, precision=precision)
        loss = loop.train(model, optimiser, replace(ON_PRIVATE, epochs=2), work, "learn/0")
        held = [s["momentum_buffer"] for s in optimiser.state().values()]
        assert {t.dtype for t in (*model.parameters(), *held)} == {torch.float32}
        flat = [nn.utils.parameters_to_vector(m.parameters()) for m in (model, before)]
        moved[precision] = (flat[0] - flat[1]).detach(), loss
    (exact, loss), (rounded, other) = moved["float32"], moved["bfloat16"]
    error = float((exact - rounded).norm() / exact.norm())
    assert 0 < error < 0.05  # 8 bits of mantissa: 0.4 % a product
    assert other == pytest.approx(loss, rel=0.02)


def test_adam_equals_the_formula(data, work_on) -> None:
    model, by_hand = mlp(), mlp()
    work = work_on(data, batch_size=16, learning_rate=0.01)
    adam = ModelDescent([*model.parameters()], optimiser_of(work.options), {})
    loop.train(model, adam, ON_PRIVATE, work, "learn/0")
    m = [torch.zeros_like(p, dtype=torch.float64) for p in by_hand.parameters()]
    v = [torch.zeros_like(x) for x in m]
    for t, rows in enumerate(batches("learn/0", 41, 16, 1), 1):
        loss = F.cross_entropy(by_hand(data.train.x[rows]), data.train.y[rows])
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for i, (p, g) in enumerate(zip(by_hand.parameters(), gradients, strict=True)):
                m[i] = 0.9 * m[i] + 0.1 * g
                v[i] = 0.999 * v[i] + 0.001 * g.double() ** 2
                p -= (
                    0.01 * (m[i] / (1 - 0.9**t)) / ((v[i] / (1 - 0.999**t)).sqrt() + 1e-8)
                ).float()
    left, right = model.state_dict(), by_hand.state_dict()
    assert all(torch.allclose(left[n], right[n], atol=1e-4) for n in left)


def test_distillation_looks_up_the_target_of_each_sample(data, work_on) -> None:
    ids = torch.tensor([40, 3, 17, 8, 25])  # only a part of the public set, in any order
    teacher = torch.randn(5, 10, generator=torch.Generator().manual_seed(0)).softmax(-1)
    knowledge = {"public": Knowledge.rows("probabilities", teacher, ids)}
    model, by_hand = mlp(), mlp()
    step = Train("public", [Distil(KL(2.0))], epochs=2, batch_size=2)
    loop.train(model, sgd(model), step, work_on(data, knowledge), "absorb/0")
    for rows in batches("absorb/0", 5, 2, 2):
        log_s = (by_hand(data.public.x[ids[rows]]) / 2).log_softmax(-1)
        loss = 4 * F.kl_div(log_s, teacher[rows], reduction="batchmean")
        sgd_by_hand(by_hand, loss, 0.1)
    assert same(model, by_hand)


def test_mixup_mixes_inputs_and_targets_alike(data, work_on) -> None:
    teacher = torch.randn(len(data.public), 10, generator=torch.Generator().manual_seed(0))
    teacher = teacher.softmax(-1)
    knowledge = {"public": Knowledge.rows("probabilities", teacher)}
    model, by_hand = mlp(), mlp()
    step = Train("public", [Distil()], epochs=2, batch_size=16, mixup=2.0)
    loop.train(model, sgd(model), step, work_on(data, knowledge), "absorb/0")
    with global_torch_stream(7, "dropout/absorb/0", 1, 1):
        for rows in batches("absorb/0", len(data.public), 16, 2):
            partners = rows[torch.randperm(len(rows))]
            share = float(torch.distributions.Beta(2.0, 2.0).sample())
            assert 0 < share < 1
            x = share * data.public.x[rows] + (1 - share) * data.public.x[partners]
            target = share * teacher[rows] + (1 - share) * teacher[partners]
            # Cross-entropy: of KL it lacks the targets' own entropy, a constant.
            loss = -(target * by_hand(x).log_softmax(-1)).sum(-1).mean()
            sgd_by_hand(by_hand, loss, 0.1)
    assert same(model, by_hand)


def test_mixup_of_labels(data, work_on) -> None:
    model, by_hand = mlp(), mlp()
    loop.train(
        model, sgd(model), replace(ON_PRIVATE, mixup=0.4, batch_size=41), work_on(data), "learn/0"
    )
    (rows,) = batches("learn/0", 41, 41, 1)
    with global_torch_stream(7, "dropout/learn/0", 1, 1):
        partners = rows[torch.randperm(41)]
        share = float(torch.distributions.Beta(0.4, 0.4).sample())
    x, y = data.train.x, data.train.y
    logits = by_hand(share * x[rows] + (1 - share) * x[partners])
    both = F.cross_entropy(logits, y[rows]), F.cross_entropy(logits, y[partners])
    sgd_by_hand(by_hand, share * both[0] + (1 - share) * both[1], 0.1)
    assert same(model, by_hand)


def test_a_sum_of_weighted_terms(data, work_on) -> None:
    anchor = Knowledge("weights", {n: p.detach() + 1 for n, p in mlp(3).named_parameters()})
    model, by_hand = mlp(), mlp()
    step = Train("private", [Weighted(0.5, CrossEntropy()), Proximal(0.2)], batch_size=41)
    loop.train(model, sgd(model), step, work_on(data, {"weights": anchor}), "learn/0")
    squares = sum(((p - anchor.tensors[n]) ** 2).sum() for n, p in by_hand.named_parameters())
    loss = 0.5 * F.cross_entropy(by_hand(data.train.x), data.train.y) + 0.1 * squares
    sgd_by_hand(by_hand, loss, 0.1)
    assert same(model, by_hand)


def test_batch_sizes(data, work_on) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 10)
            self.sizes: list[int] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.sizes.append(len(x))
            return self.linear(x.flatten(1))

    model = Counting()
    work = work_on(data, batch_size=20, public_batch_size=30)
    loop.train(model, sgd(model), ON_PRIVATE, work, "a")
    loop.train(model, sgd(model), Train("public", [CrossEntropy()]), work, "b")
    loop.train(model, sgd(model), replace(ON_PRIVATE, batch_size=25), work, "c")
    assert model.sizes == [20, 20, 1, 30, 20, 25, 16]


# --- streams -------------------------------------------------------------------------------


def trained(data, work, stream: str = "learn/0", model=mlp) -> nn.Module:
    one = model()
    loop.train(one, sgd(one), ON_PRIVATE, work, stream)
    return one


def test_the_order_of_batches_has_a_name(data, work_on) -> None:
    base = trained(data, work_on(data, batch_size=8))
    torch.manual_seed(99)
    assert same(base, trained(data, work_on(data, batch_size=8)), exactly=True)
    others = [
        trained(data, work_on(data, batch_size=8, seed=8)),
        trained(data, work_on(data, batch_size=8, round_=2)),
        trained(data, work_on(data, batch_size=8, client=2)),
        trained(data, work_on(data, batch_size=8), "learn/1"),
    ]
    assert not any(same(base, other) for other in others)


def with_dropout() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.5), nn.Linear(32, 10))


def test_dropout_is_drawn_from_a_named_stream(data, work_on) -> None:
    runs = []
    for noise in (1, 2):
        model = with_dropout()
        torch.manual_seed(noise)
        before = torch.random.get_rng_state()
        loop.train(model, sgd(model), ON_PRIVATE, work_on(data), "learn/0")
        assert torch.equal(torch.random.get_rng_state(), before)
        runs.append(model)
    assert same(*runs, exactly=True)


@pytest.mark.parametrize("names", [(1, 1), (2, 1), (1, 4)])
def test_dropout_masks_belong_to_step_round_and_client(data, work_on, names) -> None:
    round_, client = names
    model, by_hand = with_dropout(), with_dropout()
    work = work_on(data, round_=round_, client=client, batch_size=41)
    loop.train(model, sgd(model), ON_PRIVATE, work, "learn/0")
    rows = torch.randperm(41, generator=torch_rng(7, "batches/learn/0", round_, client))
    with global_torch_stream(7, "dropout/learn/0", round_, client):
        loss = F.cross_entropy(by_hand(data.train.x[rows]), data.train.y[rows])
    sgd_by_hand(by_hand, loss, 0.1)
    assert same(model, by_hand)


# --- batch normalisation -------------------------------------------------------------------


def with_batch_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))


def test_a_last_batch_of_one_sample(data, work_on) -> None:
    model, by_hand = with_batch_norm(), with_batch_norm()
    loop.train(model, sgd(model), ON_PRIVATE, work_on(data, batch_size=8), "learn/0")
    for rows in batches("learn/0", 41, 8, 1):
        by_hand.train()
        by_hand[2].train(len(rows) > 1)  # running statistics for the batch of one
        sgd_by_hand(by_hand, F.cross_entropy(by_hand(data.train.x[rows]), data.train.y[rows]), 0.1)
    assert same(model, by_hand)
    assert int(model[2].num_batches_tracked) == 5
    assert all(torch.isfinite(t).all() for t in model.state_dict().values())


def test_batch_norm_trains_again_after_a_batch_of_one(data, work_on) -> None:
    model = with_batch_norm()
    loop.train(model, sgd(model), replace(ON_PRIVATE, epochs=2), work_on(data, batch_size=8), "x")
    assert int(model[2].num_batches_tracked) == 10


# --- steps that do nothing -----------------------------------------------------------------


def test_what_has_not_arrived_adds_nothing(data, work_on) -> None:
    model, plain = mlp(), mlp()
    work = work_on(data, batch_size=8)
    step = Train("private", [CrossEntropy(), Proximal(5.0), Weighted(3, Distil())])
    assert loop.train(model, sgd(model), step, work, "learn/0") is not None
    loop.train(plain, sgd(plain), ON_PRIVATE, work, "learn/0")
    assert same(model, plain, exactly=True)


@pytest.mark.parametrize("case", ["no term", "no epoch", "no data", "no public set"])
def test_steps_that_do_nothing(data, work_on, empty, case) -> None:
    step, changed = ON_PRIVATE, data
    if case == "no term":
        step = Train("public", [Distil()])
    elif case == "no epoch":
        step = replace(ON_PRIVATE, epochs=0)
    elif case == "no data":
        changed = replace(data, train=empty)
    else:
        step, changed = Train("public", [CrossEntropy()]), replace(data, public=None)
    model = mlp()
    assert loop.train(model, sgd(model), step, work_on(changed), "x") is None
    assert same(model, mlp(), exactly=True)


def test_labels_are_needed_for_cross_entropy(data, work_on) -> None:
    unlabelled = replace(data, public=Samples(data.public.x, None, data.public.ids))
    model = mlp()
    with pytest.raises(KnowledgeError, match="needs labels"):
        loop.train(model, sgd(model), Train("public", [CrossEntropy()]), work_on(unlabelled), "x")


def test_knowledge_about_unknown_samples(data, work_on) -> None:
    knowledge = {"public": Knowledge.rows("logits", torch.zeros(1, 10), [50])}
    model = mlp()
    with pytest.raises(KnowledgeError, match="no sample has the id 50"):
        loop.train(model, sgd(model), Train("public", [Distil()]), work_on(data, knowledge), "x")


# --- prediction and features ---------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 63, 64, 65, 100])
def test_predict_equals_the_model_in_evaluation_mode(data, n) -> None:
    model = nn.Sequential(with_batch_norm(), nn.Dropout(0.9)).train()
    x = data.common_test.x[:n]
    answers = loop.predict(model, x)
    assert not model.training
    assert not answers.requires_grad
    with torch.no_grad():
        assert torch.allclose(answers, copy.deepcopy(model).eval()(x), atol=1e-6)
    assert torch.equal(answers, loop.predict(model.train(), x))


def test_training_ends_in_evaluation_mode(data, work_on) -> None:
    assert not trained(data, work_on(data), model=with_dropout).training


def test_the_tap_takes_the_input_of_the_last_linear_layer(data) -> None:
    model = mlp()
    with loop.FeatureTap(model) as tap:
        logits = model(data.train.x[:3])
    assert torch.equal(tap.features, model[:3](data.train.x[:3]))
    assert torch.allclose(logits, F.linear(tap.features, model[3].weight, model[3].bias))
    old = tap.features
    model(data.train.x[3:6])  # the hook is gone
    assert tap.features is old


@pytest.mark.parametrize("model", [mlp(), nn.Flatten()])
def test_no_tap_where_there_is_nothing_to_take(model) -> None:
    with loop.FeatureTap(model, wanted=isinstance(model, nn.Flatten)) as tap:
        model(torch.zeros(2, 1, 8, 8))
    assert tap.features is None


@dataclass(frozen=True)
class SmallFeatures:
    """Mean square of the features; a term that asks for them."""

    needs_features: ClassVar[bool] = True
    part: ClassVar[str] = "objectives"

    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(self, outputs, batch, knowledge) -> torch.Tensor:
        assert outputs.features.requires_grad
        return weighted_mean(outputs.features.square().mean(-1), batch.weight)


def test_terms_on_features(data, work_on) -> None:
    model, by_hand = mlp(), mlp()
    step = Train("private", [SmallFeatures()], batch_size=41)
    loop.train(model, sgd(model), step, work_on(data), "x")
    features = by_hand[:3](data.train.x)
    gradients = torch.autograd.grad(features.square().mean(), list(by_hand[1].parameters()))
    with torch.no_grad():
        for p, g in zip(by_hand[1].parameters(), gradients, strict=True):
            p -= 0.1 * g
    assert same(model, by_hand)

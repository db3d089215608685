"""Personal read-outs, rehearsal, and the prior: what they compute and what never leaves."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fedkt.clients import SklearnLearner
from fedkt.clients.personal_answer import personal_answer, settle
from fedkt.clients.phases import evaluate, run_steps, share
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.models import build_model
from fedkt.objectives import KL, AdjustedCrossEntropy, CrossEntropy, Distil
from fedkt.objectives.term import Batch, Outputs
from fedkt.readouts.gate import BLENDS, CHOICE, COPY, LOSSES, as_knowledge, choose
from fedkt.recipe import Predict, Recipe, Train, Weighted
from fedkt.rng import torch_rng

LEARN = Train("private", [AdjustedCrossEntropy()])
DISTIL = Train("public", [Distil(KL())])


def recipe(readout: Any) -> Recipe:
    share = [Predict(form="logits")]
    return Recipe(learn=[LEARN], share=share, absorb=[DISTIL], readout=readout)


def personal_readout(learner: Any, recipe: Recipe, work: Any) -> Any:
    settle(learner, recipe, work)
    return personal_answer(recipe.personal, learner, work.own, work.data.log_prior)


def target_for(data: Any, seed: int = 0) -> dict[str, Knowledge]:
    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(seed))
    return {"public": Knowledge.rows("probabilities", (3 * logits).softmax(-1))}


def test_adjusted_loss_is_cross_entropy_of_shifted_logits() -> None:
    z, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 0])
    log_prior = torch.tensor([0.7, 0.2, 0.1]).log()
    batch = Batch(z, y, torch.arange(5), torch.ones(5), log_prior)
    loss = AdjustedCrossEntropy()(Outputs(z, None, {}), batch, {})
    assert torch.allclose(loss, F.cross_entropy(z + log_prior, y))


@pytest.mark.parametrize("floor", [0.05, 0.5])
def test_a_floor_gives_a_client_of_one_class_a_gradient(floor: float) -> None:
    """At z = 0 the gradient on its class is 1 - π̃ = floor (C - 1) / C; without a floor it is 0."""
    for given, expected in ((floor, floor * 3 / 4), (0.0, 0.0)):
        z = torch.zeros(6, 4, requires_grad=True)
        log_prior = torch.tensor([1.0, 0.0, 0.0, 0.0]).clamp_min(1e-12).log()
        batch = Batch(
            z, torch.zeros(6, dtype=torch.int64), torch.arange(6), torch.ones(6), log_prior
        )
        AdjustedCrossEntropy(given)(Outputs(z, None, {}), batch, {}).backward()
        assert z.grad is not None
        assert -z.grad[:, 0].sum() == pytest.approx(expected, abs=1e-6)


def test_a_floor_leaves_an_even_prior_and_floor_0_every_bit() -> None:
    z, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 0])

    def loss(prior: list[float], *floor: float) -> float:
        batch = Batch(z, y, torch.arange(5), torch.ones(5), torch.tensor(prior).log())
        return float(AdjustedCrossEntropy(*floor)(Outputs(z, None, {}), batch, {}))

    even, skewed = [1 / 3] * 3, [0.7, 0.2, 0.1]
    assert loss(even, 0.3) == pytest.approx(loss(even), abs=1e-6)
    assert loss(skewed, 0.0) == loss(skewed)
    mixed = [0.9 * p + 0.1 / 3 for p in skewed]
    assert loss(skewed, 0.1) == pytest.approx(loss(mixed), abs=1e-6)


def test_raw_is_the_logits_and_prior_adds_the_log_prior(data, work_on, learner_of) -> None:
    learner, work, x = learner_of(), work_on(data), data.test.x
    logits = learner.predict(x)
    raw = personal_readout(learner, recipe("raw"), work)(x, logits)
    assert torch.equal(raw, logits)
    shifted = personal_readout(learner, recipe("prior"), work)(x, logits)
    assert torch.equal(shifted, raw + data.log_prior)


def test_mix_is_the_mean_of_two_log_posteriors_and_leaves_the_client_as_it_was(
    data, work_on, learner_of
) -> None:
    learner, work, x = learner_of(), work_on(data), data.test.x
    run_steps(learner, [LEARN], work, "learn")
    before = copy.deepcopy(learner.state())
    mixed = personal_readout(learner, recipe("mix"), work)
    answer = mixed(x, learner.predict(x))
    now = F.log_softmax(learner.predict(x) + data.log_prior, -1)
    again = learner_of()
    again.load_state(copy.deepcopy(before))
    run_steps(again, [LEARN], work, "readout")
    refreshed = F.log_softmax(again.predict(x) + data.log_prior, -1)
    assert torch.allclose(answer, (now + refreshed) / 2, atol=1e-6)
    assert not torch.allclose(now, refreshed)
    for name, tensor in learner.state()["model"].items():
        assert torch.equal(tensor, before["model"][name])


def test_only_the_personal_figures_use_the_readout(data, learner_of) -> None:
    learner = learner_of()
    plain = evaluate(learner, data)

    def first_class(x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return F.one_hot(torch.zeros(len(x), dtype=torch.int64), 10).float()

    personal = evaluate(learner, data, "split", first_class)
    assert personal["global-accuracy"] == plain["global-accuracy"]
    share = float((data.test.y == 0).double().mean())
    assert personal["personalised-accuracy"] == pytest.approx(share)
    matched = evaluate(learner, data, "matched", first_class)
    assert matched["global-accuracy"] == plain["global-accuracy"]
    assert matched["personalised-accuracy"] == pytest.approx(
        float(data.class_counts[0] / data.class_counts.sum())
    )


@pytest.mark.parametrize("readout", ["raw", "prior"])
def test_matched_evaluation_asks_the_model_once(
    data, work_on, learner_of, readout, monkeypatch
) -> None:
    learner, asked = learner_of(), []
    predict = learner.predict
    monkeypatch.setattr(learner, "predict", lambda x: asked.append(len(x)) or predict(x))
    personal = personal_readout(learner, recipe(readout), work_on(data))
    measured = evaluate(learner, data, "matched", personal)
    assert asked == [len(data.validation), len(data.common_test)]
    assert {"personalised-accuracy", "global-accuracy"} <= set(measured)


def test_uniform_counts_make_both_readouts_answer_alike(data, work_on, learner_of) -> None:
    one_of_each = replace(data.train.select(torch.arange(10)), y=torch.arange(10))
    even = replace(data, train=one_of_each)
    assert torch.allclose(even.log_prior, even.log_prior[0].expand(10))
    learner, x = learner_of(), data.test.x
    answers = personal_readout(learner, recipe("prior"), work_on(even))(x, learner.predict(x))
    assert torch.equal(answers.argmax(-1), learner.predict(x).argmax(-1))


def test_rehearsal_draws_a_private_batch_beside_each_public_one(data, work_on, learner_of) -> None:
    """One epoch of one public batch equals one hand-written step on both losses."""
    work = work_on(data, target_for(data), optimiser="sgd", momentum=0.0, public_batch_size=50)
    step = Train("public", [Distil(KL())], rehearse=[Weighted(0.5, CrossEntropy())])
    learner, by_hand = learner_of(), learner_of()
    learner.train(step, work, "absorb/0")

    order = torch_rng(7, "public-batches/absorb/0", 1)
    public = torch.randperm(50, generator=order)
    private = torch.randperm(len(data.train), generator=torch_rng(7, "rehearsal/absorb/0", 1, 1))
    private = private[: work.options.batch_size]
    model, teacher = by_hand.model.train(), work.knowledge["public"].values[public]
    student = F.log_softmax(model(data.public.x[public]), -1)
    loss = F.kl_div(student, teacher, reduction="batchmean")
    loss = loss + 0.5 * F.cross_entropy(model(data.train.x[private]), data.train.y[private])
    loss.backward()
    for (name, trained), parameter in zip(
        learner.model.named_parameters(), model.parameters(), strict=True
    ):
        expected = parameter.detach() - work.options.learning_rate * parameter.grad
        assert torch.allclose(trained, expected, atol=1e-7), name


def test_only_public_steps_rehearse() -> None:
    with pytest.raises(ConfigError, match="rehearse"):
        Train("private", [CrossEntropy()], rehearse=[CrossEntropy()])


@pytest.mark.parametrize("readout", ["raw", "prior", "mix", "gate"])
def test_scikit_learn_clients_are_corrected_for_their_prior(data, work_on, readout: Any) -> None:
    forest = SklearnLearner(lambda: build_model("forest", (1, 8, 8), 10), 10, "forest")
    plain = SklearnLearner(lambda: build_model("forest", (1, 8, 8), 10), 10, "forest")
    forest.train(LEARN, work_on(data), "learn/0")
    plain.train(Train("private", [CrossEntropy()]), work_on(data), "learn/0")
    corrected = F.log_softmax(plain.predict(data.test.x) - data.log_prior, -1)
    assert torch.allclose(forest.predict(data.test.x), corrected, atol=1e-5)
    answer = personal_readout(forest, recipe(readout), work_on(data))
    answer = answer(data.test.x, forest.predict(data.test.x))
    assert bool(torch.isfinite(answer).all())
    again = SklearnLearner(lambda: build_model("forest", (1, 8, 8), 10), 10, "forest")
    again.load_state(forest.state())
    assert torch.equal(again.predict(data.test.x), forest.predict(data.test.x))


# --- the gate --------------------------------------------------------------------------------


def gate_work(data: Any, work_on: Any, federation: torch.Tensor | None) -> Any:
    return work_on(data, {} if federation is None else {"gate": as_knowledge(federation)})


def test_the_gate_settles_on_the_least_held_out_loss(data, work_on, learner_of) -> None:
    learner, federation = learner_of(), torch.linspace(0.02, 0.0, 75)
    run_steps(learner, [LEARN], work_on(data), "learn")
    before = copy.deepcopy(learner.state())
    work = gate_work(data, work_on, federation)
    assert settle(learner, recipe("gate"), work)
    choice = work.own[CHOICE]

    again, held = learner_of(), data.validation
    again.load_state(copy.deepcopy(before))
    now = again.predict(held.x).double()
    run_steps(again, [LEARN], work, "readout")
    then = again.predict(held.x).double()
    by_hand = []
    for point in BLENDS:
        log_prior = point.prior * data.log_prior.double()
        a, b = (F.log_softmax(point.scale * z + log_prior, -1) for z in (now, then))
        mixed = (1 - point.refreshed) * a + point.refreshed * b
        by_hand.append(F.nll_loss(F.log_softmax(mixed, -1), held.y))
    expected = torch.stack(by_hand)
    assert torch.allclose(work.own[LOSSES].double(), expected, atol=1e-4)
    objective = work.own[LOSSES] + 20 * federation
    assert choice == int(objective.argmin())
    assert (work.own[COPY] is None) == (BLENDS[choice].refreshed == 0)
    for name, tensor in learner.state()["model"].items():
        assert torch.equal(tensor, before["model"][name])


def test_the_gate_is_the_prior_until_it_knows_enough(data, work_on, learner_of, empty) -> None:
    learner, unknown = learner_of(), torch.full((75,), -1.0)
    cases = {
        "first round": (data, None),
        "nobody has a figure": (data, unknown),
        "no validation samples": (replace(data, validation=empty), torch.zeros(75)),
    }
    logits = learner.predict(data.test.x)
    for name, (own, federation) in cases.items():
        work = gate_work(own, work_on, federation)
        answer = personal_readout(learner, recipe("gate"), work)(data.test.x, logits)
        assert torch.equal(answer, logits + data.log_prior), name
        assert (work.own[LOSSES] is None) == (name == "no validation samples")


def test_a_client_shares_the_losses_it_kept(data, work_on, learner_of) -> None:
    kept = torch.rand(75)
    told = share(learner_of(), recipe("gate"), replace(work_on(data), own={LOSSES: kept}))["gate"]
    assert told.kind == "statistics"
    assert torch.equal(told.tensors["losses"], kept)
    assert told.num_bytes == 300
    none = share(learner_of(), recipe("gate"), work_on(data))["gate"]
    assert none.tensors["losses"].tolist() == [-1.0] * 75
    assert choose(kept, none) is None


def test_classifiers_without_gradients_have_no_refreshed_copy_to_choose(data, work_on) -> None:
    forest = SklearnLearner(lambda: build_model("logistic", (1, 8, 8), 10), 10, "logistic")
    forest.train(LEARN, work_on(data), "learn/0")
    work = work_on(data)
    settle(forest, recipe("gate"), work)
    losses = work.own[LOSSES].view(3, 25)
    assert torch.allclose(losses[0], losses[1], atol=1e-5)
    assert torch.allclose(losses[0], losses[2], atol=1e-5)

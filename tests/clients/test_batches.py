"""What a training step draws: samples, samples beside them, changed inputs, progress."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from fedkt.clients import TrainingOptions
from fedkt.clients.learners import batches, loop
from fedkt.clients.learners.feature_hook import feature_layer, feature_width
from fedkt.clients.learners.norms import adapt_norms
from fedkt.clients.learners.optimisers import ModelDescent
from fedkt.errors import ConfigError, KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives import CrossEntropy
from fedkt.objectives.heads import Head
from fedkt.objectives.term import Outputs
from fedkt.optimisers import optimiser_of
from fedkt.recipe import Beside, Recipe, Train

SEEN: list[Any] = []


@dataclass(frozen=True)
class Look:
    """A term that notes what it is given."""

    needs_features: ClassVar[bool] = True
    needs_beside: ClassVar[bool] = False
    part: ClassVar[str] = "objectives"

    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(self, outputs, batch, knowledge) -> torch.Tensor:
        SEEN.append((outputs, batch))
        return outputs.logits.square().mean()


class LookBeside(Look):
    needs_beside: ClassVar[bool] = True


@dataclass(frozen=True)
class Negative:
    """A transform."""

    source: str = ""
    part: ClassVar[str] = "transforms"

    def needs(self) -> tuple[str, ...]:
        return (self.source,) if self.source else ()

    def __call__(self, x, knowledge) -> torch.Tensor:
        return -x


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    SEEN.clear()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def run(step: Train, work: Any, model: nn.Module | None = None) -> nn.Module:
    model = model or net()
    options = TrainingOptions(optimiser="sgd", momentum=0.0)
    loop.train(
        model, ModelDescent([*model.parameters()], optimiser_of(options), {}), step, work, "x"
    )
    return model


def test_an_epoch_sees_some_samples_drawn_anew(data, work_on) -> None:
    run(Train("private", [Look()], epochs=2, batch_size=8, samples=20), work_on(data))
    sizes = [len(batch.ids) for _, batch in SEEN]
    assert sizes == [8, 8, 4] * 2
    first, second = (torch.cat([b.ids for _, b in SEEN[i : i + 3]]) for i in (0, 3))
    assert len(set(first.tolist())) == 20
    assert set(first.tolist()) != set(second.tolist())


@pytest.mark.parametrize("samples", [41, 1000])
def test_more_samples_than_there_are_change_nothing(samples, data, work_on) -> None:
    whole = run(Train("private", [CrossEntropy()]), work_on(data))
    limited = run(Train("private", [CrossEntropy()], samples=samples), work_on(data))
    for one, other in zip(whole.parameters(), limited.parameters(), strict=True):
        assert torch.equal(one, other)


def test_progress_goes_from_the_round_s_begin_to_its_end(data, work_on) -> None:
    work = replace(work_on(data, round_=3), rounds=4)
    run(Train("private", [Look()], epochs=2, batch_size=21), work)
    assert [batch.progress for _, batch in SEEN] == [0.5, 0.5625, 0.625, 0.6875]
    SEEN.clear()
    run(Train("private", [Look()], batch_size=21), work_on(data))  # rounds unknown
    assert [batch.progress for _, batch in SEEN] == [0, 0]


def test_public_samples_beside_go_through_the_model(data, work_on) -> None:
    model = net()
    run(Train("private", [LookBeside()], beside=Beside("public", 7)), work_on(data), model)
    (outputs, _), *_ = SEEN
    assert outputs.beside.logits.shape == (7, 10)
    assert outputs.beside.features.shape == (7, 16)
    assert outputs.beside.features.requires_grad
    z = torch.randn(5, 16)
    assert torch.equal(outputs.classify(z), model[3](z))


def test_features_beside_are_rows_of_the_knowledge(data, work_on) -> None:
    bank = torch.randn(30, 16)
    knowledge = {"target": Knowledge.rows("features", bank)}
    work = work_on(data, knowledge)
    run(Train("private", [LookBeside()], epochs=5, batch_size=21, beside=Beside("target", 8)), work)
    rows = torch.cat([outputs.beside.features for outputs, _ in SEEN])
    assert rows.shape == (80, 16)
    places = [int((bank == row).all(1).nonzero()) for row in rows]
    assert len(set(places[:24])) == 24  # without repetition within a pass, tails left out
    assert not rows.requires_grad


def test_a_normal_distribution_beside(data, work_on) -> None:
    mean, variance = torch.arange(16.0), torch.full((16,), 0.25)
    knowledge = {"target": Knowledge("statistics", {"mean": mean, "variance": variance})}
    step = Train("private", [LookBeside()], beside=Beside("target", 4000))
    run(step, work_on(data, knowledge))
    drawn = SEEN[0][0].beside.features
    assert torch.allclose(drawn.mean(0), mean, atol=0.05)
    assert torch.allclose(drawn.std(0), torch.full((16,), 0.5), atol=0.05)


def test_labels_beside(data, work_on) -> None:
    """Of public samples, of class prototypes (absent classes left out), and of the server's own."""
    labels = torch.arange(50) % 10
    labelled = replace(data, public=replace(data.public, y=labels))
    run(Train("private", [LookBeside()], beside=Beside("public", 7)), work_on(labelled))
    outputs, batch = SEEN[0]
    assert batch.beside_y.shape == (7,)
    values = torch.randn(4, 16)
    counts, ids = torch.tensor([3, 0, 1, 2]), torch.tensor([0, 2, 5, 9])
    there = values[counts > 0], ids[counts > 0]
    knowledge = {
        "means": Knowledge("prototypes", {"values": values}, ids, counts),
        "made": Knowledge("statistics", dict(zip(("features", "labels"), there, strict=True))),
    }
    for source in knowledge:
        SEEN.clear()
        run(Train("private", [LookBeside()], beside=Beside(source, 3)), work_on(data, knowledge))
        outputs, batch = SEEN[0]
        assert sorted(batch.beside_y.tolist()) == [0, 5, 9]
        for row, label in zip(outputs.beside.features, batch.beside_y, strict=True):
            assert torch.equal(row, there[0][there[1] == label][0])
    SEEN.clear()
    bare = replace(data, public=replace(data.public, y=None))
    run(Train("private", [LookBeside()], beside=Beside("public", 7)), work_on(bare))
    assert SEEN[0][1].beside_y is None


def test_a_bank_smaller_than_a_batch_is_taken_whole(data, work_on) -> None:
    knowledge = {"target": Knowledge.rows("features", torch.randn(3, 16))}
    run(Train("private", [LookBeside()], beside=Beside("target", 8)), work_on(data, knowledge))
    assert SEEN[0][0].beside.features.shape == (3, 16)


def test_terms_wait_for_the_samples_beside(data, work_on) -> None:
    step = Train("private", [CrossEntropy(), LookBeside()], beside=Beside("target"))
    waiting = run(step, work_on(data))
    assert not SEEN
    plain = run(Train("private", [CrossEntropy()]), work_on(data))
    for one, other in zip(waiting.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_other_statistics_cannot_be_drawn_from(data, work_on) -> None:
    knowledge = {"target": Knowledge("statistics", {"other": torch.zeros(3)})}
    with pytest.raises(KnowledgeError, match="neither features nor a mean and variance"):
        run(Train("private", [LookBeside()], beside=Beside("target")), work_on(data, knowledge))


def test_the_draws_beside_are_streams_of_their_own(data, work_on) -> None:
    """What is drawn beside changes no private batch, and differs by client and round."""

    def drawn(**names: int) -> tuple[list[int], torch.Tensor]:
        SEEN.clear()
        step = Train("private", [LookBeside()], beside=Beside("public", 9))
        run(step, work_on(data, **names))
        return SEEN[0][1].ids.tolist(), SEEN[0][0].beside.logits.detach()

    ids, beside = drawn()
    SEEN.clear()
    run(Train("private", [Look()]), work_on(data))
    assert SEEN[0][1].ids.tolist() == ids
    for names in ({"round_": 2}, {"client": 2}, {"seed": 8}):
        assert not torch.equal(drawn(**names)[1], beside)


def test_transforms_change_the_inputs(data, work_on) -> None:
    run(Train("private", [Look()], transforms=[Negative()], batch_size=41), work_on(data))
    batch = SEEN[0][1]
    assert torch.equal(batch.x, -data.train.at_ids(batch.ids).x)
    SEEN.clear()
    step = Train("private", [Look()], transforms=[Negative("styles")], batch_size=41)
    run(step, work_on(data))  # its knowledge has not arrived
    assert torch.equal(SEEN[0][1].x, data.train.at_ids(SEEN[0][1].ids).x)


def test_nothing_beside_without_a_public_set(data, work_on) -> None:
    alone = work_on(replace(data, public=None))

    def never(x: torch.Tensor) -> Outputs:
        raise AssertionError

    assert batches.beside(Beside("public"), alone, "x", never) is None
    assert batches.beside(None, alone, "x", never) is None


# --- where the features are ----------------------------------------------------------------


def test_the_last_linear_layer_unless_the_model_says_otherwise() -> None:
    model = net()
    assert feature_layer(model) is model[3]
    assert feature_width(model) == 16
    model.feature_layer = "1"
    assert feature_layer(model) is model[1]
    assert feature_width(model) == 64
    model.feature_layer = "7"
    with pytest.raises(ConfigError, match="no such submodule"):
        feature_layer(model)


def test_a_model_without_linear_layers_has_no_features() -> None:
    assert feature_layer(nn.Flatten()) is None
    with pytest.raises(ConfigError, match="no features"):
        feature_width(nn.Flatten())


# --- heads beside the model ----------------------------------------------------------------


def test_heads_leave_the_model_as_it_is(learner_of, data) -> None:
    plain, headed = learner_of("mlp"), learner_of("mlp")
    headed.follow(Recipe(heads=[Head("domain", (5, 2), norm=True)]))
    headed.reset(7, 1)
    plain.reset(7, 1)
    own = plain.weights().tensors
    with_heads = headed.weights().tensors
    assert set(with_heads) - set(own) == {
        f"heads.domain.{n}.{k}" for n in ("0", "1", "norm0") for k in ("weight", "bias")
    }
    assert all(torch.equal(own[n], with_heads[n]) for n in own)
    assert torch.equal(plain.predict(data.train.x), headed.predict(data.train.x))
    assert torch.equal(plain.features(data.train.x), headed.features(data.train.x))
    assert plain.architecture == headed.architecture


def test_a_state_with_heads_can_be_asked_by_a_learner_without(learner_of, data) -> None:
    headed, plain = learner_of("mlp"), learner_of("mlp")
    headed.follow(Recipe(heads=[Head("domain", (2,))]))
    headed.reset(9, 4)
    plain.load_state(headed.state())
    assert torch.equal(plain.predict(data.train.x), headed.predict(data.train.x))


def test_batch_normalisation_stays_at_home(learner_of) -> None:
    learner = learner_of("resnet8-bn", (1, 8, 8))
    everything, shared = learner.weights().tensors, learner.weights(local_norms=True).tensors
    left = set(everything) - set(shared)
    assert left
    assert all("running" in n or everything[n].dim() == 1 for n in left)
    assert not [n for n in shared if "running" in n]
    assert not [n for n in everything if "num_batches_tracked" in n]


# --- the model's own statistics, and its rate ----------------------------------------------


def with_norms() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5)
    )


def test_adapted_norms_are_the_statistics_of_the_samples() -> None:
    model = with_norms()
    x = torch.randn(64, 1, 8, 8) * 3 + 2
    weights = model[2].weight.clone()
    adapt_norms(model, x, batch_size=64)
    assert torch.allclose(model[1].running_mean, x.flatten(1).mean(0), atol=1e-5)
    assert torch.allclose(model[1].running_var, x.flatten(1).var(0), rtol=1e-4)
    hidden = model[2](model[1](x.flatten(1)))  # in evaluation mode, so of the statistics above
    assert torch.allclose(model[3].running_mean, hidden.mean(0), atol=1e-2)
    assert torch.equal(model[2].weight, weights)
    assert model[1].momentum == 0.1
    assert not any(m.training for m in model.modules())


def test_norms_adapt_to_all_batches_alike() -> None:
    x = torch.randn(64, 1, 8, 8)
    model, by_hand = with_norms(), with_norms()
    adapt_norms(model, x, batch_size=16)
    means = torch.stack([part.flatten(1).mean(0) for part in torch.split(x, 16)])
    assert torch.allclose(model[1].running_mean, means.mean(0), atol=1e-5)
    adapt_norms(by_hand, x + 100)  # what was there before leaves no trace
    adapt_norms(by_hand, x, batch_size=16)
    assert torch.equal(by_hand[1].running_mean, model[1].running_mean)


def test_a_model_without_norms_is_left_alone() -> None:
    model = net()
    before = [p.clone() for p in model.parameters()]
    adapt_norms(model, torch.randn(5, 1, 8, 8))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_the_rate_of_a_step(data, work_on, learner_of) -> None:
    sgd = {"optimiser": "sgd", "momentum": 0.0, "learning_rate": 0.1}

    def moved(rate: float, rounds: int = 1) -> torch.Tensor:
        learner = learner_of("linear")
        before = learner.weights().tensors["1.weight"]
        step = Train("private", [CrossEntropy()], batch_size=41, rate=rate)
        for _ in range(rounds):
            learner.train(step, work_on(data, **sgd), "x")
        return learner.weights().tensors["1.weight"] - before

    assert torch.allclose(moved(0.5), 0.5 * moved(1.0), atol=1e-7)
    assert float(moved(0.0).abs().max()) == 0
    learner = learner_of("linear")  # the rate is of that step alone
    for rate in (0.5, 1.0):
        before = learner.weights().tensors["1.weight"]
        step = Train("private", [CrossEntropy()], batch_size=41, rate=rate)
        learner.train(step, work_on(data, **sgd), "x")
    assert float((learner.weights().tensors["1.weight"] - before).norm()) > 0.6 * float(
        moved(1.0).norm()
    )


def test_answers_are_kept_for_equal_weights_and_samples_only(learner_of, data) -> None:
    learner, x = learner_of("resnet8-bn"), data.common_test.x
    first = learner.predict(x)
    asked = []
    hook = learner.model.register_forward_hook(lambda *given: asked.append(1))
    assert torch.equal(learner.predict(x), first)
    assert not asked
    learner.predict(x)[:] = 0  # whoever changes an answer changes his own
    assert torch.equal(learner.predict(x), first)
    learner.predict(x.clone())
    assert asked
    asked.clear()
    other = learner_of("resnet8-bn")
    other.reset(8, 1)
    learner.load_state(other.state())
    assert not torch.equal(learner.predict(x), first)
    assert asked
    hook.remove()


@pytest.mark.parametrize(("samples", "epochs"), [(0, 1), (0, 3), (20, 2), (1, 1)])
def test_a_step_at_the_public_pace_draws_what_a_rehearsal_would(
    data, work_on, samples: int, epochs: int
) -> None:
    options = {"epochs": epochs, "samples": samples, "batch_size": 8}
    step = Train("private", [CrossEntropy()], pace="public", **options)
    work = work_on(data)
    drawn = [list(one) for one in batches.epochs(step, work, "s", len(data.train))]
    per_epoch = -(-(samples or len(data.public)) // 8)
    assert [len(one) for one in drawn] == [per_epoch] * epochs
    rehearsed = batches.rehearsal(work, "s")
    for rows in itertools.chain.from_iterable(drawn):
        assert torch.equal(rows, next(rehearsed))


@pytest.mark.parametrize("on", ["private", "public"])
@pytest.mark.parametrize(("least", "passes"), [(0, [7]), (7, [7]), (9, [7, 2]), (21, [7, 7, 7])])
def test_least_steps_add_passes_of_which_the_last_may_be_cut(
    data, work_on, on: Any, least: int, passes: list[int]
) -> None:
    step = Train(on, [CrossEntropy()], batch_size=8, least_steps=least)
    work = work_on(data)
    drawn = [list(one) for one in batches.epochs(step, work, "s", 50)]
    assert [len(one) for one in drawn] == passes
    plain = batches.epochs(replace(step, epochs=3, least_steps=0), work, "s", 50)
    for ours, theirs in zip(drawn, plain, strict=False):
        assert all(map(torch.equal, ours, theirs))  # the same batches, cut in the last pass
    parts = [batches.progress_at(passes, number) for number in range(sum(passes) + 1)]
    assert parts[0] == 0
    assert parts[-1] == 1
    assert all(a < b for a, b in itertools.pairwise(parts))
    assert parts[-2] == pytest.approx(1 - 1 / sum(passes))  # every batch is an equal part

"""KD3A: votes at the server, weights by consensus focus."""

from __future__ import annotations

import pytest
import torch

from fedkt.clients import LearnerModels, TrainingOptions
from fedkt.errors import ConfigError
from fedkt.fusion import average
from fedkt.knowledge import Stack, Uploads
from fedkt.recipe import Load, Recipe, Weights
from fedkt.strategies.domains.kd3a import KD3A
from fedkt.wire import weights_of


class Keeping(KD3A):
    """Keeps what it was given."""

    def fuse(self, uploads: Uploads):
        self.seen = uploads
        return super().fuse(uploads)


def stack_of(*values: float) -> Stack:
    weights = torch.tensor(values)[:, None]
    return Stack(
        "weights", "weights", {"w": weights}, None, tuple(range(len(values))), torch.ones(2)
    )


def test_the_result_is_the_weighted_mean_of_sources_and_target(world, with_options) -> None:
    strategy = with_options(Keeping(local_epochs=2, gate_start=0.6, gate_end=0.6))
    run = world(learning_rate=0.02)
    result = run.start(strategy, 1)
    told = run.reports[0].diagnostics
    assert float(told["weights"].sum()) == pytest.approx(1)
    assert 0 < told["supported"] < 1
    assert float(told["weights"][-1]) == pytest.approx(told["supported"] / 5)
    models = [u.knowledge["weights"].tensors["1.weight"] for u in strategy.seen]
    models.append(strategy.model["target"].weights().tensors["1.weight"])
    by_hand = sum(float(w) * m for w, m in zip(told["weights"], models, strict=True))
    assert torch.allclose(torch.tensor(result.arrays["1.weight"].numpy()), by_hand, atol=1e-6)


def test_focus_moves_slowly_from_equal_weights(world, with_options) -> None:
    run = world(learning_rate=0.05)
    run.start(with_options(KD3A(local_epochs=3, gate_start=0.3, gate_end=0.3)), 2)
    first, second = (r.diagnostics for r in run.reports)
    expected = torch.ones(4, dtype=torch.float64)
    for told in (first, second):
        expected = 0.9 * expected + 0.1 * 4 * told["focus"]
        sources = (1 - told["supported"] / 5) * expected / 4
        assert torch.allclose(told["weights"][:-1].double(), sources, atol=1e-6)
    assert float(first["focus"].std()) > 0


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("model", ["linear", "resnet8-bn"])
@pytest.mark.parametrize("mixup", [0.0, 2.0])
def test_what_nobody_supports_is_neither_learnt_nor_averaged(
    world, with_options, federation, optimiser: str, model: str, mixup: float
) -> None:
    maker = LearnerModels(model, TrainingOptions(optimiser=optimiser))
    strategy = Keeping(gate_start=1.0, gate_end=1.0, mixup_alpha=mixup)
    with_options(strategy, models=maker)
    run = world(models=(model,), optimiser=optimiser)
    before = weights_of(run.population.initial_arrays(3, strategy.recipe())).tensors
    run.start(strategy, 1)
    told = run.reports[0].diagnostics
    assert told["supported"] == 0
    assert told["target_loss"] is None
    assert torch.allclose(told["weights"], torch.tensor([0.25] * 4 + [0.0]))
    after = strategy.model["target"].weights().tensors
    assert all(torch.equal(after[n], before[n]) for n in before)


def test_with_everything_supported_it_is_the_paper_s_rule(world, with_options) -> None:
    arrays = []
    for skip in (True, False):
        strategy = KD3A(gate_start=0.05, gate_end=0.05, skip_unsupported=skip)
        run = world()
        arrays.append(run.start(with_options(strategy), 2).arrays)
        assert [r.diagnostics["supported"] for r in run.reports] == [1, 1]
        assert float(run.reports[-1].diagnostics["weights"][-1]) == pytest.approx(1 / 5)
    assert all((arrays[0][n].numpy() == arrays[1][n].numpy()).all() for n in arrays[0])


@pytest.mark.parametrize("drawn", [0, 1, 20])
def test_the_target_learns_from_supported_samples_alone(
    world, with_options, monkeypatch, drawn: int
) -> None:
    options = {"local_epochs": 2, "gate_start": 0.6, "gate_end": 0.6, "target_samples": drawn}
    strategy = with_options(Keeping(**options))
    learnt, samples = [], []
    run = world(learning_rate=0.02)
    run.meet(strategy)
    train = strategy.model["target"].train

    def watched(step, knowledge, *names):
        learnt.append(knowledge["votes"])
        samples.append(step.samples)
        return train(step, knowledge, *names)

    monkeypatch.setattr(strategy.model["target"], "train", watched)
    run.start(strategy, 2)
    for votes, seen, report in zip(learnt, samples, run.reports, strict=True):
        share = report.diagnostics["supported"]
        assert 0 < share < 1
        assert int(votes.counts.min()) >= 1
        assert len(votes.ids) == round(50 * share)
        assert seen == (max(1, round(share * drawn)) if drawn else 0)


def test_the_paper_s_rule_learns_and_averages_all(world, with_options) -> None:
    strategy = KD3A(gate_start=1.0, gate_end=1.0, mixup_alpha=0, skip_unsupported=False)
    run = world()
    run.start(with_options(strategy), 1)
    told = run.reports[0].diagnostics
    assert told["supported"] == 0
    assert torch.allclose(told["weights"], torch.full((5,), 0.2))
    assert 0 < told["target_loss"] < 0.01


def test_the_gate_rises_over_the_run(world, with_options) -> None:
    run = world()
    run.start(with_options(KD3A(gate_start=0.2, gate_end=0.5)), 3)
    gates = [r.diagnostics["gate"] for r in run.reports]
    assert gates == pytest.approx([0.2, 0.3, 0.4])


def test_target_weight_is_the_target_s_own(world, with_options) -> None:
    run = world()
    run.start(with_options(KD3A(target_weight=0.0)), 1)
    assert float(run.reports[0].diagnostics["weights"][-1]) == 0
    strategy = KD3A(target_weight=2.0)
    assert strategy._weights((4,), torch.ones(1), 1.0).tolist() == [0.0, 1.0]
    assert strategy._weights((4,), torch.ones(1), 0.25).tolist() == [0.75, 0.25]


def test_absent_sources_keep_their_focus() -> None:
    strategy = KD3A(momentum=0.5)
    strategy._weights((0, 1), torch.tensor([1.0, 0.0]), 1.0)
    assert strategy.memory["focus"] == {0: 1.5, 1: 0.5}
    strategy._weights((1, 2), torch.tensor([0.0, 1.0]), 1.0)
    assert strategy.memory["focus"] == {0: 1.5, 1: 0.25, 2: 1.5}


def test_batch_norm_statistics_are_averaged_with_the_same_weights(world, with_options) -> None:
    strategy = with_options(Keeping(local_epochs=1), model="resnet8-bn")
    run = world(models=("resnet8-bn",))
    result = run.start(strategy, 1)
    assert not [n for n in result.arrays if n.endswith("num_batches_tracked")]
    name = next(n for n in result.arrays if n.endswith("running_var"))
    weights = run.reports[0].diagnostics["weights"]
    parts = [u.knowledge["weights"].tensors[name] for u in strategy.seen]
    parts.append(strategy.model["target"].weights().tensors[name])
    by_hand = sum(float(w) * p for w, p in zip(weights, parts, strict=True))
    assert torch.allclose(torch.tensor(result.arrays[name].numpy()), by_hand, rtol=1e-4)


def test_a_source_that_answers_nan_only_loses_its_vote(world, with_options) -> None:
    strategy = with_options(KD3A())
    world().meet(strategy)
    linear = {n: t[None] for n, t in strategy.model["target"].weights().tensors.items()}
    huge = {
        n: torch.full_like(t, 3e38)
        * (-1) ** torch.arange(t.shape[1])[None].view(1, -1, *[1] * (t.dim() - 2))
        for n, t in linear.items()
    }
    answers = strategy._answers(Stack("weights", "weights", huge, None, (0,), torch.ones(1)), 0)
    assert bool(torch.isfinite(answers).all())
    assert torch.allclose(answers.sum(-1), torch.ones(len(answers)))


def test_target_labels_change_nothing(world, with_options) -> None:
    runs = []
    for labels in (torch.arange(50) % 10, torch.zeros(50, dtype=torch.int64)):
        strategy = with_options(KD3A(), public_labels=labels)
        assert strategy.samples.public.y is None
        runs.append(world().start(strategy, 1).arrays)
    assert all((runs[0][n].numpy() == runs[1][n].numpy()).all() for n in runs[0])


def test_average_takes_any_weights() -> None:
    fused = average(stack_of(1.0, 5.0), torch.tensor([0.25, 0.75])).shared["weights"]
    assert fused.tensors["w"].tolist() == [4.0]


def test_recipe() -> None:
    recipe = KD3A(local_epochs=3, local_samples=512).recipe()
    assert (recipe.learn[1].epochs, recipe.learn[1].samples) == (3, 512)
    assert recipe.learn[0] == Load("weights")
    assert recipe.share == (Weights(),)
    assert not recipe.needs_public, "the clients need not know the target"
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gate_start": 0.0}, "must be .* in"),
        ({"gate_end": 1.2}, "must be .* in"),
        ({"momentum": 1.0}, "momentum must be .* in"),
        ({"target_weight": 2.5}, "target_weight must be .* in"),
        ({"mixup_alpha": -1.0}, "mixup_alpha must be .* at least 0"),
        ({"target_epochs": -1}, "epochs must be .* at least 0"),
        ({"target_samples": -1}, "samples must be .* at least 0"),
    ],
)
def test_options_are_checked(options, said) -> None:
    with pytest.raises(ConfigError, match=said):
        KD3A(**options)


def test_it_needs_samples_at_the_server(world) -> None:
    strategy = KD3A()
    with pytest.raises(ConfigError, match="kd3a works on public samples at the server"):
        world().start(strategy, 1)


def test_the_target_is_learnt_without_its_labels(world, with_options, federation) -> None:
    run = world(learning_rate=0.05)
    strategy = with_options(KD3A(local_epochs=5, target_epochs=3, gate_start=0.5, gate_end=0.5))
    arrays = run.start(strategy, 3).arrays
    supported = [r.diagnostics["supported"] for r in run.reports]
    assert supported[-1] > supported[0] > 0
    model = strategy.model["target"]
    model.load_weights(weights_of(arrays))
    right = model.predict(strategy.samples.public.x).argmax(-1) == torch.as_tensor(
        federation.public_y
    )
    assert float(right.double().mean()) > 0.4  # by chance: 0.1

"""FADA: what travels, and weights by attention."""

from __future__ import annotations

import pytest
import torch

from fedkt.adaptation.disentangling import DisentanglerCritics
from fedkt.errors import ConfigError
from fedkt.fusion import average
from fedkt.fusion.attention import dynamic_attention
from fedkt.knowledge import Uploads
from fedkt.recipe import Load, Recipe, weighted
from fedkt.strategies.domains.fada import FADA


class Keeping(FADA):
    """Keeps what it was given and what it made."""

    def fuse(self, uploads: Uploads):
        self.seen = uploads
        self.made = super().fuse(uploads)
        return self.made


def test_the_first_round_averages_equally_and_the_next_by_attention(world, with_options) -> None:
    strategy = with_options(Keeping(), model="mlp")
    run = world(models=("mlp",))
    result = run.start(strategy, 2)
    first, second = (r.diagnostics for r in run.reports)
    assert torch.allclose(first["attention"], torch.full((4,), 0.25))
    expected = dynamic_attention(first["looseness"], second["looseness"], 0.1)
    assert torch.allclose(second["attention"], expected)
    assert float(second["attention"].std()) > 0
    by_hand = average(strategy.seen["weights"], expected).shared["weights"].tensors
    for name, array in result.arrays.items():
        assert torch.allclose(torch.tensor(array.numpy()), by_hand[name], atol=1e-6)
    assert set(strategy.memory["looseness"]) == {0, 1, 2, 3}


def test_the_target_s_features_are_those_of_the_global_model(world, with_options) -> None:
    strategy = with_options(Keeping(target_samples=20), model="mlp")
    world(models=("mlp",)).start(strategy, 1)
    target, weights = strategy.made.shared["target"], strategy.made.shared["weights"]
    assert target.kind == "features"
    assert target.values.shape == (20, 64)
    model, x = strategy.model["global"], strategy.samples.public.x
    model.load_weights(weights)
    assert torch.equal(target.values, model.features(x[target.ids]))


def test_every_round_draws_the_target_anew_and_first_gives_the_first_model_s(
    world, with_options
) -> None:
    strategy = with_options(FADA(target_samples=20), model="mlp")
    weights = world(models=("mlp",)).meet(strategy)
    first = strategy.first(weights).shared["target"]
    x = strategy.samples.public.x[first.ids]
    assert torch.equal(first.values, strategy.model["global"].features(x))
    again = strategy.first(weights).shared["target"]
    assert torch.equal(first.ids, again.ids)
    assert not torch.equal(first.ids, strategy._target(weights, 1).ids)
    whole = with_options(FADA(target_samples=0), model="mlp")
    world(models=("mlp",)).meet(whole)
    assert torch.equal(whole.first(weights).shared["target"].ids, torch.arange(50))


def test_clients_align_from_the_first_round(world, with_options) -> None:
    strategy = with_options(Keeping(disentangle=False), model="mlp")
    run = world(models=("mlp",))
    begin = run.population.initial_arrays(3, strategy.recipe())
    run.start(strategy, 1)
    judge = "heads.identifier.0.weight"
    before = torch.tensor(begin[judge].numpy())
    for upload in strategy.seen:
        assert not torch.equal(upload.knowledge["weights"].tensors[judge], before)


def test_a_model_is_asked_without_heads(world, with_options) -> None:
    strategy = with_options(FADA(), model="mlp")
    run = world(models=("mlp",))
    run.start(strategy, 1)
    assert all(0 <= a <= 1 for a in run.reports[0].per_client("global-accuracy"))
    assert any(n.startswith("heads.") for n in run.model_of(0))


def test_recipe() -> None:
    recipe = FADA(local_epochs=2).recipe()
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.given == ("target",)
    assert recipe.needs("learn") == ("weights", "target")
    assert recipe.absorb == (Load("weights"),)
    assert not recipe.needs_public
    assert len(recipe.heads) == 7
    plain = FADA(disentangle=False).recipe()
    assert [h.name for h in plain.heads] == ["identifier"]
    terms = [type(t) for _, t in weighted(plain.learn[1].terms)]
    assert DisentanglerCritics not in terms
    assert len(terms) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"adversarial": -1}, "adversarial must be .* at least 0"),
        ({"disentangling": float("nan")}, "disentangling must be .* at least 0"),
        ({"target_samples": -1}, "target_samples must be"),
        ({"beside": 0}, "beside must be"),
        ({"hidden": 0}, "hidden must be .* at least 1"),
        ({"temperature": 0.0}, "temperature must be .* above 0"),
        ({"information": -0.1}, "information must be .* at least 0"),
        ({"local_epochs": -1}, "epochs must be .* at least 0"),
    ],
)
def test_options_are_checked(options, said) -> None:
    with pytest.raises(ConfigError, match=said):
        FADA(**options)


def test_target_labels_change_nothing(world, with_options) -> None:
    runs = []
    for labels in (torch.arange(50) % 10, torch.zeros(50, dtype=torch.int64)):
        strategy = with_options(FADA(), model="mlp", public_labels=labels)
        runs.append(world(models=("mlp",)).start(strategy, 2).arrays)
    assert all((runs[0][n].numpy() == runs[1][n].numpy()).all() for n in runs[0])

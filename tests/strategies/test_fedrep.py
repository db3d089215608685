"""FedRep: which part is trained when, what is averaged, and its limit."""

from __future__ import annotations

import torch

from fedkt.clients import TrainingOptions, Work
from fedkt.clients.learners.making import make_learner
from fedkt.data import FederationSpec, build_federation
from fedkt.strategies.weights.fedrep import FedRep

from .by_hand import uploads_of_weights

HEAD, BODY = {"3.weight", "3.bias"}, {"1.weight", "1.bias"}  # of the model mlp


def test_the_head_first_then_the_body() -> None:
    """Algorithm 1: equation 5 with the server's body, then equation 6 with the new head."""
    recipe = FedRep(head_epochs=2, body_epochs=1).recipe()
    learner = make_learner("mlp", (1, 8, 8), 10)
    learner.reset(0, 0)
    data = build_federation(FederationSpec(clients=2, samples_per_client=24)).client(0)
    work = Work(data, {}, TrainingOptions("sgd", 0.05, momentum=0.0), 0, 1, 0)
    moved = []
    for number, step in enumerate(recipe.learn[1:]):
        before = learner.weights().tensors
        step.run(learner, work, f"learn/{number}")
        after = learner.weights().tensors.items()
        moved.append({name for name, tensor in after if not torch.equal(tensor, before[name])})
    assert moved == [HEAD, BODY]
    assert [step.epochs for step in recipe.learn[1:]] == [2, 1]


def test_the_mean_is_by_examples() -> None:
    told = uploads_of_weights("body", (10, {"w": torch.ones(2)}), (30, {"w": 5 * torch.ones(2)}))
    assert FedRep().fuse(told).shared["body"].tensors["w"].tolist() == [4.0, 4.0]


def test_bodies_become_equal_and_heads_stay(world, with_options) -> None:
    run = world(models=("mlp",))
    run.start(with_options(FedRep(head_epochs=2), model="mlp"), 2)
    first, second = run.model_of(0), run.model_of(1)
    assert {n for n in first if torch.equal(first[n], second[n])} == BODY
    sizes = sum(first[name].numel() for name in BODY)
    assert [report.traffic.up for report in run.reports] == [4 * 4 * sizes] * 2


def test_without_any_training_the_mean_body_is_the_first_one(world, with_options) -> None:
    """With τ_h = τ_φ = 0 the body that all begin with, and each client's own head, stay."""
    run = world(models=("mlp",))
    strategy = with_options(FedRep(head_epochs=0, body_epochs=0), model="mlp")
    body = run.population.initial_arrays(3, strategy.recipe())
    run.start(strategy, 1)
    for client in range(4):
        for name in BODY:
            told = torch.tensor(body[name].numpy())
            assert torch.allclose(run.model_of(client)[name], told, atol=1e-6)

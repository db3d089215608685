"""The laws of learners and of the models that they train."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import torch

from fedkt import snapshot
from fedkt.clients.learners.base import Learner, Work
from fedkt.data.federation import Federation
from fedkt.knowledge import Knowledge
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.recipe import Predict, Recipe, Train
from fedkt.simulations.engines.population import learner_for
from fedkt.testing.kit import difference, leaves
from fedkt.testing.odd import ordinary
from fedkt.training import TrainingOptions

SEED, CLIENT, OTHER = 3, 1, 2
PRIVATE = Train(on="private", terms=[CrossEntropy()])
PUBLIC = Train(on="public", terms=[Distil(KL())])
RECIPE = Recipe(learn=[PRIVATE], share=[Predict()], absorb=[PUBLIC])


@lru_cache(maxsize=1)
def small_federation() -> Federation:
    """Return four clients with digits, 8 × 8 pixels and ten classes, and a public set."""
    return ordinary(4)


def check_learner(learner: str | Callable[[], Learner], recipe: Recipe = RECIPE) -> None:
    """Require that a learner keeps the laws; the data are digits, ``[1, 8, 8]`` with ten classes.

    One object serves many clients: it is what its state says and nothing else, in memory and in a
    file; asking it changes nothing; seed and client alone decide the untrained model, and with the
    step and the data the trained one; answers are finite float32 ``[n, C]``; it can be trained.

    Parameters
    ----------
    learner : str or callable
        A model's name or ``file.py:Class``, or a function that returns a new learner.
    recipe : Recipe
        A recipe that it follows; by default knowledge distillation on a public set.

    Raises
    ------
    AssertionError
        Naming the first law that is broken.
    """
    make = (
        partial(learner_for, learner, small_federation()) if isinstance(learner, str) else learner
    )
    first, second = make(), make()
    reason = first.refuses(recipe)
    assert reason is None, f"it refuses the recipe: {reason}"
    name = first.architecture
    assert name == second.architecture, "two learners of one model have one architecture"
    assert first.num_classes == small_federation().num_classes, f"{name}: num_classes is not C"
    for each in (first, second):
        each.follow(recipe)
    _answers(first, name)
    _untrained_by_seed_and_client(first, second, name)
    _trained_by_names_alone(first, second, recipe, name)
    _is_its_state(first, second, recipe, name)


def work_of(client: int, recipe: Recipe) -> Work:
    """Return a client's work in round 1, with made-up fused knowledge of what is shared."""
    data = small_federation().client(client)
    known: dict[str, Knowledge] = {}
    for share in recipe.share:
        ids = share.ids(len(data.public or ()), SEED, 1)
        if share.kind in ("logits", "probabilities") and ids is not None:
            random = torch.Generator().manual_seed(client)
            values = torch.randn(len(ids), data.num_classes, generator=random).softmax(-1)
            values = values.log() if share.kind == "logits" else values
            known[share.name] = Knowledge.rows(share.kind, values, ids)
    options = TrainingOptions(batch_size=8, public_batch_size=16)
    return Work(data, known, options, SEED, 1, client, rounds=2)


def train(learner: Learner, recipe: Recipe, client: int) -> None:
    """Train by all steps of a recipe."""
    work = work_of(client, recipe)
    for phase in ("start", "learn", "absorb"):
        for index, step in enumerate(getattr(recipe, phase)):
            step.run(learner, work, f"{phase}/{index}")


def _answers(learner: Learner, name: str) -> None:
    x = small_federation().client(CLIENT).train.x
    learner.reset(SEED, CLIENT)
    for n in (len(x), 1, 0):
        logits = learner.predict(x[:n])
        right = logits.shape == (n, learner.num_classes) and logits.dtype == torch.float32
        assert right, f"{name}: logits are float32 [n, C]; of {n} rows {tuple(logits.shape)}"
        assert bool(logits.isfinite().all()), f"{name}: logits are finite"
    before = leaves(learner.state())
    learner.predict(x)
    changed = difference(before, leaves(learner.state()))
    assert changed is None, f"{name}: asking a model changes nothing; but {changed}"


def _untrained_by_seed_and_client(first: Learner, second: Learner, name: str) -> None:
    first.reset(SEED, CLIENT)
    torch.randn(3)  # the global generator has no part in it
    second.reset(SEED, CLIENT)
    apart = difference(leaves(first.state()), leaves(second.state()))
    assert apart is None, f"{name}: seed and client decide the untrained model; but {apart}"


def _trained_by_names_alone(first: Learner, second: Learner, recipe: Recipe, name: str) -> None:
    first.reset(SEED, CLIENT)
    before = first.predict(small_federation().client(CLIENT).train.x)
    train(first, recipe, CLIENT)
    after = first.predict(small_federation().client(CLIENT).train.x)
    assert not torch.equal(before, after), f"{name}: training changes the answers"
    torch.randn(3)
    second.reset(SEED, CLIENT)
    train(second, recipe, CLIENT)
    apart = difference(leaves(first.state()), leaves(second.state()))
    law = "seed, round, client, step and data decide what training does"
    assert apart is None, f"{name}: {law}; but {apart}"


def _is_its_state(first: Learner, second: Learner, recipe: Recipe, name: str) -> None:
    """Let the second serve others in between, and go on from a file."""
    first.reset(SEED, CLIENT)
    train(first, recipe, CLIENT)
    state = first.state()
    kept = leaves(state)
    second.reset(SEED, OTHER)
    for _ in range(2):
        train(second, recipe, OTHER)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state"
        snapshot.save(file, state)
        second.load_state(snapshot.load(file))
    x = small_federation().client(CLIENT).test.x
    same = torch.equal(first.predict(x), second.predict(x))
    assert same, f"{name}: a client's state is all of it; but its answers differ after loading"
    for each in (first, second):
        train(each, recipe, CLIENT)
    apart = difference(leaves(first.state()), leaves(second.state()))
    assert apart is None, f"{name}: from its state a client goes on the same; but {apart}"
    changed = difference(kept, leaves(state))
    assert changed is None, f"{name}: a state is a copy; but later training changes it: {changed}"

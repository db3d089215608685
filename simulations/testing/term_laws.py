"""The laws of loss terms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from fedkt.clients.cohorts import trial
from fedkt.clients.learners.torch import TorchLearner
from fedkt.knowledge import Knowledge
from fedkt.objectives import HeadPart, Term
from fedkt.recipe import Recipe, Train
from fedkt.simulations.engines.population import learner_for, some_samples
from fedkt.steps import Beside, Data
from fedkt.testing.kit import difference, leaves
from fedkt.testing.learner_laws import CLIENT, SEED, small_federation, work_of


def check_term(
    term: Term,
    knowledge: Mapping[str, Knowledge] | None = None,
    on: Data = "private",
    heads: Sequence[HeadPart] = (),
    model: str = "mlp",
) -> None:
    """Require that a term keeps the laws, in a network's training on digits.

    It travels as plain data; its loss is finite; it trains the network; the same batches give the
    same steps to the bit; and a cohort, which pads batches with weight 0 and computes under
    ``torch.func.vmap``, takes the steps that the loop takes, unless the term says
    ``executor = "loop"``.

    Parameters
    ----------
    term : Term
        With its options.
    knowledge : Mapping[str, Knowledge], optional
        Fused knowledge that it reads, by name. Names that are left out get made-up probabilities
        of the public samples, ids 0, ..., 39.
    on : {"private", "public"}
        The data that it is a term on.
    heads : Sequence[HeadPart]
        Networks beside the model that it uses.
    model : str
        The network; inputs are ``[1, 8, 8]``, with ten classes.

    Raises
    ------
    AssertionError
        Naming the first law that is broken.
    """
    name = type(term).__name__
    made_up = {n: _probabilities() for n in term.needs()}
    known = {**made_up, **(knowledge or {})}
    beside = Beside(batch_size=8) if getattr(term, "needs_beside", False) else None
    step = Train(on=on, terms=[term], beside=beside)
    recipe = Recipe(learn=[step], heads=tuple(heads), given=tuple(known))
    assert Recipe.from_json(recipe.to_json()) == recipe, f"{name}: it travels as plain data"
    learner = learner_for(model, small_federation()).as_network()
    assert learner is not None, f"{name}: {model} is no network"
    learner.follow(recipe)
    first, second = (_trained(learner, step, known, name) for _ in range(2))
    apart = difference(first, second)
    assert apart is None, f"{name}: the same batches give the same steps; but {apart}"
    if getattr(term, "executor", None) == "loop":
        return
    public = small_federation().client(CLIENT).public
    samples = some_samples(small_federation())
    reason = trial.refuses(learner, recipe, samples, public, known)
    assert reason is None, f"{name}: a cohort does what the loop does; but {reason}"


def _probabilities() -> Knowledge:
    public = small_federation().client(CLIENT).public
    assert public is not None
    shape = len(public), small_federation().num_classes
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(SEED))
    return Knowledge.rows("probabilities", values.softmax(-1), public.ids)


def _trained(
    learner: TorchLearner, step: Train, known: Mapping[str, Knowledge], name: str
) -> dict[str, object]:
    """Return the leaves of a client's state after the step."""
    learner.reset(SEED, CLIENT)
    untrained = leaves(learner.state()["model"])
    work = replace(work_of(CLIENT, Recipe(learn=[step], given=tuple(known))), knowledge=known)
    loss = learner.train(step, work, "learn/0")
    assert loss is not None, f"{name}: its knowledge is there, and it trains nothing"
    assert math.isfinite(loss), f"{name}: its loss is {loss}"
    trained = leaves(learner.state()["model"])
    assert difference(untrained, trained), f"{name}: its gradient is 0 everywhere"
    return trained

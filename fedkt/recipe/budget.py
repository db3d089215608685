"""The private budget of a recipe, and training alone with the same budget.

A recipe trains on private samples in its private steps, in the private batches that public steps
rehearse, and in the copy of a read-out. The equal baseline sees as many, step for step.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

from fedkt.objectives import CrossEntropy
from fedkt.recipe.recipe import Recipe
from fedkt.steps import Step, Train, trainings, weighted


def alone(recipe: Recipe, rehearsal: bool = True) -> Recipe:
    """Return the recipe of training alone with the private budget of another recipe.

    It minimises the cross-entropy, in the order of the recipe's phases. The copy that
    read-outs such as ``mix`` train after every round is thrown away in the next, so what is
    measured has seen it once: it counts once, before the first round.

    Parameters
    ----------
    recipe : Recipe
        The recipe whose private training is matched.
    rehearsal : bool
        Whether rehearsal and the read-out's copy count; without them it has the same private
        epochs and sees fewer samples.

    Returns
    -------
    Recipe
        With ``start`` and ``learn`` alone; it shares nothing.
    """
    learn = _private((*recipe.learn, *recipe.absorb), recipe, rehearsal)
    start = _private(recipe.start, recipe, rehearsal)
    if rehearsal and recipe.personal.copies:
        start += [s for s in _private(recipe.learn, recipe, rehearsal) if s.pace is None]
    return Recipe(start=_merged(start), learn=_merged(learn))


def described(recipe: Recipe, public: int, public_batch: int) -> str:
    """Return a recipe's private training in words: ``5 epochs + 21 rehearsed batches``.

    Parameters
    ----------
    recipe : Recipe
        The recipe.
    public : int
        M, public samples.
    public_batch : int
        The batch size for public data.
    """
    plain = alone(recipe)
    clauses = [
        _step_described(step, public, public_batch) + when
        for steps, when in ((plain.learn, ""), (plain.start, " once"))
        for step in trainings(steps)
    ]
    return " + ".join(clauses) or "0 epochs"


def _private(steps: Iterable[Step], recipe: Recipe, rehearsal: bool) -> list[Train]:
    """Return the private training of some steps, each as a step of its own."""
    steps_alone = []
    for step in trainings(steps):
        if step.is_idle:
            continue
        if step.on == "private" and (rehearsal or step.pace is None):
            samples = step.samples
        elif step.on == "public" and step.rehearse and rehearsal:
            samples = limited(step, recipe).samples
        else:
            continue
        steps_alone.append(
            Train(
                on="private",
                terms=[CrossEntropy()],
                epochs=step.epochs,
                batch_size=step.batch_size,
                samples=samples,
                pace="public" if step.on == "public" else step.pace,
                least_steps=step.least_steps,
            )
        )
    return steps_alone


def limited(step: Train, recipe: Recipe) -> Train:
    """Return a step whose ``samples`` are the most public samples that its epoch sees; 0 = all.

    A step on private data is returned as it is.
    """
    if step.on == "private":
        return step
    read = {name for _, term in weighted(step.terms) for name in term.needs()}
    drawn = [s.samples for s in recipe.share if s.name in read]
    return replace(step, samples=min(filter(None, [step.samples, *drawn]), default=0))


def _merged(steps: Iterable[Train]) -> list[Train]:
    """Return the steps with neighbours joined that differ in epochs alone."""

    def like(step: Train) -> Train:
        # Of different epochs, one may need `least_steps` and another not.
        return step if step.least_steps else replace(step, epochs=1)

    groups = ((step, list(same)) for step, same in itertools.groupby(steps, key=like))
    return [
        replace(
            step,
            epochs=sum(s.epochs for s in same),
            least_steps=sum(s.least_steps for s in same),
        )
        for step, same in groups
    ]


def _step_described(step: Train, public: int, public_batch: int) -> str:
    if step.pace == "public":
        return f"{sum(step.passes(public, step.batch_size or public_batch))} rehearsed batches"
    if not step.epochs:
        return f"{step.least_steps} steps"
    least = f", at least {step.least_steps} steps" if step.least_steps else ""
    return f"{step.epochs} epochs{f' of {step.samples} samples' if step.samples else ''}{least}"

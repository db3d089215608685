"""The phases of a recipe on one learner: steps, shares, evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from fedkt.answers import accuracy, correct, is_finite
from fedkt.clients.learners.base import Learner, Work
from fedkt.data.samples import ClientData, Samples
from fedkt.errors import ConfigError, NotFiniteError
from fedkt.knowledge import Knowledge
from fedkt.metrics import Measured
from fedkt.recipe import Recipe, Step, trainings

# From inputs [n, ...] and the client's logits for them [n, C] to its personal logits [n, C].
# It takes the logits because an evaluation of both answers has them already: only a blend with
# a refreshed copy asks a model again.
PersonalAnswer = Callable[[Tensor, Tensor], Tensor]

Figures = dict[str, float | list[float]]  # of a client, by name


def refuses(recipe: Recipe, learner: Learner, data: ClientData) -> str | None:
    """Return why a client cannot follow a recipe, in one line; None if it can."""
    if refusal := learner.refuses(recipe):
        return refusal
    if recipe.needs_public and data.public is None:
        return "the recipe needs a public set and it holds none"
    if len(data.train) and not data.train.x.is_floating_point():
        steps = trainings((*recipe.start, *recipe.learn, *recipe.absorb))
        if any(step.mixup or step.transforms for step in steps):
            return "the recipe changes inputs, and token ids cannot be mixed or transformed"
    makes = (*recipe.share, *recipe.remembered)
    refusals = (part.refuses(learner, data) for part in makes)
    return next((refusal for refusal in refusals if refusal), None)


def run_steps(learner: Learner, steps: Sequence[Step], work: Work, phase: str) -> float | None:
    """Run the steps of a phase; return the loss of the last step that has one.

    Raises
    ------
    NotFiniteError
        If training has diverged; see :func:`sound`.
    """
    losses = [run_step(learner, s, work, f"{phase}/{index}") for index, s in enumerate(steps)]
    return next((loss for loss in reversed(losses) if loss is not None), None)


def run_step(learner: Learner, step: Step, work: Work, stream: str) -> float | None:
    """Run a step; return its loss if it has one; see :func:`run_steps`.

    Raises
    ------
    ConfigError
        If the step trains and does not say so: training alone would get a smaller budget.
    """
    before = len(work.done)
    loss = sound(step.run(learner, work, stream))
    if len(work.done) > before and step.as_train() is None:
        raise ConfigError(
            f"the step {type(step).__name__} trains and its as_train() gives no Train, so that "
            "training alone cannot have the same budget"
        )
    return loss


def sound(loss: float | None) -> float | None:
    """Return the loss of a step.

    Raises
    ------
    NotFiniteError
        If it is not finite. Then the model is not either, or will not be after the next step.
    """
    if loss is not None and not math.isfinite(loss):
        raise NotFiniteError("training has diverged: the loss or the weights are not finite")
    return loss


def share(learner: Learner, recipe: Recipe, work: Work) -> dict[str, Knowledge]:
    """Return the knowledge that the client uploads, by share name.

    Raises
    ------
    NotFiniteError
        If any of it is not finite. The server would reject it too, but the client must not keep
        the model that made it.
    """
    made = {part.name: part.make(learner, work) for part in recipe.share}
    for name, knowledge in made.items():
        if not all(map(is_finite, knowledge.tensors.values())):
            raise NotFiniteError(f"the {knowledge.kind} to share as {name!r} hold NaN or infinity")
    return made


def evaluate(
    learner: Learner,
    data: ClientData,
    personalised: str = "split",
    readout: PersonalAnswer | None = None,
    world: str = "model",
    metrics: Sequence[Measured] = (),
) -> Figures:
    """Return the accuracies of a client's model, and other metrics of the same answers.

    Parameters
    ----------
    learner : Learner
        The learner, loaded with the client's state.
    data : ClientData
        Data of the client.
    readout : callable, optional
        The client's personal answer, from inputs ``[n, ...]`` and its logits for them
        ``[n, C]``, for personalised and validation accuracy; by default the logits, which
        global accuracy always uses.
    personalised : {"split", "matched"}
        Personalised accuracy on the client's own held-out samples; or the expected accuracy on
        the common test set (with domains: on the part of the client's domain) under the
        client's class distribution q, Σ_c q_c · accuracy_c, which has far less sampling noise
        when a client holds out a dozen samples. q is the distribution that its samples were
        drawn from if known (the partition ``draw``), else the class frequencies of its
        training samples.
    world : str
        Whose logits count as global accuracy; see ``Recipe``.
    metrics : Sequence[Measured]
        What to measure beside accuracy.

    Returns
    -------
    Figures
        ``personalised-accuracy``, ``validation-accuracy``, ``global-accuracy`` in [0, 1], and the
        same of each metric (``personalised-macro-f1``), each only if there are samples to measure
        it on. Tables are flat lists, row by row.

    Raises
    ------
    NotFiniteError
        If an answer is not finite.
    """
    figures: Figures = {}
    for on, part in answers(learner, data, personalised, readout, world).items():
        like = data if on == "personalised" and personalised == "matched" else None
        figures |= _figures(on, part, metrics, like)
    return figures


class Answers(NamedTuple):
    """Logits ``[n, C]`` for labelled samples, their labels ``[n]`` and their ids ``[n]``."""

    logits: Tensor
    labels: Tensor
    ids: Tensor


def answers(
    learner: Learner,
    data: ClientData,
    personalised: str = "split",
    readout: PersonalAnswer | None = None,
    world: str = "model",
) -> dict[str, Answers]:
    """Return the answers that a client is measured by; see :func:`evaluate`.

    Returns
    -------
    dict[str, Answers]
        ``validation``, ``personalised`` and ``global``, each only if there are labelled samples.
    """
    personal = partial(_personal, learner, readout)
    found = {"validation": personal(data.validation)}
    if personalised == "split":
        found["personalised"] = personal(data.test)
    common = data.common_test
    if common is not None and len(common):
        assert common.y is not None
        logits = global_logits(learner, common.x, world)
        found["global"] = Answers(logits, common.y, common.ids)
        if personalised == "matched":
            samples = data.matched_test
            assert samples is not None
            known = samples is common and world == "model"
            found["personalised"] = personal(samples, logits if known else None)
    return {on: part for on, part in found.items() if part is not None}


def common_accuracy(learner: Learner, data: ClientData, world: str = "model") -> float | None:
    """Return the accuracy of logits on the common test set, None without one."""
    common = data.common_test
    if common is None or common.y is None or not len(common):
        return None
    return accuracy(global_logits(learner, common.x, world), common.y)


def global_logits(learner: Learner, x: Tensor, world: str) -> Tensor:
    """Return the logits that global accuracy is of, ``[n, C]``; only nets have other worlds."""
    return learner.predict(x) if world == "model" else learner.predict(x, world)


def _personal(
    learner: Learner,
    readout: PersonalAnswer | None,
    samples: Samples,
    logits: Tensor | None = None,
) -> Answers | None:
    """Return the personal answers for samples, of their logits if known; None without labels."""
    if not len(samples) or samples.y is None:
        return None
    logits = learner.predict(samples.x) if logits is None else logits
    personal = logits if readout is None else readout(samples.x, logits)
    return Answers(personal, samples.y, samples.ids)


def _figures(
    on: str, answers: Answers, metrics: Sequence[Measured], like: ClientData | None = None
) -> Figures:
    """Return accuracy and metrics of answers by name, ``on`` in front.

    Parameters
    ----------
    like : ClientData, optional
        The client whose class distribution the samples stand for; None for their own.
    """
    if like is None:
        values: Figures = {"accuracy": accuracy(answers.logits, answers.labels)}
        weight: Tensor | None = None
    else:
        shares, there = _measurable(answers.labels, like)
        if shares.sum() == 0:
            return {}
        values = {"accuracy": _matched(answers, shares, there)}
        weight = (shares / there.clamp_min(1))[answers.labels]
    values |= _metrics(answers, weight, [m for m in metrics if m.facts.stands_on(on)])
    return {f"{on}-{name}": value for name, value in values.items()}


def _metrics(
    answers: Answers, weight: Tensor | None, metrics: Sequence[Measured]
) -> Iterator[tuple[str, float | list[float]]]:
    """Yield name and value of the metrics that are defined; samples of no weight are left out.

    Without ``weight`` all samples weigh the same.
    """
    if not metrics:
        return
    if weight is None:
        weight = torch.ones(len(answers.labels), dtype=torch.float64)
    rows = weight > 0
    weight = weight[rows] / weight[rows].mean()
    for metric in metrics:
        value = metric.compute(answers.logits[rows], answers.labels[rows], weight)
        if value is not None and metric.facts.axes:
            yield metric.facts.name, torch.as_tensor(value).double().flatten().tolist()
        elif value is not None:
            yield metric.facts.name, float(value)


def _measurable(labels: Tensor, data: ClientData) -> tuple[Tensor, Tensor]:
    """Return a client's shares of the classes with test samples, and the numbers of these."""
    shares = data.class_counts.double() if data.class_shares is None else data.class_shares
    there = torch.bincount(labels, minlength=data.num_classes).double()
    return shares * (there > 0), there  # a class without test samples cannot be measured


def _matched(answers: Answers, shares: Tensor, there: Tensor) -> float:
    """Return the expected accuracy of answers under a distribution of classes."""
    right = correct(answers.logits, answers.labels).double()
    hits = torch.bincount(answers.labels, weights=right, minlength=len(shares))
    return float((shares / shares.sum() * hits / there.clamp_min(1)).sum())

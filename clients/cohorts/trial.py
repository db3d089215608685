"""The trial of the cohort executor against the loop, before a run, on a few real samples.

In a cohort, a network or a term may do something else than in the loop, without an error: a
buffer that is replaced instead of changed in place is lost, a mean that is not weighted counts
padding. So every kind of training is done both ways for a few clients, and compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.clients.cohorts import cohort
from fedkt.clients.cohorts.cohort import Row
from fedkt.clients.learners.base import Work
from fedkt.clients.learners.torch import TorchLearner
from fedkt.data.samples import ClientData, Samples
from fedkt.knowledge import SAMPLE_KINDS, Knowledge, Upload, Uploads
from fedkt.recipe import Recipe, Train
from fedkt.shares import Asked, Share
from fedkt.steps import Step
from fedkt.text import one_line
from fedkt.training import TrainingOptions

BATCH = 4
# Samples of the clients: batches that are padded, and a client that is done before the others.
UNEVEN, EVEN = (7, 6, 4), (6, 6)
SAMPLES = sum(UNEVEN)  # used at most
OTHERS = 100  # the first id of clients whose models make knowledge up
# Tolerance by precision: relative to a tensor's own movement, and to the largest of all.
APART = {torch.float64: (1e-6, 1e-9), torch.float32: (1e-2, 1e-3)}
OPTIONS = TrainingOptions("sgd", 0.01, 0.0, batch_size=BATCH, public_batch_size=BATCH)


def refuses(
    learner: TorchLearner,
    recipe: Recipe,
    samples: Samples,
    public: Samples | None,
    given: Mapping[str, Knowledge] | None = None,
    training: TrainingOptions = OPTIONS,
) -> str | None:
    """Return why a network's clients must not train in cohorts, in one line; None if they can.

    Both executors take every training step of the recipe by plain gradient descent, with made-up
    knowledge where possible, in float64 (in float32 where the network cannot). What is fused of
    labels is tried as labels, and where that cannot be as a vote's probabilities.

    Parameters
    ----------
    learner : TorchLearner
        The network; it ends untrained, with the recipe's heads.
    recipe : Recipe
        Recipe of the run.
    samples : Samples
        Labelled samples, at least one.
    public : Samples, optional
        Samples of the public set.
    given : Mapping[str, Knowledge], optional
        Fused knowledge by name, instead of made-up knowledge.
    training : TrainingOptions
        Its weights of classes, augmentations and limit of gradients are tried, too.
    """
    options = replace(OPTIONS, **{name: getattr(training, name) for name in training.additions})
    nature = learner.nature(samples.x)
    if nature.refusal:
        return nature.refusal
    learner.follow(recipe)
    steps = [each for each in _steps(recipe) if not cohort.refuses(each[2])]
    sizes = EVEN if nature.coupled else UNEVEN
    reason: str | None = None
    for dtype, voted in itertools.product(APART, (False, True)):
        try:
            imagined = _works(learner, recipe, samples, public, sizes, dtype, given or {}, voted)
            works = [replace(work, options=options) for work in imagined]
            return _compared(learner, steps, works, dtype)
        except Exception as error:  # whatever a network, a term or vmap raises
            reason = f"it cannot be tried ({type(error).__name__}: {one_line(error)[:150]})"
    return reason


def _steps(recipe: Recipe) -> Iterator[tuple[str, Step, Train]]:
    """Yield the name of each training step, what the loop runs, and what a cohort runs."""
    for phase in ("start", "learn", "absorb"):
        for index, step in enumerate(getattr(recipe, phase)):
            training = step.as_train()
            if training is step and not training.is_idle:
                step = training = replace(
                    training, epochs=1, batch_size=BATCH, samples=0, least_steps=0
                )
            elif training is None or training is step:
                continue
            yield f"{phase}/{index}", step, training


def _works(
    learner: TorchLearner,
    recipe: Recipe,
    samples: Samples,
    public: Samples | None,
    sizes: Sequence[int],
    dtype: torch.dtype,
    given: Mapping[str, Knowledge],
    voted: bool = False,
) -> Iterator[Work]:
    """Yield the work of clients with ``sizes`` samples each.

    ``voted`` says whether the server makes probabilities of labels.
    """
    rows = torch.arange(sum(sizes)) % len(samples)
    shape = tuple(samples.x.shape[1:])
    most = 0 if public is None else len(public)
    most = most if given else min(SAMPLES, most)  # what is given may speak about all
    few = None if public is None else _some(public, torch.arange(most), dtype)
    hands = []
    for part in torch.split(rows, list(sizes)):
        train = _some(samples, part, dtype)
        empty = _some(samples, part[:0], dtype)
        hands.append(ClientData(train, empty, empty, few, None, learner.num_classes, shape))
    imagined = _imagined(learner, recipe, hands, dtype)
    for client, (data, made_up) in enumerate(zip(hands, imagined, strict=True)):
        if voted:
            made_up = {name: _voted(k, learner.num_classes) for name, k in made_up.items()}
        work = Work(data, {**made_up, **given}, OPTIONS, 0, 1, client, rounds=2)
        _remember(learner, recipe, work, dtype)
        yield work


def _some(samples: Samples, rows: Tensor, dtype: torch.dtype) -> Samples:
    y = None if samples.y is None else samples.y[rows]
    x = samples.x[rows]
    return Samples(x.to(dtype) if x.is_floating_point() else x, y, torch.arange(len(rows)))


def _imagined(
    learner: TorchLearner, recipe: Recipe, hands: Sequence[ClientData], dtype: torch.dtype
) -> list[dict[str, Knowledge]]:
    """Return made-up fused knowledge of clients: what other untrained models share.

    Knowledge that cannot be made so is missing: the server's own, or what reads it.
    """
    known: list[dict[str, Knowledge]] = [{} for _ in hands]
    for share in recipe.share:
        with suppress(Exception):  # whatever a share that lacks the server's knowledge raises
            uploads = []
            for client, data in enumerate(hands):
                _begin(learner, OTHERS + client, dtype)
                work = Work(data, known[client], OPTIONS, 0, 1, client, rounds=2)
                uploads.append(share.make(learner, work))
            for received, knowledge in zip(known, _of_all_rows(share, uploads, hands), strict=True):
                received[share.name] = knowledge
    return known


def _of_all_rows(
    share: Share, uploads: Sequence[Knowledge], hands: Sequence[ClientData]
) -> list[Knowledge]:
    """Return the clients' uploads in the form of fused knowledge: with the same rows for all.

    A class that a client lacks has a count of 0. For a sample that it lacks it has another's row.
    """
    size = 0 if hands[0].public is None else len(hands[0].public)
    asked = Asked(share.ids(size, 0, 1), hands[0].num_classes, hands[0].input_shape)
    ids = share.expected(asked).ids
    if ids is None or all(u.ids is not None and torch.equal(u.ids, ids) for u in uploads):
        return list(uploads)
    values = uploads[0].values.new_zeros((len(ids), *uploads[0].values.shape[1:]))
    nobody = Knowledge(share.kind, {"values": values}, ids, torch.zeros_like(ids))
    named = enumerate({share.name: knowledge} for knowledge in (*uploads, nobody))
    stack = Uploads([Upload(k, 1, knowledge) for k, knowledge in named])[share.name]
    assert stack.counts is not None
    whole = []
    for k in range(len(uploads)):
        rows, counts = stack.values[k], stack.counts[k]
        if share.kind in SAMPLE_KINDS:
            holder = torch.where(counts > 0, k, (stack.counts > 0).int().argmax(0))
            rows, counts = stack.values[holder, torch.arange(len(rows))], stack.counts.amax(0)
        whole.append(Knowledge(share.kind, {"values": rows}, stack.ids, counts).without_absent())
    return whole


def _voted(knowledge: Knowledge, classes: int) -> Knowledge:
    """Return labels as a vote gives them, as probabilities of 0 and 1; all else as it is."""
    if knowledge.kind != "labels":
        return knowledge
    values = F.one_hot(knowledge.values, classes).to(torch.float32)
    return Knowledge("probabilities", {"values": values}, knowledge.ids, knowledge.counts)


def _begin(learner: TorchLearner, client: int, dtype: torch.dtype) -> None:
    """Reset a learner to the untrained model of a client."""
    learner.reset(0, client)
    learner.model.to(dtype)
    learner.heads.to(dtype)


def _remember(learner: TorchLearner, recipe: Recipe, work: Work, dtype: torch.dtype) -> None:
    """Let an untrained model of a client keep what it can keep without the server's knowledge."""
    _begin(learner, OTHERS + len(UNEVEN) + work.client, dtype)
    for step in recipe.steps:
        if step.makes():
            with suppress(Exception):  # as fused knowledge that cannot be made up: not tried
                step.run(learner, work, "trial")


def _compared(
    learner: TorchLearner,
    steps: Sequence[tuple[str, Step, Train]],
    works: Sequence[Work],
    dtype: torch.dtype,
) -> str | None:
    begins = []
    for work in works:
        _begin(learner, work.client, dtype)
        begins.append(learner.state())
    for name, step, training in steps:
        rows = [Row(state, work) for state, work in zip(begins, works, strict=True)]
        cohort.train(learner, training, rows, name)
        for begin, row in zip(begins, rows, strict=True):
            learner.load_state(begin)
            kept = dict(row.work.own)
            step.run(learner, row.work, name)
            if any(kept.get(key) is not value for key, value in row.work.own.items()):
                return f"in step {name} a cohort keeps nothing, and the loop does"
            if place := _apart(begin["model"], learner.state()["model"], row.state["model"], dtype):
                return f"in step {name} a cohort changes {place} differently from the loop"
    xs = [work.data.train.x for work in works]
    for begin, x, logits in zip(begins, xs, cohort.answer(learner, begins, xs), strict=True):
        learner.load_state(begin)
        if _apart({}, {"": learner.predict(x)}, {"": logits}, dtype):
            return "a cohort answers differently from the loop"
    return None


def _apart(
    begin: Mapping[str, Tensor],
    looped: Mapping[str, Tensor],
    stacked: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> str | None:
    """Return the name of a tensor that has moved differently; None if there is none."""
    relative, overall = APART[dtype]
    moves = {}
    for name, tensor in looped.items():
        before = begin[name].double() if name in begin else 0.0
        a, b = tensor.double() - before, stacked[name].double() - before
        moves[name] = _largest(a), _largest(a.nan_to_num() - b.nan_to_num())
    largest = max((size for size, _ in moves.values()), default=0.0)
    limits = {name: relative * size + overall * largest for name, (size, _) in moves.items()}
    return next((name for name, (_, gap) in moves.items() if gap > limits[name]), None)


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().nan_to_num().max()) if tensor.numel() else 0.0

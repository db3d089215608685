"""The cohort executor: clients of one architecture train and answer together.

Their parameters are stacked, and one vectorised step (``torch.func.vmap`` of the gradient)
moves all of them. The terms of a recipe are pure functions, so they run here as in the loop
executor. Some training goes through the loop, client by client: networks that draw random
numbers, which come from one global stream; layers that vmap refuses; samples beside a batch,
transforms and mixup. Every network is tried before a run (``fedkt.clients.cohorts.trial``).
"""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedkt.augmentations import augmentations_of
from fedkt.clients.cohorts.stacking import Feed, PaddedBatches, Tensors, stack, stacked_knowledge
from fedkt.clients.cohorts.vector_step import Advance, vectorised
from fedkt.clients.learners import batches
from fedkt.clients.learners.base import Work
from fedkt.clients.learners.feature_hook import FeatureTap
from fedkt.clients.learners.nets import answers_of
from fedkt.clients.learners.objective import Objective, extent
from fedkt.clients.learners.optimisers import Descent, finite_rows, unstack
from fedkt.clients.learners.private_samples import PrivateSamples
from fedkt.clients.learners.torch import TorchLearner
from fedkt.knowledge import SAMPLE_KINDS, Knowledge
from fedkt.objectives.heads import PREFIX as HEADS
from fedkt.objectives.heads import Answer
from fedkt.optimisers import optimiser_of
from fedkt.recipe import Train
from fedkt.rng import global_torch_stream
from fedkt.schedules import is_scheduled

ROWS = 64  # samples a client predicts on at a time, as in the loop


class RefusedError(Exception):
    """A model or a step that no cohort can train with; the loop can."""


@dataclass(frozen=True)
class Template:
    """A network for cohorts, of whose own weights only the frozen are used, and its steps."""

    model: nn.Module
    steps: dict[Any, Advance] = field(default_factory=dict)


# The same template for all cohorts of a learner, because compiling a step takes long.
_templates: weakref.WeakKeyDictionary[TorchLearner, Template] = weakref.WeakKeyDictionary()


def template_of(learner: TorchLearner) -> Template:
    """Return the template of a learner's network, with the frozen parameters of the learner's."""
    if learner not in _templates:
        with global_torch_stream(0, "template"):
            _templates[learner] = Template(vectorised(learner.build().to(learner.device)))
    template = _templates[learner]
    now = dict(learner.model.named_parameters()) if learner.constants else {}
    for name, parameter in template.model.named_parameters() if now else ():
        if name in learner.constants:
            parameter.data = now[name].data  # in the precision of the learner's
    return template


@dataclass
class Row:
    """One client's part of a cohort: its state, in the form of ``TorchLearner.state()``, and work.

    Parameters
    ----------
    state : dict
        ``model`` and ``optimiser``; replaced, never changed in place.
    work : Work
        Data, knowledge, options and the names of the random streams.
    """

    state: dict[str, Any]
    work: Work


def refuses(step: Train) -> str | None:
    """Return why no cohort can train by a step, in one line; None if it can."""
    if step.beside or step.transforms or step.mixup:
        return "it draws samples beside a batch, transforms or mixes inputs"
    return None


def train(
    learner: TorchLearner, step: Train, rows: Sequence[Row], stream: str
) -> list[float | None]:
    """Train clients together by one step of a recipe; the rows get their new states.

    Parameters
    ----------
    learner : TorchLearner
        Learner of the clients' architecture; its own weights are neither used nor changed.
    step : Train
        The step.
    rows : Sequence[Row]
        The clients.
    stream : str
        Name of the step's random stream.

    Returns
    -------
    list of float or None
        Mean loss of the last epoch of each client; None where the step had nothing to do, NaN
        if a client's weights, moments or buffers are no longer finite.

    Raises
    ------
    RefusedError
        If a cohort cannot train the model, or cannot train by the step.
    """
    nature = learner.nature(torch.cat([row.work.data.train.x[:1] for row in rows]))
    if refusal := nature.refusal or refuses(step):
        raise RefusedError(refusal)
    if rows and (reason := rows[0].work.options.loop_only):
        raise RefusedError(reason)
    losses: list[float | None] = [None] * len(rows)
    groups: dict[Any, list[int]] = {}
    # Where padding changes answers, as in the statistics of a batch, batches must be of one size.
    shared: dict[Any, PaddedBatches] = {}
    tasks = [_task(step, row.work, stream, nature.coupled, shared) for row in rows]
    for place, task in enumerate(tasks):
        if task is not None:
            groups.setdefault(task.kind, []).append(place)
    # All groups are trained before any row changes: a refusal leaves everything as it was.
    done = []
    for places in groups.values():
        members = [rows[p] for p in places]
        group = _Stacked(learner, step, members, [_have(tasks[p]) for p in places], stream)
        done.append((places, group.run(), group.states()))
    for places, results, states in done:
        for place, loss, state in zip(places, results, states, strict=True):
            losses[place], rows[place].state = loss, state
    for row, task in zip(rows, tasks, strict=True):
        sizes = [] if task is None else task.batches.widths.tolist()
        row.work.done.append(extent(step, row.work, sizes))
    return losses


@torch.no_grad()
def answer(
    learner: TorchLearner,
    states: Sequence[Mapping[str, Any]],
    xs: Sequence[Tensor],
    features: bool = False,
) -> list[Tensor]:
    """Return the logits ``[n_k, C]``, or features ``[n_k, d]``, of K clients in evaluation mode.

    Parameters
    ----------
    learner : TorchLearner
        Learner of the clients' architecture.
    states : Sequence[Mapping]
        States of the clients, in the form of ``TorchLearner.state()``.
    xs : Sequence[Tensor]
        Each client's inputs ``[n_k, ...]``; one and the same object for all is not copied.
    features : bool
        Whether to return features.
    """
    shared = all(x is xs[0] for x in xs)
    if shared and _one_model(states):  # as after an average of weights
        learner.load_state(states[0])
        ask_one = learner.features if features else learner.predict
        return [ask_one(xs[0])] * len(xs)
    model = template_of(learner).model.eval()
    tensors = stack([_of_model(s["model"]) for s in states], learner.device)

    def answer_one(tensors: Tensors, x: Tensor) -> Tensor:
        with FeatureTap(model, features) as tap:
            logits: Tensor = functional_call(model, tensors, (x,))
        return logits if tap.features is None else tap.features

    x = xs[0] if shared else nn.utils.rnn.pad_sequence(list(xs), batch_first=True)
    ask = vmap(answer_one, in_dims=(0, None if shared else 0))
    split = torch.split(x, ROWS, dim=0 if shared else 1)
    parts = [ask(tensors, part.to(learner.device)).cpu() for part in split]
    answers = torch.cat(parts, dim=1)
    return [answers[k, : len(inputs)] for k, inputs in enumerate(xs)]


@dataclass(frozen=True)
class _Task:
    """One client's part of a step.

    ``kind`` is equal for clients that can be stacked.
    """

    kind: Any
    objective: Objective
    knowledge: Mapping[str, Knowledge]  # what the terms read
    batches: PaddedBatches
    private: PaddedBatches | None  # rehearsal


def _task(
    step: Train, work: Work, stream: str, sized: bool, shared: dict[Any, PaddedBatches]
) -> _Task | None:
    """Return a client's part of a step; None if it has none.

    The clients' batches of public data are ``shared``. If ``sized``, only clients with batches of
    the same sizes can be stacked; of a step with a schedule, those with as many batches a pass.
    """
    objective = Objective.of(step, work)
    if objective is None:
        return None
    samples = objective.samples
    size = batches.batch_size(step, work)
    name = work.seed, work.round, len(samples)
    padded = shared.get(name)
    if step.pace is not None:
        drawn = itertools.chain.from_iterable(batches.epochs(step, work, stream, len(samples)))
        padded = PaddedBatches.of_batches(list(drawn), work.options.batch_size)
    elif padded is None:
        orders = list(batches.orders(step, work, stream, len(samples)))
        padded = PaddedBatches.of_orders(orders, size)
    if step.on == "public":
        shared[name] = padded
    private = None
    if objective.rehearse:
        beside = itertools.islice(batches.rehearsal(work, stream), len(padded.widths))
        private = PaddedBatches.of_batches(list(beside), work.options.batch_size)
    sizes: list[Any] = (
        [p.widths.tolist() for p in (padded, private) if p is not None] if sized else []
    )
    if is_scheduled(step):
        sizes.append(batches.passes(step, work, len(samples)))
    known = {name: work.knowledge[name] for name in objective.needs}
    signatures = [(name, _signature(knowledge)) for name, knowledge in known.items()]
    terms = objective.terms, objective.rehearse
    kind = repr((*terms, signatures, samples.y is None, samples.x.shape[1:], sizes))
    return _Task(kind, objective, known, padded, private)


def _nets(learner: TorchLearner) -> Mapping[str, Answer]:
    """Return the nets of a recipe as functions, of modules with their frozen weights alone."""
    copies = {name: vectorised(copy.deepcopy(net)) for name, net in learner.heads.items()}
    return answers_of(learner.head_parts, copies)


def _have(task: _Task | None) -> _Task:
    assert task is not None
    return task


def _signature(knowledge: Knowledge) -> Any:
    # A client may have more rows than another, as answers for its own samples.
    ragged = knowledge.kind in SAMPLE_KINDS
    shapes = {n: tuple(t.shape[ragged:]) for n, t in knowledge.tensors.items()}
    return knowledge.kind, shapes, knowledge.counts is None


class _Stacked:
    """Clients in training whose batches can be stacked."""

    def __init__(
        self,
        learner: TorchLearner,
        step: Train,
        rows: Sequence[Row],
        tasks: Sequence[_Task],
        stream: str,
    ) -> None:
        self._rows, self._tasks = rows, tasks
        sizes = [len(task.objective.samples) for task in tasks]
        self._passes = [batches.passes(step, r.work, n) for r, n in zip(rows, sizes, strict=True)]
        template = template_of(learner)
        trained, device = learner.trained, learner.device
        stacked = stack([row.state["model"] for row in rows], device)
        options = rows[0].work.options
        keep = options.optimiser_state == "keep"
        states = [row.state["optimiser"] if keep else {} for row in rows]
        parameters = [stacked.pop(n) for n in trained]
        self._optimiser = optimiser_of(options)
        self._at = Descent.begin(parameters, self._optimiser, states)
        self._names, self._buffers, self._device = trained, stacked, device
        terms, rehearse = tasks[0].objective.terms, tasks[0].objective.rehearse
        kinds = {name: knowledge.kind for name, knowledge in tasks[0].knowledge.items()}
        part = learner.names_in(step.only, trained)
        moves = [name in part for name in trained]
        about = trained, terms, rehearse, sorted(kinds.items()), options, step.rate
        parts = (self._optimiser, *augmentations_of(options.augment))
        precisions = {str(p.dtype) for p in learner.heads.parameters()}  # of frozen ones
        key = repr((about, moves, learner.head_parts, precisions)), *map(type, parts)
        if key not in template.steps:
            more = options, step, learner.nature(), moves, _nets(learner)
            template.steps[key] = Advance(template.model, trained, terms, rehearse, kinds, *more)
        self._advance = template.steps[key]
        # A compiled step needs batches of one size.
        where = device, self._advance.compiled
        samples = [task.objective.samples for task in tasks]
        private = [PrivateSamples.of(row.work) for row in rows]
        weights = [p.weights for p in private if p.weights is not None]
        first = weights if step.on == "private" else []
        self._feeds = [Feed(samples, [task.batches for task in tasks], *where, first)]
        if beside := [t.private for t in tasks if t.private is not None]:
            trains = [row.work.data.train for row in rows]
            self._feeds.append(Feed(trains, beside, *where, weights))
        shared = all(feed.shared for feed in self._feeds)
        self._knowledge = stacked_knowledge([task.knowledge for task in tasks], device, shared)
        self._priors = torch.stack([p.log_prior for p in private]).to(device)
        names = (stream, f"{stream}/rehearsal")[: len(self._feeds)]
        works = [row.work for row in rows]
        self._keys = [batches.noise_keys(works, name).to(device) for name in names]

    def run(self) -> list[float]:
        """Train; return the mean loss of each client's last epoch, NaN if it has diverged."""
        watched = [n for n, b in self._buffers.items() if bool(finite_rows([b]).all())]
        steps = torch.tensor([len(t.batches.widths) for t in self._tasks])
        last_epoch = torch.tensor([passes[-1] for passes in self._passes])
        paces = self._passes if len(set(self._passes)) > 1 else self._passes[:1]
        sums = torch.zeros(len(self._rows), dtype=torch.float64, device=self._device)
        with self._advance.training():
            for number in range(int(steps.max())):
                active = number < steps
                progress = self._progress(number, paces)
                losses = self._step(number, active, progress)
                # A client counts the batches of its last epoch only.
                last = active & (number >= steps - last_epoch)
                sums += torch.where(last.to(self._device), losses, 0.0)
        sound = self._at.finite([self._buffers[n] for n in watched])  # the others may be masks
        return torch.where(sound, sums.cpu() / last_epoch, torch.nan).tolist()

    def states(self) -> list[dict[str, Any]]:
        """Return the clients' states."""
        moments = self._at.states(self._optimiser)
        tensors = {**dict(zip(self._names, self._at.parameters, strict=True)), **self._buffers}
        order = list(self._rows[0].state["model"])
        models = unstack([tensors[n] for n in order])
        return [
            {"model": dict(zip(order, model, strict=True)), "optimiser": optimiser}
            for model, optimiser in zip(models, moments, strict=True)
        ]

    def _step(self, number: int, active: Tensor, progress: float | Tensor) -> Tensor:
        """Take one step of all clients that have a batch left; return the losses ``[K]``."""
        each = isinstance(progress, Tensor) and progress.dim() > 0
        fields = []
        for feed, keys in zip(self._feeds, self._keys, strict=True):
            separate, common = feed.at(number)
            (separate if each else common)["progress"] = progress
            own = {**separate, "log_prior": self._priors, "key": keys + number}
            fields.append((own, common))
        # A compiled step would be compiled twice: with a mask and without.
        whole = bool(active.all()) and not self._advance.compiled
        masked = None if whole else active.to(self._device)
        self._at, self._buffers, losses = self._advance(
            self._at, self._buffers, self._knowledge, fields, masked
        )
        return losses.detach().double()

    def _progress(self, number: int, paces: Sequence[tuple[int, ...]]) -> float | Tensor:
        """Return the finished part of the run at a batch: for each client, or one for all."""
        work = self._rows[0].work
        parts = [work.progress(batches.progress_at(passes, number)) for passes in paces]
        if len(parts) > 1:
            return torch.tensor(parts, device=self._device)
        return torch.tensor(parts[0]) if self._advance.compiled else parts[0]


def _one_model(states: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the clients share the same tensor objects."""
    first = states[0]["model"]
    return all(s["model"][n] is t for s in states[1:] for n, t in first.items())


def _of_model(tensors: Mapping[str, Tensor]) -> Tensors:
    return {n: t for n, t in tensors.items() if not n.startswith(f"{HEADS}.")}


__all__ = ["RefusedError", "Row", "answer", "refuses", "train"]

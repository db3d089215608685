"""The loop executor: clients one by one, one training loop for every method."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from fedkt.answers import is_finite
from fedkt.augmentations import augmented
from fedkt.clients.learners import batches, devices
from fedkt.clients.learners.asking import asking
from fedkt.clients.learners.base import Work
from fedkt.clients.learners.feature_hook import FeatureTap
from fedkt.clients.learners.norms import norms_in_training, suit
from fedkt.clients.learners.objective import (
    Objective,
    Terms,
    explained,
    extent,
    learning_rate,
    sum_of,
)
from fedkt.clients.learners.optimisers import ModelDescent
from fedkt.clients.learners.private_samples import PrivateSamples
from fedkt.data.samples import Samples, float_dtype
from fedkt.errors import ConfigError
from fedkt.objectives.heads import PREFIX as HEADS
from fedkt.objectives.term import Batch, Outputs, Transform
from fedkt.recipe import Train, weighted
from fedkt.rng import global_torch_stream


def train(
    model: nn.Module,
    optimiser: ModelDescent,
    step: Train,
    work: Work,
    stream: str,
    heads: nn.Module | None = None,
    open_ended: bool = False,
    constants: Container[str] = (),
) -> float | None:
    """Train a model in place by one step of a recipe.

    Parameters
    ----------
    model : nn.Module
        Its forward takes ``[B, ...]`` and returns logits ``[B, C]``.
    optimiser : ModelDescent
        Over the parameters of the model and the heads; its state goes on.
    step : Train
        The step.
    work : Work
        Data, knowledge, options and the names of the random streams.
    stream : str
        Name of this step's random stream.
    heads : torch.nn.Module, optional
        The recipe's heads by name; see ``fedkt.objectives.heads``.
    open_ended : bool
        Whether the layer behind the features is not the model's last.
    constants : Container[str]
        Names of frozen parameters, which are no client's own.

    Returns
    -------
    float or None
        Mean loss of the last epoch; None if the step had nothing to do, NaN if weights,
        moments or buffers are no longer finite.
    """
    half = work.options.precision == "bfloat16"
    ask = _Asking(model, heads, step, half, open_ended, constants)
    sizes: list[int] = []
    epochs = _epochs(ask, step, work, stream, sizes)
    if epochs is None:
        work.done.append(extent(step, work, sizes))
        return None
    rate, taken = partial(learning_rate, step, work.options), list[Tensor]()
    watched = [name for name, b in model.named_buffers() if is_finite(b)]  # others may be masks
    model.train()
    with global_torch_stream(work.seed, f"dropout/{stream}", work.round, work.client), ask.tap:
        for losses in epochs:
            taken = [descend(optimiser, loss, rate(progress)) for loss, progress in losses]
    model.eval()
    work.done.append(extent(step, work, sizes))
    sound = optimiser.finite([model.get_buffer(name) for name in watched])
    return float(torch.stack(taken).mean()) if sound else math.nan


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, batch_size: int = 64) -> Tensor:
    """Return logits ``[n, C]`` on the CPU, in evaluation mode.

    64 rows fit a core's cache. The batches depend on ``n`` only, so equal weights give equal bits.
    """
    model.eval()
    device = devices.device_of(model)
    return torch.cat([model(part.to(device)).cpu() for part in torch.split(x, batch_size)])


@torch.no_grad()
def features(model: nn.Module, x: Tensor, batch_size: int = 64) -> Tensor:
    """Return features ``[n, d]`` on the CPU, in evaluation mode; see :func:`predict`.

    Raises
    ------
    ConfigError
        If the model has no linear layer.
    """
    model.eval()
    parts, device = [], devices.device_of(model)
    with FeatureTap(model) as tap:
        for part in torch.split(x, batch_size):
            model(part.to(device))
            if tap.features is None:
                raise ConfigError(f"{type(model).__name__} has no linear layer, so no features.")
            parts.append(tap.features.cpu())
    return torch.cat(parts)


def descend(optimiser: ModelDescent, loss: Tensor, rate: float) -> Tensor:
    """Take a step down the gradient of a loss; return the loss."""
    if not loss.requires_grad:
        raise ConfigError("the loss of a step reaches none of the parameters that it trains")
    optimiser.clear()
    torch.autograd.backward(loss)
    optimiser.step(rate)
    return loss.detach()


def _epochs(
    ask: _Asking, step: Train, work: Work, stream: str, sizes: list[int]
) -> Iterator[Iterator[tuple[Tensor, float]]] | None:
    """Return losses and progress of a step, by epochs; None if the step has nothing to do.

    ``sizes`` takes up the size of every batch.
    """
    here = devices.on(work, ask.device)
    beside = batches.beside(step.beside, here, stream, ask)
    # From the work on the CPU, where no check has to wait for a GPU.
    objective = Objective.of(step, work, beside is not None)
    if objective is None:
        return None
    public = step.on == "public"
    samples = devices.shared_on(objective.samples, ask.device) if public else here.data.train
    objective = replace(objective, samples=samples)
    drawn = batches.epochs(step, here, stream, len(samples))
    losses = _Losses(ask, objective, step, here, stream, beside, PrivateSamples.of(work))

    def of_epoch(rows_of: Sequence[Tensor]) -> Iterator[tuple[Tensor, float]]:
        sizes.extend(map(len, rows_of))
        return losses.of_epoch(rows_of)

    return map(of_epoch, drawn)


class _Asking:
    """A model in training; it returns the outputs that the terms of a step read."""

    def __init__(
        self,
        model: nn.Module,
        heads: nn.Module | None,
        step: Train,
        half: bool = False,
        open_ended: bool = False,
        constants: Container[str] = (),
    ) -> None:
        self._model, self._half = model, half
        self.device = devices.device_of(model)
        parameters = dict(model.named_parameters())
        if heads is not None:
            parameters |= {f"{HEADS}.{n}": p for n, p in heads.named_parameters()}
        self.parameters = {n: p for n, p in parameters.items() if n not in constants}
        self._norms: list[nn.Module] | None = None
        terms = [t for _, t in weighted((*step.terms, *step.rehearse))]
        wanted = any(getattr(t, "needs_features", False) for t in terms)
        self.tap = FeatureTap(model, wanted, open_ended)
        self._classify = self.tap.classifier(self.parameters)
        self._with_others = asking(model, self.tap, self.parameters, half=half)

    def __call__(self, x: Tensor) -> Outputs:
        if self._norms is None:  # in training now; a model may keep some of it in evaluation
            self._norms = norms_in_training(self._model)
        suit(self._norms, x)
        if not self._half:
            logits = self._model(x)
            features = self.tap.features
        else:  # the terms are computed in float32 all the same
            with torch.autocast(x.device.type, torch.bfloat16):
                logits = self._model(x).float()
            features = None if self.tap.features is None else self.tap.features.float()
        return Outputs(
            logits, features, self.parameters, classify=self._classify, ask=self._with_others
        )


class _Losses:
    """The losses of a step on its batches, each computed with the weights at that time."""

    def __init__(
        self,
        ask: _Asking,
        objective: Objective,
        step: Train,
        work: Work,
        stream: str,
        beside: Iterator[tuple[Outputs, Tensor | None]] | None,
        private: PrivateSamples,
    ) -> None:
        self._ask, self._objective, self._beside = ask, objective, beside
        self._work, self._passes = work, batches.passes(step, work, len(objective.samples))
        self._batches = itertools.count()
        self._rehearsal = batches.rehearsal(work, stream) if objective.rehearse else iter(())
        self._augmentations = private.augmentations
        self._prior = private.log_prior.to(ask.device)
        weights = private.weights
        self._weights = None if weights is None else weights.to(ask.device)
        self._of_private = step.on == "private"
        self._beta = torch.distributions.Beta(step.mixup, step.mixup) if step.mixup else None
        keys = (batches.noise_keys([work], name) for name in (stream, f"{stream}/rehearsal"))
        self._keys = [key[0].to(ask.device) for key in keys]
        # Kept, because most batches have the same number of rows.
        self._ones: dict[int, Tensor] = {}

    def of_epoch(self, rows_of: Sequence[Tensor]) -> Iterator[tuple[Tensor, float]]:
        """Yield the losses of the batches of the next epoch, each with the progress of the run."""
        goal = self._objective
        for rows in rows_of:
            number = next(self._batches)
            progress = self._work.progress(batches.progress_at(self._passes, number))
            key, of_private = (key + number for key in self._keys)
            beside = None if self._beside is None else next(self._beside)
            beta = self._beta
            mix = None if beta is None else (torch.randperm(len(rows)), float(beta.sample()))
            how = beside, goal.transforms, mix
            here = self._of_private
            loss = self._loss_on(goal.terms, goal.samples, here, rows, progress, key, *how)
            if goal.rehearse:
                train = self._work.data.train
                private = next(self._rehearsal)
                loss = loss + self._loss_on(
                    goal.rehearse, train, True, private, progress, of_private
                )
            yield loss, progress

    def _loss_on(
        self,
        terms: Terms,
        samples: Samples,
        private: bool,
        rows: Tensor,
        progress: float,
        key: Tensor,
        beside: tuple[Outputs, Tensor | None] | None = None,
        transforms: Sequence[Transform] = (),
        mix: tuple[Tensor, float] | None = None,
    ) -> Tensor:
        """Return the weighted sum of terms on rows of samples, a scalar."""
        knowledge, x = self._work.knowledge, samples.x[rows]
        if private:
            x = augmented(self._augmentations, x, key)
        for transform in transforms:
            x = transform(x, knowledge)
        if mix is not None:
            x = mix[1] * x + (1 - mix[1]) * x[mix[0]]
        y = None if samples.y is None else samples.y[rows]
        if len(rows) not in self._ones:
            self._ones[len(rows)] = torch.ones(len(rows), dtype=float_dtype(x), device=x.device)
        weight = self._ones[len(rows)]
        if private and self._weights is not None:
            weight = weight * self._weights[rows]
        batch = Batch(x, y, samples.ids[rows], weight, self._prior, progress, key)
        outputs = self._ask(x)
        if beside is not None:
            outputs = replace(outputs, beside=beside[0])
            batch = replace(batch, beside_y=beside[1])
        loss = sum_of(terms, outputs, batch, knowledge, explained)
        if mix is None:
            return loss
        order, share = mix  # the same answers, judged by the partners' targets
        partners = replace(
            batch, y=None if y is None else y[order], ids=batch.ids[order], weight=weight[order]
        )
        return share * loss + (1 - share) * sum_of(terms, outputs, partners, knowledge, explained)

"""The loop executor: clients one by one, one training loop for every method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fedkt.answers import is_finite
from fedkt.clients.learners import batches, devices
from fedkt.clients.learners.base import Work
from fedkt.clients.learners.optimisers import Optimiser
from fedkt.clients.learners.taps import FeatureTap
from fedkt.data.samples import Samples
from fedkt.errors import ConfigError, FedktError
from fedkt.knowledge import SAMPLE_KINDS, Knowledge
from fedkt.objectives.heads import PREFIX as HEADS
from fedkt.objectives.term import Batch, Outputs, Term, Transform
from fedkt.recipe import Train, Weighted, weighted
from fedkt.registry import name_of
from fedkt.rng import global_torch_stream
from fedkt.text import raised

FORGOTTEN = (
    "; outputs.features and outputs.beside are there for terms with needs_features = True and "
    "needs_beside = True"
)
UNREAD = "; the knowledge that a term reads must be in its needs()"
NORMS = nn.modules.batchnorm._BatchNorm  # what keeps statistics of batches


def train(
    model: nn.Module,
    optimiser: Optimiser,
    step: Train,
    work: Work,
    stream: str,
    heads: nn.Module | None = None,
    open_ended: bool = False,
) -> float | None:
    """Train a model in place by one step of a recipe.

    Terms whose knowledge has not arrived yet (the first round) add nothing; a step left
    without terms or data does nothing.

    Parameters
    ----------
    model : nn.Module
        Its forward takes ``[B, ...]`` and returns logits ``[B, C]``.
    optimiser : Optimiser
        Over the parameters of the model and the heads; its state goes on.
    step : Train
        What to train.
    work : Work
        Data, knowledge, options and the names of the random streams.
    stream : str
        Name of this step's random stream.
    heads : torch.nn.Module, optional
        The recipe's heads by name; see ``fedkt.objectives.heads``.
    open_ended : bool
        Whether the layer behind the features is not the model's last.

    Returns
    -------
    float or None
        Mean loss of the last epoch; NaN if weights, moments or buffers are no longer finite.
    """
    given, device = work, devices.device_of(model)
    work = devices.on(work, device)
    ask = _Asking(model, heads, step, work.options.precision == "bfloat16", open_ended)
    beside = batches.beside(step.beside, work, stream, ask)
    terms = ready(step.terms, work, beside is not None)
    samples = samples_of(step, given, terms)  # on the CPU, where nothing waits for an answer
    if not terms or samples is None or not len(samples) or step.epochs == 0:
        return None
    samples = work.data.train if step.on == "private" else devices.shared_on(samples, device)
    rehearse = ready(step.rehearse, work) if len(work.data.train) else []
    private = batches.rehearsal(work, stream) if rehearse else iter(())
    loss_of = _Loss(ask, work)
    beta = torch.distributions.Beta(step.mixup, step.mixup) if step.mixup else None
    transforms = [t for t in step.transforms if work.knowledge.keys() >= set(t.needs())]
    losses: list[Tensor] = []
    watched = [name for name, b in model.named_buffers() if is_finite(b)]  # others may be masks
    model.train()
    with global_torch_stream(work.seed, f"dropout/{stream}", work.round, work.client), ask.tap:
        for epoch, rows_of in enumerate(batches.epochs(step, work, stream, len(samples))):
            losses = []
            for number, rows in enumerate(rows_of):
                loss_of.progress = work.progress((epoch + number / len(rows_of)) / step.epochs)
                other = None if beside is None else next(beside)
                mix = None if beta is None else (torch.randperm(len(rows)), float(beta.sample()))
                loss = loss_of(terms, samples, rows, other, transforms, mix)
                if rehearse:
                    loss = loss + loss_of(rehearse, work.data.train, next(private))
                optimiser.clear()
                torch.autograd.backward(loss)
                optimiser.step(work.options.learning_rate * step.rate)
                losses.append(loss.detach())
    model.eval()
    buffers = dict(model.named_buffers())
    sound = optimiser.finite([buffers[name] for name in watched])
    return float(torch.stack(losses).mean()) if sound else math.nan


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, batch_size: int = 64) -> Tensor:
    """Return logits ``[n, C]`` in evaluation mode; 64 rows fit a core's cache.

    The batches depend on ``n`` only, so equal weights give equal bits.
    """
    model.eval()
    device = devices.device_of(model)
    return torch.cat([model(part.to(device)).cpu() for part in torch.split(x, batch_size)])


@torch.no_grad()
def features(model: nn.Module, x: Tensor, batch_size: int = 64) -> Tensor:
    """Return features ``[n, d]`` in evaluation mode; see :func:`predict`."""
    model.eval()
    found, device = [], devices.device_of(model)
    with FeatureTap(model) as tap:
        for part in torch.split(x, batch_size):
            model(part.to(device))
            if tap.features is None:
                raise ConfigError(f"{type(model).__name__} has no linear layer, so no features.")
            found.append(tap.features.cpu())
    return torch.cat(found)


@torch.no_grad()
def adapt_norms(model: nn.Module, x: Tensor, batch_size: int = 64) -> None:
    """Replace the running statistics of batch normalisation by those of other samples.

    AdaBN (Li et al., 2016, arXiv:1603.04779): the mean over batches of x ``[n, ...]``, every
    layer seeing what the layers before it, so normalised, make of them. Dropout stays off.
    The batches are of one size, give or take a sample, and each is spread over all of x, so
    that samples stored class by class do not make batches of one class. A single sample has
    no variance and changes nothing.
    """
    if len(x) < 2:
        return
    count = -(-len(x) // batch_size)
    norms = [m for m in model.modules() if isinstance(m, NORMS) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches instead of a moving one
        norm.train()
    device = devices.device_of(model)
    for start in range(count if norms else 0):
        model(x[start::count].to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def samples_of(step: Train, work: Work, terms: list[tuple[float, Term]]) -> Samples | None:
    """Return the data of a step: on public data only the rows the knowledge speaks about.

    None where there are no public data to train on or to keep pace with.
    """
    public = work.data.public
    if step.on == "private":
        return work.data.train if step.pace is None or public else None
    for ids in _ids_read(terms, work.knowledge):
        public = None if public is None else public.at_ids(ids)
    return public


def _ids_read(terms: list[tuple[float, Term]], held: Mapping[str, Knowledge]) -> Iterator[Tensor]:
    for name in dict.fromkeys(n for _, t in terms for n in t.needs()):
        ids = held[name].ids
        if held[name].kind in SAMPLE_KINDS and ids is not None:
            yield ids


class _Asking:
    """A model in training, and what the terms of a step want to know of it."""

    def __init__(
        self,
        model: nn.Module,
        heads: nn.Module | None,
        step: Train,
        half: bool = False,
        open_ended: bool = False,
    ) -> None:
        self._model, self._half = model, half
        self.parameters = dict(model.named_parameters())
        if heads is not None:
            self.parameters |= {f"{HEADS}.{n}": p for n, p in heads.named_parameters()}
        self._batch_norms = [m for m in model.modules() if isinstance(m, NORMS)]
        terms = [t for _, t in weighted((*step.terms, *step.rehearse))]
        wanted = any(getattr(t, "needs_features", False) for t in terms)
        self.tap = FeatureTap(model, wanted, open_ended)
        self._classify = self.tap.classifier(self.parameters)

    def __call__(self, x: Tensor) -> Outputs:
        for module in self._batch_norms:  # one sample has no variance: use the running one
            module.train(len(x) > 1)
        if not self._half:
            logits = self._model(x)
            features = self.tap.features
        else:  # the terms are computed in float32 all the same
            with torch.autocast(x.device.type, torch.bfloat16):
                logits = self._model(x).float()
            features = None if self.tap.features is None else self.tap.features.float()
        return Outputs(logits, features, self.parameters, classify=self._classify)


class _Loss:
    """The sum of some terms on some rows of some samples."""

    def __init__(self, ask: _Asking, work: Work) -> None:
        self._ask, self._work = ask, work
        # Kept, because the terms of most batches have the same number of rows.
        self._ones: dict[int, Tensor] = {}
        self.progress = 0.0

    def __call__(
        self,
        terms: list[tuple[float, Term]],
        samples: Samples,
        rows: Tensor,
        beside: Outputs | None = None,
        transforms: Sequence[Transform] = (),
        mix: tuple[Tensor, float] | None = None,
    ) -> Tensor:
        knowledge, x = self._work.knowledge, samples.x[rows]
        for transform in transforms:
            x = transform(x, knowledge)
        if mix is not None:
            x = mix[1] * x + (1 - mix[1]) * x[mix[0]]
        y = None if samples.y is None else samples.y[rows]
        if len(rows) not in self._ones:
            self._ones[len(rows)] = torch.ones(len(rows), dtype=x.dtype, device=x.device)
        weight, prior = self._ones[len(rows)], self._work.data.log_prior
        batch = Batch(x, y, samples.ids[rows], weight, prior, self.progress)
        outputs = self._ask(x)
        if beside is not None:
            outputs = replace(outputs, beside=beside)
        loss = sum_of(terms, outputs, batch, knowledge, _named)
        if mix is None:
            return loss
        order, share = mix  # the same answers, judged by the partners' targets
        partners = replace(batch, y=None if y is None else y[order], ids=batch.ids[order])
        return share * loss + (1 - share) * sum_of(terms, outputs, partners, knowledge, _named)


def sum_of(
    terms: list[tuple[float, Term]],
    outputs: Outputs,
    batch: Batch,
    knowledge: Mapping[str, Knowledge],
    call: Callable[..., Tensor] = lambda term, *given: term(*given),
) -> Tensor:
    """Return the weighted sum of the terms, a scalar; ``call`` asks a term for its loss."""
    losses = [_times(f, _scalar(term, call(term, outputs, batch, knowledge))) for f, term in terms]
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def _scalar(term: Term, loss: object) -> Tensor:
    if isinstance(loss, Tensor) and not loss.dim():
        return loss
    what = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    raise ConfigError(
        f"term {name_of(type(term))} must return a scalar tensor, the mean over the batch "
        f"(fedkt.objectives.weighted_mean), not {what}"
    )


def _named(term: Term, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]) -> Any:
    """Return the loss of a term, or say which one has failed and what it may have forgotten."""
    try:
        return term(outputs, batch, knowledge)
    except FedktError:
        raise
    except Exception as error:  # a user's code may raise anything
        absent = "NoneType" in str(error)
        hint = FORGOTTEN if absent else UNREAD if isinstance(error, KeyError) else ""
        raise ConfigError(f"term {name_of(type(term))} raised {raised(error)}{hint}") from error


def _times(factor: float, loss: Tensor) -> Tensor:
    return loss if factor == 1 else factor * loss


def ready(
    terms: Sequence[Term | Weighted], work: Work, beside: bool = False
) -> list[tuple[float, Term]]:
    """Return the (factor, term) pairs whose knowledge, and samples beside, are there."""
    return [
        (f, t)
        for f, t in weighted(terms)
        if work.knowledge.keys() >= set(t.needs())
        and (beside or not getattr(t, "needs_beside", False))
    ]

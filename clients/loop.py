"""The loop executor: clients one by one, one training loop for every method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from fedkt.clients.learner import Work
from fedkt.data.samples import Samples
from fedkt.knowledge import SAMPLE_KINDS, Knowledge
from fedkt.objectives.base import Batch, Outputs, Term
from fedkt.recipe import Train, Weighted, weighted
from fedkt.rng import global_torch_stream, torch_rng


def train(
    model: nn.Module, optimiser: torch.optim.Optimizer, step: Train, work: Work, stream: str
) -> float | None:
    """Train a model in place by one step of a recipe.

    Terms whose knowledge has not arrived yet (the first round) add nothing; a step left
    without terms or data does nothing.

    Parameters
    ----------
    model : nn.Module
        Its forward takes ``[B, ...]`` and returns logits ``[B, C]``.
    optimiser : torch.optim.Optimizer
        Over the model's parameters; its state goes on.
    step : Train
        What to train.
    work : Work
        Data, knowledge, options and the names of the random streams.
    stream : str
        Name of this step's random stream.

    Returns
    -------
    float or None
        Mean loss of the last epoch.
    """
    terms = _ready(step.terms, work)
    samples = _samples(step, work, terms)
    if not terms or samples is None or not len(samples) or step.epochs == 0:
        return None
    loss_of = _Loss(model, work)
    rehearse = _ready(step.rehearse, work) if len(work.data.train) else []
    private = _private_batches(work, stream) if rehearse else iter(())
    size = step.batch_size or _batch_size(step, work)
    order = torch_rng(work.seed, f"batches/{stream}", work.round, work.client)
    losses: list[Tensor] = []
    parameters = list(model.parameters())
    model.train()
    with (
        global_torch_stream(work.seed, f"dropout/{stream}", work.round, work.client),
        FeatureTap(model, wanted=_wants_features(terms + rehearse)) as tap,
    ):
        for _ in range(step.epochs):
            losses = []
            for rows in torch.split(torch.randperm(len(samples), generator=order), size):
                loss = loss_of(terms, samples, rows, tap)
                if rehearse:
                    loss = loss + loss_of(rehearse, work.data.train, next(private), tap)
                for parameter in parameters:  # as zero_grad(), whose hooks cost more than a layer
                    parameter.grad = None
                loss.backward()  # type: ignore[no-untyped-call]  # torch's own annotation
                optimiser.step()
                losses.append(loss.detach())
    model.eval()
    return float(torch.stack(losses).mean())


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, batch_size: int = 64) -> Tensor:
    """Return logits ``[n, C]`` in evaluation mode; 64 rows fit a core's cache.

    The batches depend on ``n`` only, so equal weights give equal bits.
    """
    model.eval()
    return torch.cat([model(part) for part in torch.split(x, batch_size)])


class FeatureTap:
    """Takes the penultimate features (input of the last linear layer) by a hook."""

    def __init__(self, model: nn.Module, wanted: bool = True) -> None:
        linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
        self._layer = linear[-1] if wanted and linear else None
        self.features: Tensor | None = None

    def __enter__(self) -> FeatureTap:
        if self._layer is not None:
            self._hook = self._layer.register_forward_pre_hook(self._take)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._layer is not None:
            self._hook.remove()

    def _take(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.features = inputs[0]


def _samples(step: Train, work: Work, terms: list[tuple[float, Term]]) -> Samples | None:
    """Return the data of a step: on public data only the rows the knowledge speaks about."""
    if step.on == "private":
        return work.data.train
    public = work.data.public
    for ids in _ids_read(terms, work.knowledge):
        public = None if public is None else public.at_ids(ids)
    return public


def _ids_read(terms: list[tuple[float, Term]], held: Mapping[str, Knowledge]) -> Iterator[Tensor]:
    for name in dict.fromkeys(n for _, t in terms for n in t.needs()):
        ids = held[name].ids
        if held[name].kind in SAMPLE_KINDS and ids is not None:
            yield ids


class _Loss:
    """The sum of some terms on some rows of some samples."""

    def __init__(self, model: nn.Module, work: Work) -> None:
        self._model, self._work = model, work
        self._parameters = dict(model.named_parameters())
        norms = nn.modules.batchnorm._BatchNorm
        self._batch_norms = [m for m in model.modules() if isinstance(m, norms)]
        # Kept, because the terms of most batches have the same number of rows.
        self._ones: dict[int, Tensor] = {}

    def __call__(
        self, terms: list[tuple[float, Term]], samples: Samples, rows: Tensor, tap: FeatureTap
    ) -> Tensor:
        for module in self._batch_norms:  # one sample has no variance: use the running one
            module.train(len(rows) > 1)
        x = samples.x[rows]
        y = None if samples.y is None else samples.y[rows]
        if len(rows) not in self._ones:
            self._ones[len(rows)] = torch.ones(len(rows), dtype=x.dtype)
        weight = self._ones[len(rows)]
        batch = Batch(x, y, samples.ids[rows], weight, self._work.data.log_prior)
        outputs = Outputs(self._model(x), tap.features, self._parameters)
        knowledge = self._work.knowledge
        losses = [_times(f, term(outputs, batch, knowledge)) for f, term in terms]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def _times(factor: float, loss: Tensor) -> Tensor:
    return loss if factor == 1 else factor * loss


def _ready(terms: Sequence[Term | Weighted], work: Work) -> list[tuple[float, Term]]:
    """Return the (factor, term) pairs whose knowledge has arrived."""
    return [(f, t) for f, t in weighted(terms) if work.knowledge.keys() >= set(t.needs())]


def _wants_features(terms: list[tuple[float, Term]]) -> bool:
    return any(getattr(term, "needs_features", False) for _, term in terms)


def _batch_size(step: Train, work: Work) -> int:
    options = work.options
    return options.batch_size if step.on == "private" else options.public_batch_size


def _private_batches(work: Work, stream: str) -> Iterator[Tensor]:
    """Yield rows of private batches for ever, epoch after epoch."""
    order = torch_rng(work.seed, f"rehearsal/{stream}", work.round, work.client)
    while True:
        rows = torch.randperm(len(work.data.train), generator=order)
        yield from torch.split(rows, work.options.batch_size)

"""One vectorised training step: the gradient of a recipe's terms for all clients of a cohort."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from fedkt.clients import loop
from fedkt.clients.features import FeatureTap
from fedkt.clients.learner import TrainingOptions
from fedkt.clients.optimisers import Descent, choose, descend
from fedkt.clients.stacking import Stacked, Tensors
from fedkt.knowledge import Knowledge
from fedkt.objectives.base import Batch, Outputs, Term
from fedkt.objectives.heads import PREFIX as HEADS

NORMS = nn.modules.batchnorm._BatchNorm
Terms = list[tuple[float, Term]]
Step = Callable[..., tuple[Descent, Tensors, Tensor]]


class Advance:
    """The step of one kind of training of one model; it holds nothing of the clients.

    Parameters
    ----------
    model : torch.nn.Module
        The architecture.
    names : Sequence[str]
        Of the trainable parameters, heads included.
    terms, rehearse : list
        What is minimised on a batch, and on the private batch beside it.
    kinds : Mapping[str, str]
        Of the knowledge that the terms read.
    options : TrainingOptions
        The optimiser, and whether the step is compiled.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        terms: Terms,
        rehearse: Terms,
        kinds: Mapping[str, Any],
        options: TrainingOptions,
    ) -> None:
        self._model, self._names, self._kinds, self._options = model, names, kinds, options
        self._terms = (terms, rehearse)
        everything = [t for _, t in (*terms, *rehearse)]
        tapped = any(getattr(t, "needs_features", False) for t in everything)
        self._tap = FeatureTap(model, tapped)
        self._batch_norms = [m for m in model.modules() if isinstance(m, NORMS)]
        # Hooks, and batch sizes that change, are not for the compiler.
        self.compiled = options.compile and not (tapped or self._batch_norms or _straight(model))
        self._step: Step = torch.compile(self._pure, dynamic=False) if self.compiled else self._pure

    @contextmanager
    def training(self) -> Iterator[None]:
        """Get the model ready for steps."""
        self._model.train()
        try:
            with self._tap, vectorised(self._model):
                yield
        finally:
            self._model.eval()

    def __call__(
        self,
        at: Descent,
        buffers: Tensors,
        knowledge: Stacked,
        batches: Sequence[Mapping[str, Any]],
        rate: float,
        active: Tensor | None,
    ) -> tuple[Descent, Tensors, Tensor]:
        """Take a step.

        Parameters
        ----------
        at : Descent
            Where the clients are.
        buffers : dict
            The models' buffers, ``[K, ...]``.
        knowledge : Stacked
            What the terms read.
        batches : Sequence[Mapping]
            The fields of the clients' batches, and of the private ones beside them.
        rate : float
            The learning rate.
        active : Tensor, optional
            bool ``[K]``: who has a batch; the others stay as they are.

        Returns
        -------
        Descent, dict, Tensor
            Where they are now, their buffers, and the losses ``[K]``.
        """
        dims = [{n: _dim(value) for n, value in fields.items()} for fields in batches]
        return self._step(
            at, buffers, knowledge.tensors, knowledge.dims, list(batches), dims, rate, active
        )

    def _pure(
        self,
        at: Descent,
        buffers: Tensors,
        tensors: Mapping[str, Any],
        tensor_dims: Mapping[str, Any],
        batches: list[Mapping[str, Any]],
        batch_dims: list[Mapping[str, Any]],
        rate: float,
        active: Tensor | None,
    ) -> tuple[Descent, Tensors, Tensor]:
        # Batch normalisation counts in place.
        before = {n: b.clone() for n, b in buffers.items()} if active is not None else {}
        ask = partial(vmap, in_dims=(0, 0, tensor_dims, batch_dims))
        if self.compiled or self._batch_norms:
            given = tuple(at.parameters)
            step = ask(grad_and_value(self._loss, has_aux=True))
            gradients, (losses, after) = step(given, buffers, tensors, batches)
        else:
            # The clients do not know of each other, so the gradient of the sum is that of each;
            # one function transform less is a third of the overhead of a step. Not with batch
            # normalisation, whose own backward goes wrong here for a single sample in
            # channels_last.
            given = tuple(p.detach().requires_grad_() for p in at.parameters)
            losses, after = ask(self._loss)(given, buffers, tensors, batches)
            gradients = torch.autograd.grad(losses.sum(), given, materialize_grads=True)
        after = {n: b.detach() for n, b in after.items()}
        if active is not None:
            after = {n: choose(active, b, before[n]) for n, b in after.items()}
        return descend(at, gradients, self._options, rate, active), after, losses

    def _loss(
        self,
        given: tuple[Tensor, ...],
        buffers: Tensors,
        tensors: Mapping[str, Any],
        batches: list[Mapping[str, Any]],
    ) -> tuple[Tensor, Tensors]:
        """Return the loss of one client and its buffers; runs under vmap."""
        parameters = dict(zip(self._names, given, strict=True))
        knowledge = {n: Knowledge.of_parts(self._kinds[n], parts) for n, parts in tensors.items()}
        losses = [
            self._sum(terms, parameters, buffers, Batch(**fields), knowledge)
            for terms, fields in zip(self._terms, batches, strict=False)
        ]
        return losses[0] if len(losses) == 1 else losses[0] + losses[1], buffers

    def _sum(
        self,
        terms: Terms,
        parameters: Tensors,
        buffers: Tensors,
        batch: Batch,
        knowledge: Mapping[str, Knowledge],
    ) -> Tensor:
        for module in self._batch_norms:  # one sample has no variance: use the running one
            module.train(len(batch.x) > 1)
        own = {n: t for n, t in {**parameters, **buffers}.items() if not n.startswith(f"{HEADS}.")}
        logits = functional_call(self._model, own, (batch.x,))
        outputs = Outputs(logits, self._tap.features, parameters, classify=self._tap.layer)
        return loop.sum_of(terms, outputs, batch, knowledge)


@contextmanager
def vectorised(model: nn.Module) -> Iterator[None]:
    """Let layers work as they must, or as is fastest, under vmap.

    Group normalisation must have contiguous inputs, and convolutions of one pixel answer in
    channels_last, whatever they are given. Linear layers work on the transpose of a batch, y =
    (W xᵀ)ᵀ: their batched products, backward ones too, then have no narrow side to run along,
    which with few classes makes them several times faster, and logits lie as the log-softmax
    likes them.
    """
    hooks = [
        m.register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))
        for m in _straight(model)
    ]
    layers = [m for m in model.modules() if type(m) is nn.Linear]
    for layer in layers:
        layer.__dict__["forward"] = partial(_linear, layer)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            del layer.__dict__["forward"]


def _straight(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.GroupNorm)]


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    if x.dim() != 2:
        return F.linear(x, layer.weight, layer.bias)
    bias = layer._parameters["bias"]
    if bias is None:
        return (layer.weight @ x.mT).mT
    return torch.addmm(bias[:, None], layer.weight, x.mT).mT


def _dim(value: object) -> int | None:
    return 0 if isinstance(value, Tensor) and value.dim() else None

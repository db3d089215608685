"""One vectorised training step: the gradient of a recipe's terms for all clients of a cohort."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType
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
        The architecture, :func:`vectorised`.
    names : Sequence[str]
        Of the trainable parameters, heads included.
    terms, rehearse : list
        What is minimised on a batch, and on the private batch beside it.
    kinds : Mapping[str, str]
        Of the knowledge that the terms read.
    options : TrainingOptions
        The optimiser, and whether the step is compiled.
    rate : float
        The learning rate.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        terms: Terms,
        rehearse: Terms,
        kinds: Mapping[str, Any],
        options: TrainingOptions,
        rate: float,
    ) -> None:
        self._model, self._names, self._kinds = model, names, kinds
        self._options, self._rate = options, rate
        self._terms = (terms, rehearse)
        everything = [t for _, t in (*terms, *rehearse)]
        tapped = any(getattr(t, "needs_features", False) for t in everything)
        self._tap = FeatureTap(model, tapped)
        self._batch_norms = [m for m in model.modules() if isinstance(m, NORMS)]
        # Hooks, and batch sizes that change, are not for the compiler.
        self.compiled = options.compile and not (tapped or self._batch_norms or _straight(model))
        self._step: Step = _compiled(self._pure) if self.compiled else self._pure

    @contextmanager
    def training(self) -> Iterator[None]:
        """Get the model ready for steps."""
        self._model.train()
        try:
            with self._tap:
                yield
        finally:
            self._model.eval()

    def __call__(
        self,
        at: Descent,
        buffers: Tensors,
        knowledge: Stacked,
        batches: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
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
        batches : Sequence[tuple[Mapping, Mapping]]
            The fields of the clients' batches, and of the private ones beside them; and along
            which dimension the clients lie in each, None where they share it.
        active : Tensor, optional
            bool ``[K]``: who has a batch; the others stay as they are.

        Returns
        -------
        Descent, dict, Tensor
            Where they are now, their buffers, and the losses ``[K]``.
        """
        fields, dims = [list(parts) for parts in zip(*batches, strict=True)]
        return self._step(at, buffers, knowledge.tensors, knowledge.dims, fields, dims, active)

    def _pure(
        self,
        at: Descent,
        buffers: Tensors,
        tensors: Mapping[str, Any],
        tensor_dims: Mapping[str, Any],
        batches: list[Mapping[str, Any]],
        batch_dims: list[Mapping[str, Any]],
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
        return descend(at, gradients, self._options, self._rate, active), after, losses

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


def vectorised(model: nn.Module) -> nn.Module:
    """Let a model's layers work as they must, or as is fastest, under vmap; return the model.

    Group normalisation must have contiguous inputs, and convolutions of one pixel answer in
    channels_last, whatever they are given. Linear layers work on the transpose of a batch, y =
    (W xᵀ)ᵀ: their batched products, backward ones too, then have no narrow side to run along,
    which with few classes makes them several times faster, and logits lie as the log-softmax
    likes them.
    """
    for module in _straight(model):
        module.register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))
    for layer in model.modules():
        if type(layer) is nn.Linear:
            layer.__dict__["forward"] = partial(_linear, layer)
    return model


def _compiled(step: Step) -> Step:
    """Compile the method of one object for good, for tensors of each set of shapes.

    torch keeps what it compiled by the method's code, which all objects share, and looks at every
    call whether anything that the code has read is as it was, which takes as long as a third of
    the arithmetic. So the method gets code of its own, and only the tensors are looked at:
    nothing else changes.
    """
    code = step.__func__  # type: ignore[attr-defined]  # a method
    own = FunctionType(code.__code__.replace(), code.__globals__, code.__name__)
    return torch.compile(  # type: ignore[no-any-return]  # missing in torch's annotations
        MethodType(own, step.__self__),  # type: ignore[attr-defined]  # a method
        dynamic=False,
        options={
            "guard_filter_fn": lambda guards: [g.guard_type == "TENSOR_MATCH" for g in guards]
        },
    )


def _straight(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.GroupNorm)]


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    if x.dim() != 2:
        return F.linear(x, layer.weight, layer.bias)
    bias = layer._parameters["bias"]
    if bias is None:
        return (layer.weight @ x.mT).mT
    return (layer.weight @ x.mT + bias[:, None]).mT

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

from fedkt.clients.cohorts.stacking import OwnAndCommon, Tensors
from fedkt.clients.learners.base import TrainingOptions
from fedkt.clients.learners.norms import norms_of, suit
from fedkt.clients.learners.objective import Terms, sum_of
from fedkt.clients.learners.optimisers import Descent, choose, descend
from fedkt.clients.learners.probe import Nature
from fedkt.clients.learners.taps import FeatureTap
from fedkt.knowledge import Knowledge
from fedkt.objectives.heads import PREFIX as HEADS
from fedkt.objectives.term import Batch, Outputs

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
    nature : Nature
        What trying the model has shown.
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
        nature: Nature,
    ) -> None:
        self._model, self._names, self._kinds = model, names, kinds
        self._options, self._rate = options, rate
        self._terms = (terms, rehearse)
        everything = [t for _, t in (*terms, *rehearse)]
        tapped = any(getattr(t, "needs_features", False) for t in everything)
        self._tap, self._coupled = FeatureTap(model, tapped, nature.open_ended), nature.coupled
        self._norms = list(norms_of(model).values())
        self._frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
        # Hooks, and batch sizes that change, are not for the compiler.
        self.compiled = options.compile and not (tapped or self._coupled or _straight(model))
        self._step: Step = self._compiled() if self.compiled else self._pure
        self._reached: tuple[bool, ...] | None = None  # by the loss, of the parameters

    @contextmanager
    def training(self) -> Iterator[None]:
        """Get the model ready for steps."""
        self._model.train()
        if not self.compiled:  # a compiled step has it for a constant
            self._reached = None
        try:
            with self._tap:
                yield
        finally:
            self._model.eval()

    def __call__(
        self,
        at: Descent,
        buffers: Tensors,
        knowledge: OwnAndCommon,
        batches: Sequence[OwnAndCommon],
        active: Tensor | None,
    ) -> tuple[Descent, Tensors, Tensor]:
        """Take a step.

        Parameters
        ----------
        at : Descent
            Where the clients are.
        buffers : dict
            The models' buffers, and frozen parameters, ``[K, ...]``.
        knowledge : tuple[dict, dict]
            What the terms read: what each client has of it, and what all share.
        batches : Sequence[tuple[dict, dict]]
            The fields of the clients' batches, and of the private ones beside them, likewise.
        active : Tensor, optional
            bool ``[K]``: who has a batch; the others stay as they are.

        Returns
        -------
        Descent, dict, Tensor
            Where they are now, their buffers, and the losses ``[K]``.
        """
        if self._reached is None and self._inside:
            own = knowledge[0], [fields for fields, _ in batches]
            loss = self._loss_beside(knowledge, batches)
            given = tuple(p.detach().requires_grad_() for p in at.parameters)
            # Batch normalisation counts in place.
            losses, _ = vmap(loss)(given, {n: b.clone() for n, b in buffers.items()}, *own)
            found = torch.autograd.grad(losses.sum(), given, allow_unused=True)
            self._reached = tuple(gradient is not None for gradient in found)
        return self._step(at, buffers, knowledge, batches, active)

    @property
    def _inside(self) -> bool:
        """Whether gradients are taken inside vmap, which does not say what is not reached."""
        return self.compiled or self._coupled

    def _loss_beside(
        self, knowledge: OwnAndCommon, batches: Sequence[OwnAndCommon]
    ) -> Callable[..., tuple[Tensor, Tensors]]:
        """Return the loss of one client as a function of what is its own."""
        return partial(self._loss, knowledge[1], [fields for _, fields in batches])

    def _pure(
        self,
        at: Descent,
        buffers: Tensors,
        knowledge: OwnAndCommon,
        batches: Sequence[OwnAndCommon],
        active: Tensor | None,
    ) -> tuple[Descent, Tensors, Tensor]:
        own = knowledge[0], [fields for fields, _ in batches]
        loss = self._loss_beside(knowledge, batches)
        # Batch normalisation counts in place.
        before = {n: b.clone() for n, b in buffers.items()} if active is not None else {}
        if self._inside:
            given = tuple(at.parameters)
            step = vmap(grad_and_value(loss, has_aux=True))
            found, (losses, after) = step(given, buffers, *own)
            pairs = zip(found, self._reached or (), strict=True)
            gradients = [gradient if reached else None for gradient, reached in pairs]
        else:
            # The clients do not know of each other, so the gradient of the sum is that of each;
            # one function transform less is a third of the overhead of a step. Not with batch
            # normalisation, whose own backward goes wrong here for a single sample in
            # channels_last.
            given = tuple(p.detach().requires_grad_() for p in at.parameters)
            losses, after = vmap(loss)(given, buffers, *own)
            gradients = list(torch.autograd.grad(losses.sum(), given, allow_unused=True))
        after = {n: b.detach() for n, b in after.items()}
        if active is not None:
            after = {n: choose(active, b, before[n]) for n, b in after.items()}
        return descend(at, gradients, self._options, self._rate, active), after, losses

    def _compiled(self) -> Step:
        """Return the step, compiled.

        torch keeps what it compiled by the method's code, which all objects share, and looks at
        every call whether anything that the code has read is as it was, which takes as long as a
        third of the arithmetic. So the method gets code of its own, and only the tensors are
        looked at (their shapes, and which are one and the same): nothing else here changes.
        """
        code = Advance._pure.__code__.replace()
        options: dict[str, Any] = {}
        if hasattr(torch.compiler, "keep_tensor_guards_unsafe"):  # so the option is known
            kept = "TENSOR_MATCH", "DUPLICATE_INPUT"
            options = {"guard_filter_fn": lambda guards: [g.guard_type in kept for g in guards]}
        own = MethodType(FunctionType(code, globals(), code.co_name), self)
        return torch.compile(own, dynamic=False, options=options)

    def _loss(
        self,
        known_to_all: Mapping[str, Any],
        seen_by_all: Sequence[Mapping[str, Any]],
        given: tuple[Tensor, ...],
        buffers: Tensors,
        known: Mapping[str, Any],
        seen: Sequence[Mapping[str, Any]],
    ) -> tuple[Tensor, Tensors]:
        """Return the loss of one client and its buffers; runs under vmap."""
        parameters = dict(zip(self._names, given, strict=True))
        knowledge = {
            n: Knowledge.of_parts(kind, {**known_to_all[n], **known[n]})
            for n, kind in self._kinds.items()
        }
        losses = [
            self._sum(terms, parameters, buffers, Batch(**own, **common), knowledge)
            for terms, own, common in zip(self._terms, seen, seen_by_all, strict=False)
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
        suit(self._norms, batch.x)
        own = {n: t for n, t in {**parameters, **buffers}.items() if not n.startswith(f"{HEADS}.")}
        logits = functional_call(self._model, own, (batch.x,))
        parameters = {**parameters, **{n: buffers[n] for n in self._frozen}}
        classify = self._tap.classifier(own)
        outputs = Outputs(logits, self._tap.features, parameters, classify=classify)
        return sum_of(terms, outputs, batch, knowledge)


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


def _straight(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.GroupNorm)]


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    if x.dim() != 2:
        return F.linear(x, layer.weight, layer.bias)
    bias = layer._parameters["bias"]
    if bias is None:
        return (layer.weight @ x.mT).mT
    return (layer.weight @ x.mT + bias[:, None]).mT

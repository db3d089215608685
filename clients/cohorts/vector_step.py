"""One vectorised training step: the gradient of a recipe's terms for all clients of a cohort."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from fedkt.augmentations import Augmentation, augmentations_of, augmented
from fedkt.clients.cohorts.stacking import OwnAndCommon, Tensors
from fedkt.clients.learners.asking import asking
from fedkt.clients.learners.feature_hook import FeatureTap
from fedkt.clients.learners.norms import norms_in_training, suit
from fedkt.clients.learners.objective import Terms, learning_rate, sum_of
from fedkt.clients.learners.optimisers import Descent, choose, descend
from fedkt.clients.learners.probe import Nature
from fedkt.knowledge import Knowledge
from fedkt.objectives.heads import PREFIX as HEADS
from fedkt.objectives.heads import Answer, answering
from fedkt.objectives.term import Batch, Outputs
from fedkt.optimisers import optimiser_of
from fedkt.recipe import Train
from fedkt.schedules import is_scheduled
from fedkt.training import TrainingOptions

Step = Callable[..., tuple[Descent, Tensors, Tensor]]


class Advance:
    """The training step of one model and one set of terms; it holds no data of clients.

    Parameters
    ----------
    model : torch.nn.Module
        The architecture, :func:`vectorised`.
    names : Sequence[str]
        Names of the trainable parameters, heads included.
    terms, rehearse : list
        Terms on a batch, and on the private batch beside it.
    kinds : Mapping[str, str]
        Kinds of the knowledge that the terms read, by its name.
    options : TrainingOptions
        The optimiser, and whether the step is compiled.
    step : Train
        The step of the recipe, for its rate.
    nature : Nature
        Properties of the model.
    moves : Sequence[bool]
        Of each parameter, whether the step trains it.
    answers : Mapping[str, Answer]
        The recipe's nets as functions, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        terms: Terms,
        rehearse: Terms,
        kinds: Mapping[str, Any],
        options: TrainingOptions,
        step: Train,
        nature: Nature,
        moves: Sequence[bool],
        answers: Mapping[str, Answer],
    ) -> None:
        self._moves, self._answers = tuple(moves), answers
        self._model, self._names, self._kinds = model, names, kinds
        self._optimiser, self._train, self._options = optimiser_of(options), step, options
        self._terms = (terms, rehearse)
        chain = augmentations_of(options.augment)
        self._augmentations = (chain if step.on == "private" else (), chain)
        everything = [t for _, t in (*terms, *rehearse)]
        tapped = any(getattr(t, "needs_features", False) for t in everything)
        self._tap, self._coupled = FeatureTap(model, tapped, nature.open_ended), nature.coupled
        self._norms: list[nn.Module] = []  # in training
        # The compiler cannot handle hooks, batch sizes that change, schedules, or nets.
        hooked = tapped or _straight(model) or model._forward_hooks or model._forward_pre_hooks
        hindered = hooked or self._coupled or is_scheduled(step) or answers
        self.compiled = options.compile and not hindered
        self._step: Step = self._compiled() if self.compiled else self._pure
        self._reached: tuple[bool, ...] | None = None  # whether the loss reaches each parameter

    @contextmanager
    def training(self) -> Iterator[None]:
        """Keep the model in training mode, its features hooked, while inside."""
        self._model.train()
        self._norms = norms_in_training(self._model)
        if not self.compiled:  # a compiled step has it as a constant
            self._reached = None
        try:
            with self._tap, answering(self._answers):
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
        """Return the clients after one step.

        Parameters
        ----------
        at : Descent
            Parameters and moments of the clients.
        buffers : dict
            The models' buffers, ``[K, ...]``.
        knowledge : tuple[dict, dict]
            Knowledge that the terms read: the part of each client, and the part that all share.
        batches : Sequence[tuple[dict, dict]]
            The fields of the clients' batches, and of the private ones beside them, likewise.
        active : Tensor, optional
            bool ``[K]``: clients with a batch; the others stay as they are.

        Returns
        -------
        Descent, dict, Tensor
            Parameters and moments after the step, the buffers, and the losses ``[K]``.
        """
        if self._reached is None and self._inside:
            # Copies, because batch normalisation changes its buffers in place.
            copies = {n: b.clone() for n, b in buffers.items()}
            gradients, *_ = self._of_sum(at, copies, *self._separated(knowledge, batches))
            self._reached = tuple(gradient is not None for gradient in gradients)
        return self._step(at, buffers, knowledge, batches, active)

    @property
    def _inside(self) -> bool:
        """Whether gradients are taken inside vmap, which gives zeros for parameters not reached."""
        return self.compiled or self._coupled

    def _separated(
        self, knowledge: OwnAndCommon, batches: Sequence[OwnAndCommon]
    ) -> tuple[Callable[..., tuple[Tensor, Tensors]], tuple[Any, ...]]:
        """Return the loss of one client as a function of its separate tensors, and these."""
        loss = partial(self._loss, knowledge[1], [fields for _, fields in batches])
        return loss, (knowledge[0], [fields for fields, _ in batches])

    def _of_sum(
        self,
        at: Descent,
        buffers: Tensors,
        loss: Callable[..., tuple[Tensor, Tensors]],
        separate: tuple[Any, ...],
    ) -> tuple[list[Tensor | None], Tensor, Tensors]:
        """Return gradients of the sum of the losses, the losses, and the buffers.

        The gradient is None where the sum does not reach a parameter, or the step does not move it.
        """
        pairs = zip(at.parameters, self._moves, strict=True)
        parameters = tuple(p.detach().requires_grad_(moves) for p, moves in pairs)
        losses, after = vmap(loss)(parameters, buffers, *separate)
        sought = [p for p in parameters if p.requires_grad]
        found = iter(torch.autograd.grad(losses.sum(), sought, allow_unused=True))
        return [next(found) if p.requires_grad else None for p in parameters], losses, after

    def _pure(
        self,
        at: Descent,
        buffers: Tensors,
        knowledge: OwnAndCommon,
        batches: Sequence[OwnAndCommon],
        active: Tensor | None,
    ) -> tuple[Descent, Tensors, Tensor]:
        loss, separate = self._separated(knowledge, batches)
        # Copies, because batch normalisation changes its buffers in place.
        before = {n: b.clone() for n, b in buffers.items()} if active is not None else {}
        if self._inside:
            step = vmap(grad_and_value(loss, has_aux=True))
            dense, (losses, after) = step(tuple(at.parameters), buffers, *separate)
            pairs = zip(dense, self._reached or (), strict=True)
            gradients = [gradient if reached else None for gradient, reached in pairs]
        else:
            # The losses of clients are independent, so the gradient of the sum is that of each. One
            # function transform less saves a third of the overhead of a step. Not with batch
            # normalisation, whose backward goes wrong here for a single sample in channels_last.
            gradients, losses, after = self._of_sum(at, buffers, loss, separate)
        after = {n: b.detach() for n, b in after.items()}
        if active is not None:
            after = {n: choose(active, b, before[n]) for n, b in after.items()}
        rate = learning_rate(self._train, self._options, batches[0][1].get("progress", 0.0))
        return (
            descend(at, gradients, self._optimiser, rate, active, self._options.clip_norm),
            after,
            losses,
        )

    def _compiled(self) -> Step:
        """Return the step, compiled.

        torch stores compiled steps by the code of the method, which all objects share. At every
        call it checks that nothing the code has read has changed, which takes as long as a third
        of the arithmetic. So every object gets a copy of the code, and only the tensors are
        checked (their shapes and identities): nothing else changes here.
        """
        code = Advance._pure.__code__.replace()
        options: dict[str, Any] = {}
        if hasattr(torch.compiler, "keep_tensor_guards_unsafe"):  # so the option is known
            checked = "TENSOR_MATCH", "DUPLICATE_INPUT"
            options = {"guard_filter_fn": lambda guards: [g.guard_type in checked for g in guards]}
        step = MethodType(FunctionType(code, globals(), code.co_name), self)
        return torch.compile(step, dynamic=False, options=options)

    def _loss(
        self,
        known_to_all: Mapping[str, Any],
        seen_by_all: Sequence[Mapping[str, Any]],
        values: tuple[Tensor, ...],
        buffers: Tensors,
        known: Mapping[str, Any],
        seen: Sequence[Mapping[str, Any]],
    ) -> tuple[Tensor, Tensors]:
        """Return the loss of one client and its buffers; runs under vmap."""
        parameters = dict(zip(self._names, values, strict=True))
        knowledge = {
            n: Knowledge.of_parts(kind, {**known_to_all[n], **known[n]})
            for n, kind in self._kinds.items()
        }
        losses = [
            self._sum(
                terms, parameters, buffers, _changed(chain, Batch(**separate, **common)), knowledge
            )
            for terms, chain, separate, common in zip(
                self._terms, self._augmentations, seen, seen_by_all, strict=False
            )
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
        state = {**parameters, **buffers}
        tensors = {n: t for n, t in state.items() if not n.startswith(f"{HEADS}.")}
        logits = functional_call(self._model, tensors, (batch.x,))
        of_heads = [n for n in buffers if n not in tensors]  # frozen, for heads have no buffers
        parameters = {**parameters, **{n: buffers[n] for n in of_heads}}
        classify = self._tap.classifier(tensors)
        ask = asking(self._model, self._tap, parameters, buffers)
        outputs = Outputs(logits, self._tap.features, parameters, classify=classify, ask=ask)
        return sum_of(terms, outputs, batch, knowledge)


def _changed(chain: Sequence[Augmentation], batch: Batch) -> Batch:
    """Return a batch after augmentations."""
    if not chain or batch.key is None:
        return batch
    return replace(batch, x=augmented(chain, batch.x, batch.key))


def vectorised(model: nn.Module) -> nn.Module:
    """Return a model, changed in place, whose layers are correct and fast under vmap.

    Group normalisation needs contiguous inputs, and convolutions of one pixel return
    channels_last in any case. Linear layers work on the transpose of a batch, y = (W xᵀ)ᵀ. So
    their batched products, also backward, do not run along a narrow side. With few classes this
    is several times faster, and logits have the memory layout that suits the log-softmax.
    """
    for module in _straight(model):
        module.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
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

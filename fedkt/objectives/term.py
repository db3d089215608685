"""Loss terms: their protocol, and the batch and outputs that they get.

A term is a pure function of tensors, ``term(outputs, batch, knowledge) -> scalar``,
without reductions over padding: means are weighted by ``batch.weight``, so that a term
runs unchanged in a loop and under ``torch.func.vmap``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from fedkt.errors import KnowledgeError
from fedkt.knowledge import Knowledge, NamedTensors
from fedkt.noise import normal


@dataclass(frozen=True)
class Batch:
    """One batch of samples.

    Parameters
    ----------
    x : Tensor
        Inputs, ``[B, ...]`` float32.
    y : Tensor, optional
        Labels, ``[B]`` int64; ``None`` on unlabelled data.
    ids : Tensor
        Sample ids, ``[B]`` int64.
    weight : Tensor
        ``[B]``, in the parameters' dtype; 0 marks padding.
    log_prior : Tensor, optional
        ``[C]``, log of the client's own class prior; the executors always give it.
    progress : float
        The part of the run that lies behind this batch, in [0, 1): with B batches a round,
        (b + (r - 1) B) / (R B) for batch b of round r of R.
    key : Tensor, optional
        int64 scalar, the name of the batch's random numbers; the executors always give it.
    beside_y : Tensor, optional
        Labels of the samples beside the batch (``Train(beside=...)``), ``[B']`` int64; ``None``
        without samples beside, or where they have no labels.
    """

    x: Tensor
    y: Tensor | None
    ids: Tensor
    weight: Tensor
    log_prior: Tensor | None = None
    progress: float = 0.0
    key: Tensor | None = None
    beside_y: Tensor | None = None

    def noise(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return standard normal numbers of a shape, in the dtype of ``weight``.

        They depend on the seed, the round, the client, the step, the number of the batch in it and
        the ``name``, and on nothing else. So the executors draw the same ones, where torch's global
        generator gives others in a cohort. The first rows are the same however many there are.

        Raises
        ------
        KnowledgeError
            If the batch was made without a key.
        """
        if self.key is None:
            raise KnowledgeError("this Batch has no key to draw noise from: key=torch.tensor(0)")
        return normal(self.key, name, shape).to(self.weight.dtype)


@dataclass(frozen=True)
class Outputs:
    """Outputs of a model on a batch.

    Parameters
    ----------
    logits : Tensor
        ``[B, C]``.
    features : Tensor, optional
        Features ``[B, d]``: the input of the layer that the model names as its
        ``feature_layer``, else of its last linear layer (penultimate features); present when
        a term of the step asks for them (``needs_features``).
    parameters : Mapping[str, Tensor]
        The model's trainable parameters by name, those of the recipe's heads included
        (see ``fedkt.objectives.heads``).
    beside : Outputs, optional
        Outputs on the samples drawn beside the batch (``Train(beside=...)``), ``[B', ...]``;
        of features that came as knowledge there are no logits (``[B', 0]``).
    classify : callable, optional
        The part of the model behind the features, ``classify(z, weights=None)``: from features
        ``[n, d]`` to logits ``[n, C]``; present with them. It is the client's own in every
        executor, and a pure function: running statistics there do not move. ``weights`` takes
        tensors by the model's names instead of the client's own; names of other parts are
        ignored. It raises ``ConfigError`` where something follows that part in the model.
    ask : callable, optional
        The whole network with other weights, ``ask(weights, x)``: ``weights`` are a mapping by the
        model's names, or knowledge of them, and take the place of the client's own. It returns
        outputs for ``x [n, ...]`` in evaluation mode and changes nothing. It is differentiable in
        x and in all weights; fused and kept ones take no gradient by themselves. It raises
        ``ConfigError`` for a name or a shape that the network does not have.
    norms : Mapping[str, tuple[Tensor, Tensor]]
        What the layers of batch normalisation took in, by the layer's name: mean and population
        variance of each channel, ``[c]`` each. Where a model at the server is asked for it.
    """

    logits: Tensor
    features: Tensor | None
    parameters: Mapping[str, Tensor]
    beside: Outputs | None = None
    classify: Callable[..., Tensor] | None = None
    ask: Callable[[NamedTensors, Tensor], Outputs] | None = None
    norms: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """What a term teaches, for models without gradients: the answer that it wants.

    Parameters
    ----------
    source : str, optional
        The fused knowledge whose answers are the target; None: the labels.
    adjusted : bool
        Whether the answer is to be free of the client's own class prior.
    floor : float
        In [0, 1): the prior that it is freed of is (1 - floor) π + floor / C.
    temperature : float
        T, where answers softened by T are compared.
    """

    source: str | None = None
    adjusted: bool = False
    floor: float = 0.0
    temperature: float = 1.0


@runtime_checkable
class Term(Protocol):
    """A differentiable loss on a batch.

    Implementations are frozen dataclasses whose fields are numbers, strings or other
    registered dataclasses, so that a recipe can travel as plain data.
    """

    part: ClassVar[str] = "objectives"

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the loss, a scalar."""
        ...

    def needs(self) -> tuple[str, ...]:
        """Return the names of the knowledge, fused or kept, that the term reads."""
        return ()

    # A class attribute ``needs_features``, ``needs_beside`` or ``needs_labels`` that is true asks
    # for ``outputs.features``, ``outputs.beside`` or ``batch.y``; a term without samples beside
    # adds nothing. ``follows_progress`` says that the term reads ``batch.progress``. A method
    # ``as_target() -> Target | None`` says what the term teaches, if that can be said without
    # gradients. ``per_sample`` says that the loss is a mean over the batch of losses that depend on
    # one sample each.


class Transform(Protocol):
    """A change of a private batch's inputs before the model sees them.

    Implementations are frozen dataclasses as terms are, registered as part ``transforms``.
    """

    part: ClassVar[str] = "transforms"

    def __call__(self, x: Tensor, knowledge: Mapping[str, Knowledge]) -> Tensor:
        """Return inputs of the shape of ``x [B, ...]``."""
        ...

    def needs(self) -> tuple[str, ...]:
        """Return the names of the knowledge, fused or kept, that the transform reads."""
        return ()


@runtime_checkable
class Divergence(Protocol):
    """A distance of a student's logits from a target, per sample."""

    part: ClassVar[str] = "objectives"

    def __call__(self, logits: Tensor, target: Tensor, kind: str) -> Tensor:
        """Return the divergence ``[B]`` of ``logits`` from ``target``, both ``[B, C]``.

        ``kind`` says whether the target holds ``logits`` or ``probabilities``.
        """
        ...


def target_of(term: Term) -> Target | None:
    """Return what a term teaches; None if that takes gradients."""
    says: Callable[[], Target | None] | None = getattr(term, "as_target", None)
    return None if says is None else says()


def weighted_mean(losses: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of ``losses [B]`` weighted by ``weight [B]``; 0 for padding only."""
    return (losses * weight).sum() / weight.sum().clamp_min(1e-12)


def weighted_mean_rows(x: Tensor, weight: Tensor) -> Tensor:
    """Return the mean ``[d]`` of the rows of ``x [n, d]`` weighted by ``weight [n]``."""
    return (x * weight[:, None]).sum(0) / weight.sum().clamp_min(1e-12)

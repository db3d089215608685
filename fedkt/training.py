"""Training by gradient descent: its options, for clients and models at the server; its extent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any, ClassVar, Literal, cast

from fedkt import registry
from fedkt.augmentations import augmentations_of
from fedkt.optimisers import optimiser_of
from fedkt.options import AtLeastOne, Factor, Memory, Positive, checked


@checked
@dataclass(frozen=True)
class TrainingOptions:
    """How networks train by gradient descent, unless a step says otherwise; ``[training]``.

    Parameters
    ----------
    optimiser : str
        A registered optimiser (``adam``, ``adamw``, ``sgd``) or ``path/to/file.py:Class``; see
        ``fedkt.optimisers``.
    learning_rate, momentum, weight_decay : float
        Options of the optimiser; momentum is for ``sgd`` only.
    batch_size, public_batch_size : int
        Samples in a batch of private and of public data.
    optimiser_state : {"keep", "reset"}
        Keep one optimiser per client over phases and rounds, or start anew at every
        step. Loading other weights always starts anew.
    compile : bool
        Whether cohorts run their steps under ``torch.compile``. Compiling takes some ten seconds
        for every kind of step in each process, and again for each other number of clients or size
        of batch (torch compiles eight). So it is for long runs in which all clients take part.
    precision : {"float32", "bfloat16"}
        Precision of the products in training. With ``bfloat16`` they are rounded to 8 bits of
        mantissa (torch's autocast); weights, optimiser, losses and answers stay in float32. Loop
        executor only.
    class_weights : {"none", "balanced"}
        With ``balanced`` a private sample of class c counts n / (K n_c) times: n samples, n_c of
        them of class c, K classes that the client has. So all its classes count the same, in every
        term of a step on private data, and in the class prior that terms read.
    clip_norm : float, optional
        The largest norm of the gradient of all parameters together, per client; a longer gradient
        is shortened to it. None: no limit.
    augment : str
        How private samples are changed at random each time they are trained on: augmentations
        joined by ``+``, as in ``flip+crop:2+noise:0.1``; see ``fedkt.augmentations``. Knowledge
        is made, and answers are measured, without it.
    """

    optimiser: str = "adam"
    learning_rate: Positive = 1e-3
    momentum: Memory = 0.9
    weight_decay: Factor = 0.0
    batch_size: AtLeastOne = 32
    public_batch_size: AtLeastOne = 64
    optimiser_state: Literal["keep", "reset"] = "keep"
    compile: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    class_weights: Literal["none", "balanced"] = "none"
    clip_norm: Positive | None = None
    augment: str = "none"

    # For configurations, which read the options by these names.
    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        optimiser_of(self)  # an unknown name, or a value that the optimiser refuses, shows here
        augmentations_of(self.augment)

    @property
    def told(self) -> list[str]:
        """The options as texts, ``name: value``; equal wherever the training is."""
        chain = [
            registry.registered_name("augmentations", type(part)) + str(astuple(cast(Any, part)))
            for part in augmentations_of(self.augment)
        ]
        values = {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            # A part in a file has another path at every node, and the same name.
            "optimiser": registry.registered_name("optimisers", type(optimiser_of(self))),
            "augment": "+".join(chain) or "none",
        }
        return [f"{name}: {_plain(value)}" for name, value in values.items()]

    @property
    def loop_only(self) -> str:
        """Why no cohort can train so, in one line; empty if one can."""
        if self.precision != "float32":
            return f"cohorts train in float32; {self.precision} needs the loop"
        return optimiser_of(self).loop_only

    @property
    def additions(self) -> tuple[str, ...]:
        """The names of those options in use that not every learner can follow."""
        names = ("class_weights", "clip_norm", "augment")
        return tuple(name for name in names if getattr(self, name) not in (None, "none"))


def _plain(value: object) -> str:
    """Return a value as text, the same for 1 and 1.0."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(cast(float, value)) if whole else value)


@dataclass(frozen=True)
class Trained:
    """What a training step has done.

    Parameters
    ----------
    steps : int
        K, steps down the gradient.
    samples : int
        Samples seen, with repetitions; rehearsal not included.
    rates : float
        The sum of the learning rates of the steps: K η where the rate is constant.
    """

    steps: int = 0
    samples: int = 0
    rates: float = 0.0

"""The base of augmentations, and chains of them by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

from torch import Tensor

from fedkt import registry
from fedkt.calls import made, split
from fedkt.errors import ConfigError
from fedkt.noise import Draws
from fedkt.options import hyper_parameters

NONE = "none"


class Augmentation(ABC):
    """Base of all augmentations, which are registered frozen dataclasses.

    An augmentation draws from ``draws`` only, and treats each row by itself. So the loop and the
    cohorts (``torch.func.vmap``) see the same samples.
    """

    part: ClassVar[str] = "augmentations"

    @abstractmethod
    def __call__(self, x: Tensor, draws: Draws) -> Tensor:
        """Return changed inputs, of the shape and dtype of ``x [B, ...]``.

        Parameters
        ----------
        x : Tensor
            Inputs of a batch, not to be changed in place. There may be rows of padding at the end.
        draws : Draws
            The random numbers of the batch.

        Raises
        ------
        ConfigError
            If such inputs cannot be changed so.
        """


def augmentations_of(text: str) -> Sequence[Augmentation]:
    """Return the augmentations of ``"flip+crop:2"``, in order; ``"none"`` stands for none.

    Parameters
    ----------
    text : str
        Names joined by ``+``, each with its options: ``NAME``, ``NAME:VALUE`` for the first option
        or ``NAME(option=value)``.

    Raises
    ------
    ConfigError
        For an unknown name or option.
    """
    return _chain(text, registry.version())


def augmented(chain: Sequence[Augmentation], x: Tensor, key: Tensor) -> Tensor:
    """Return the inputs ``[B, ...]`` of a batch after a chain of augmentations.

    Parameters
    ----------
    chain : Sequence[Augmentation]
        The augmentations, in order.
    x : Tensor
        ``[B, ...]``.
    key : Tensor
        int64 scalar, the key of the batch.
    """
    for place, augmentation in enumerate(chain):
        x = augmentation(x, Draws(key, f"augment/{place}"))
    return x


def require_images(x: Tensor, name: str) -> None:
    """Refuse inputs that are no images ``[B, C, H, W]``.

    Raises
    ------
    ConfigError
        Naming the augmentation.
    """
    if x.dim() != 4:
        raise ConfigError(
            f"augmentation {name} is for images; a sample here is {list(x.shape[1:])}"
        )


@lru_cache(maxsize=64)
def _chain(text: str, version: int) -> Sequence[Augmentation]:
    """Return a chain; ``version`` of the registry belongs to the key of the cache."""
    calls = (_call(item) for item in split(text, "+") if item != NONE)
    return tuple(made("augmentations", call) for call in calls)


def _call(item: str) -> str:
    """Return ``crop(pixels=2)`` for ``crop:2``; all else as it is."""
    name, value = registry.split_argument(item)
    if "(" in item or not value:
        return item
    options = hyper_parameters(registry.lookup("augmentations", name))
    if not options:
        raise ConfigError(f"augmentation {name} has no options: write {name}, not {item}.")
    return f"{name}({options[0]}={value})"

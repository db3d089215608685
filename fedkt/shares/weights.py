"""Weights of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from fedkt import about
from fedkt.about import Model, named
from fedkt.data.samples import ClientData
from fedkt.errors import ConfigError
from fedkt.knowledge import Kind, Knowledge
from fedkt.objectives.heads import PREFIX
from fedkt.registry import register
from fedkt.shares.share import Asked, Share, ShareWork
from fedkt.shares.sizes import Sizes
from fedkt.upload_check import Expected


@register(name="weights")
@dataclass(frozen=True)
class Weights(Share):
    """The weights of a model or of a part of it (float parameters and buffers).

    Clients that exchange a part of the model agree on the names and shapes of its tensors. A
    network beside it (``of="heads.NAME."``) is the same for all, whatever their models.

    Parameters
    ----------
    name : str
        The share's name.
    local_norms : bool
        Whether batch normalisation, its affine map and running statistics, stays with the
        client and is neither shared nor loaded (FedBN).
    group : {"", "architecture"}
        Whether all clients have one architecture, or the server stacks those of each architecture
        by themselves (``Uploads.groups``).
    of : str
        The part: the beginning of the names of its tensors, such as ``"heads.NAME."`` for a network
        beside the model; ``"@head"``, the layer that classifies the features; ``"@body"``, the rest
        of the model without the recipe's heads. Empty: all.
    but : str
        The part to leave out, in the same words. Empty: none.
    """

    name: str = "weights"
    local_norms: bool = False
    group: Literal["", "architecture"] = ""
    of: str = ""
    but: str = ""
    private: ClassVar[bool] = False

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "weights"

    @property
    def one_architecture(self) -> bool:
        """Whether all clients must have one architecture; of heads, those are equal by the recipe.

        A net like the client's own is equal only where the models are, which the greeting finds.
        """
        return not self.group and not self.of.startswith(f"{PREFIX}.")

    @property
    def begins(self) -> bool:
        """Whether all clients begin with the same weights."""
        return not self.group

    def whole(self, world: str) -> bool:
        """Return whether all weights of a network are shared, by all clients alike."""
        parts = ("",) if world == "model" else ("", f"{world}.")
        return not (self.local_norms or self.group or self.but) and self.of in parts

    def refuses(self, model: Model, data: ClientData) -> str | None:
        """Refuse a part that the model does not have."""
        try:
            some = not self._is_part or model.weights(self.local_norms, self.of, self.but).tensors
            if self.but and not model.weights(of=self.but).tensors:  # else it would be sent
                return f"share {self.name!r}: there is no part {self.but} to leave out"
        except ConfigError as error:
            return str(error).rstrip(".")
        return None if some else f"share {self.name!r}: the {self._what} has no weights here"

    def about(self, model: Model, data: ClientData) -> Mapping[str, str]:
        """Return the architecture, of the part if it is one, the inputs and their preprocessing."""
        if not self._is_part:
            return about.of_weights(model, data)
        return about.of_part(self._what, self.first(model), data)

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the weights."""
        return self.first(model)

    def first(self, model: Model) -> Knowledge:
        """Return the weights of a model."""
        return model.weights(self.local_norms, self.of, self.but)

    def share_of(self, weights: Knowledge, about: Mapping[str, str]) -> Knowledge:
        """Return the part of the first global weights that clients share."""
        if not self._is_part:
            return weights
        names = named(about[self._what])
        if missing := [name for name in names if name not in weights.tensors]:
            raise ConfigError(
                f"The first global weights have no {missing[0]!r}, which clients share as "
                f"{self.name!r}."
            )
        return Knowledge("weights", {name: weights.tensors[name] for name in names})

    def expected(self, asked: Asked) -> Expected:
        """Return tensors of the shapes of the first global weights; of any if there are none."""
        if self.group or not asked.weights:
            return Expected(self.kind, None, None)
        told = asked.about.get(self._what)  # of a part only
        names = asked.weights if told is None else named(told)
        return Expected(self.kind, None, {name: asked.weights[name] for name in names})

    def upload_bytes(self, sizes: Sizes) -> int:
        """Return the bytes of all floats of the part, but for those that stay."""
        left_out = sizes.part(self.but) if self.but else frozenset()
        left_out |= sizes.norms if self.local_norms else frozenset()
        return sizes.floats * sum(sizes.tensors[n] for n in sizes.part(self.of) - left_out)

    @property
    def _is_part(self) -> bool:
        return bool(self.of or self.but)

    @property
    def _what(self) -> str:
        """The part in words, which name it in the greeting."""
        return f"part {self.of or 'model'}" + (f" without {self.but}" if self.but else "")

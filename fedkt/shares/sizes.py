"""The sizes that formulas of uploaded bytes are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

INT64 = 8  # bytes; ids and counts take as many


@dataclass(frozen=True)
class Sizes:
    """The sizes of a federation and of a client's model.

    Parameters
    ----------
    public : int
        M, the samples of the public set.
    classes : int
        C.
    input_shape : tuple[int, ...]
        The shape of one sample.
    tensors : Mapping[str, int]
        How many numbers each float tensor of the model holds, by name; those of heads begin with
        ``heads.``.
    norms : frozenset[str]
        The names of tensors that belong to batch normalisation.
    head : frozenset[str]
        The names of the tensors of the layer that classifies the features.
    features : int
        d, the width of the model's features; 0 if it has none.
    floats : int
        Bytes in which a float travels: 4, or 2 under the codec ``float16``.
    private : int
        n, the client's training samples.
    """

    public: int
    classes: int
    input_shape: tuple[int, ...]
    tensors: Mapping[str, int] = field(default_factory=dict)
    norms: frozenset[str] = frozenset()
    head: frozenset[str] = frozenset()
    features: int = 0
    floats: int = 4
    private: int = 0

    def part(self, pattern: str) -> frozenset[str]:
        """Return the names of the tensors that a part's pattern means; see ``Weights``."""
        own = frozenset(name for name in self.tensors if not name.startswith("heads."))
        parts = {"@head": self.head, "@body": own - self.head}
        return parts.get(pattern) or frozenset(n for n in self.tensors if n.startswith(pattern))

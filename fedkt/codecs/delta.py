"""The difference from what the receiver decoded last."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from fedkt import registry
from fedkt.codecs.codec import About, Arrays, Codec, Size
from fedkt.codecs.rows import on_simplex
from fedkt.errors import ConfigError, KnowledgeError
from fedkt.registry import register
from fedkt.schedules import is_scheduled

CHANGED = ":changed"


@register
@dataclass(frozen=True)
class Delta(Codec):
    """Codec that sends how rows differ from the base, and no rows that do not.

    With the base b, what the receiver decoded last, x travels as ``d = E(x) − E(b)``, and the
    receiver, who computes the same ``E(b)``, has ``E(x) = E(b) + d``: delta coding as in CFD
    (Sattler et al., arXiv:2012.00632). E is another codec, which quantises; or the identity.

    - With a ``codec``, and for integers, d is taken of the bits, modulo the size of the type. It is
      exact: ``delta(codec=cfd)`` decodes to the very bits that ``cfd`` does.
    - Floats without a codec travel as their difference in float32, and ``b + d`` is not lossless:
      the error is at most ``2⁻²³·(|b| + |x|)``; rows of probabilities are divided by their sum
      afterwards. The next codecs of the chain get the difference, as in ``delta+uint8``, the step
      of which then is that of the change; their errors do not add up over rounds, since the base
      is what was decoded.

    Without a base ``E(x)`` travels whole. The next codecs of the chain get it as they get
    differences; a codec named by ``then`` gets differences alone: ``delta(then=svd)`` sends the
    whole exactly, and updates as factors.

    Bytes of an array of n rows (first axis) of w bytes each as E makes them, u of them unchanged:
    ``⌈n/8⌉ + (n − u)·w`` if u > 0, else ``n·w``.

    Parameters
    ----------
    codec : Codec, optional
        E: a registered codec without a base, as ``cfd(bits=2)``; None: the identity. Both ends
        compute it, so it makes the same bits on all machines and follows no schedule.
    then : Codec, optional
        A registered codec without a base for differences of floats, instead of ``codec``.
    """

    name: ClassVar[str] = "delta"
    uses_base: ClassVar[bool] = True

    codec: Codec | None = None
    then: Codec | None = None

    def __post_init__(self) -> None:
        if any(inner is not None and inner.uses_base for inner in (self.codec, self.then)):
            raise ConfigError("delta: its codec must not refer to a base too.")
        if is_scheduled(self.codec):
            raise ConfigError("delta: both ends compute its codec, which must follow no schedule.")
        if self.codec is not None and not self.codec.same_bits:
            name = registry.short_name("codecs", type(self.codec))
            raise ConfigError(
                f"delta: {name} makes other bits on another machine, and both ends encode the base "
                f"with its codec; write delta+{name}."
            )
        if self.codec is not None and self.then is not None:
            raise ConfigError("delta: give codec or then, not both.")

    def encode(self, arrays: Arrays, about: About) -> Arrays:
        """Return differences; refuse floats that are too far apart."""
        now, encoded = self._inner(arrays, about), {}
        before = {} if about.base is None else self._inner(about.base, about)
        for name, array in now.items():
            if not array.size or not _alike(array, before.get(name)):
                encoded[name] = array
                continue
            with np.errstate(over="ignore"):
                difference = self._rows(array) - self._rows(before[name])
            if difference.dtype.kind == "f" and not np.isfinite(difference).all():
                raise KnowledgeError(f"{name} and its base are too far apart for float32")
            changed = difference.reshape(len(difference), -1).any(1)
            encoded[name] = difference[changed]
            encoded[name + CHANGED] = np.packbits(changed[: 0 if changed.all() else None])
        if self.then is None or about.base is None:
            return encoded
        masks, rest = _apart(encoded)
        return {**masks, **self.then.encode(rest, _of_differences(about))}

    def decode(self, arrays: Arrays, about: About) -> Arrays:
        """Return base and difference together."""
        masks, now = _apart(arrays)
        if self.then is not None and about.base is not None:
            now = dict(self.then.decode(now, _of_differences(about)))
        before = {} if about.base is None else self._inner(about.base, about)
        simplex = self.codec is None and about.kind == "probabilities"
        for name in list(now):
            if name + CHANGED not in masks:
                now[name] = on_simplex(now[name]) if simplex else now[name]
                continue
            rows, changed = self._rows(before[name]).copy(), _mask(masks[name + CHANGED])
            changed = changed[: len(rows)] if changed.size else np.ones(len(rows), dtype=bool)
            difference = now[name]
            if difference.dtype != rows.dtype or difference.shape != rows[changed].shape:
                form = f"{difference.dtype} {list(difference.shape)}"
                raise KnowledgeError(f"difference of {name} is {form}")
            rows[changed] += difference
            if simplex:
                rows[changed] = on_simplex(rows[changed])
            now[name] = rows.view(before[name].dtype).reshape(before[name].shape)
        return now if self.codec is None else self.codec.decode(now, _without_base(about))

    @property
    def inside(self) -> tuple[Codec, ...]:
        """Return the codecs that are its options."""
        return tuple(codec for codec in (self.codec, self.then) if codec is not None)

    def passes(self, kind: str) -> str:
        """Return that differences are no rows of the kind."""
        return "differences"

    def encoded_size(self, size: Size) -> Size:
        """Return two arrays for each of the codec's, the second of a bit for each row."""
        size = size if self.codec is None else self.codec.encoded_size(size)
        masks = Size(size.arrays, size.bytes // 8 + size.arrays)
        if self.then is not None:
            inner = self.then.encoded_size(size)
            size = Size(max(size.arrays, inner.arrays), max(size.bytes, inner.bytes))
        return Size(size.arrays + masks.arrays, size.bytes + masks.bytes)

    def _inner(self, arrays: Arrays, about: About) -> Arrays:
        return arrays if self.codec is None else self.codec.encode(arrays, _without_base(about))

    def _rows(self, array: np.ndarray) -> np.ndarray:
        """Return rows to subtract: floats without a codec as they are, all else as bits."""
        rows = np.atleast_1d(np.ascontiguousarray(array))
        exact = self.codec is not None or array.dtype.kind != "f"
        return rows.view(f"u{array.dtype.itemsize}") if exact else rows


def _apart(arrays: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the masks of changed rows, and the other arrays."""
    masks = {name: array for name, array in arrays.items() if name.endswith(CHANGED)}
    return masks, {name: array for name, array in arrays.items() if name not in masks}


def _of_differences(about: About) -> About:
    return About("differences", limit=about.limit, progress=about.progress)


def _mask(packed: np.ndarray) -> np.ndarray:
    return np.unpackbits(packed).astype(bool)


def _alike(array: np.ndarray, base: np.ndarray | None) -> bool:
    return base is not None and (array.dtype, array.shape) == (base.dtype, base.shape)


def _without_base(about: About) -> About:
    return replace(about, base=None, known=None)

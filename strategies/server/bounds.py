"""Bounds on the numbers of an upload, absolute and relative to the other uploads of its round.

A bound keeps out nonsense, and numbers whose mere size would end a run or dominate an average. It
is no defence against a lie of ordinary size; see ``fedkt.fusion.trusted`` for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from fedkt.answers import largest
from fedkt.knowledge import Knowledge, Upload
from fedkt.options import checked
from fedkt.upload_check import LARGEST_COUNT

Least1 = Annotated[float, Ge(1)]


@checked
@dataclass(frozen=True)
class Bounds:
    """Bounds on uploads; an upload out of bounds is dropped with its reason.

    Ratios are to the lower median over the other clients of the round, at least 1. A single client
    in a round is not compared. A bound of 1e300 is none.

    Parameters
    ----------
    examples : float
        Largest ``num-examples``.
    examples_ratio : float
        Largest ratio of ``num-examples`` to the others'. Honest clients of one federation may
        differ by thousands, so the default keeps out nonsense only: one client can still outweigh
        all others in an average by number of examples. For clients known to be alike, set it to
        10, say.
    value : float
        Largest number in knowledge of any kind: sums of squares of such numbers fit float32.
    value_ratio : float
        Largest ratio of the largest number of a share to the others'.
    open_bytes : float
        Most bytes of a share of which the server does not know all lengths before it comes: widths
        of features, weights of several architectures. Others have as many as were asked for.
    """

    examples: Least1 = float(LARGEST_COUNT)
    examples_ratio: Least1 = 100_000.0
    value: Least1 = 1e15
    value_ratio: Least1 = 10_000.0
    open_bytes: Least1 = 1e9

    # For configurations, which read bounds by these names.
    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}

    def outliers(self, uploads: Sequence[Upload]) -> dict[int, str]:
        """Return the reasons against uploads too far from the others of their round, by client.

        Parameters
        ----------
        uploads : Sequence[Upload]
            All uploads of the round that are sound in themselves.
        """
        examples = [float(upload.num_examples) for upload in uploads]
        compared = {"num-examples": (self.examples_ratio, examples)}
        for name in uploads[0].knowledge if uploads else ():
            sizes = [size_of(upload.knowledge[name]) for upload in uploads]
            compared[f"the largest number of {name!r}"] = self.value_ratio, sizes
        reasons: dict[int, str] = {}
        for what, (ratio, sizes) in compared.items():
            usual = max(1.0, usual_of_others(sizes))
            for upload, size in zip(uploads, sizes, strict=True):
                if size > ratio * usual:
                    text = (
                        f"{what} is {size:g}, above {ratio:g} times {usual:g}, the others' median"
                    )
                    reasons.setdefault(upload.client, text)
        return reasons


def usual_of_others(sizes: Sequence[float]) -> float:
    """Return the lower median of the other sizes, as seen from any size above that median.

    Infinite if there are no others.
    """
    return sorted(sizes)[len(sizes) // 2 - 1] if len(sizes) > 1 else math.inf


def size_of(knowledge: Knowledge) -> float:
    """Return the largest absolute value in knowledge; 0 for labels."""
    floats = (t for t in knowledge.tensors.values() if t.is_floating_point())
    return max(map(largest, floats), default=0.0)


def magnitude(upload: Upload) -> float:
    """Return the largest absolute value in an upload."""
    return max(map(size_of, upload.knowledge.values()), default=0.0)

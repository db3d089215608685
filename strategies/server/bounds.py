"""What the numbers of an upload may be, and which uploads are too far from the others'.

A bound keeps out what is nonsense, and what would end a run or take over an average by its mere
size. It is no defence against a lie of ordinary size: that is what trust is for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from fedkt.answers import largest
from fedkt.arrival import LARGEST_COUNT
from fedkt.knowledge import Knowledge, Upload
from fedkt.options import checked

Least1 = Annotated[float, Ge(1)]


@checked
@dataclass(frozen=True)
class Bounds:
    """What an upload may hold; one that holds more is dropped with its reason.

    What *the others* have is the lower median over the other clients of the round, and at least 1;
    with a single client in a round there are no others to compare with. A bound of 1e300 is none.

    Parameters
    ----------
    examples : float
        ``num-examples`` are at most so many.
    examples_ratio : float
        And at most so many times those of the others. Honest clients of one federation may differ
        by thousands, so the default keeps out nonsense only: one client can still outweigh all
        others in an average by number of examples. Where clients are known to be alike, set it
        to 10, say.
    value : float
        Numbers of every kind of knowledge are at most so large: their squares, summed, stay in
        float32.
    value_ratio : float
        And the largest number of each share at most so many times that of the others.
    """

    examples: Least1 = float(LARGEST_COUNT)
    examples_ratio: Least1 = 100_000.0
    value: Least1 = 1e15
    value_ratio: Least1 = 10_000.0

    # For configurations, which read bounds by these names.
    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}

    def outliers(self, uploads: Sequence[Upload]) -> dict[int, str]:
        """Return why uploads are too far from the others of their round, by client.

        Parameters
        ----------
        uploads : Sequence[Upload]
            All of the round that are sound in themselves.
        """
        examples = [float(upload.num_examples) for upload in uploads]
        compared = {"num-examples": (self.examples_ratio, examples)}
        for name in uploads[0].knowledge if uploads else ():
            sizes = [size_of(upload.knowledge[name]) for upload in uploads]
            compared[f"the largest number of {name!r}"] = self.value_ratio, sizes
        found: dict[int, str] = {}
        for what, (ratio, sizes) in compared.items():
            usual = max(1.0, usual_of_others(sizes))
            for upload, size in zip(uploads, sizes, strict=True):
                if size > ratio * usual:
                    text = f"{what} is {size:g}, above {ratio:g} times {usual:g}, as others have"
                    found.setdefault(upload.client, text)
        return found


def usual_of_others(sizes: Sequence[float]) -> float:
    """Return the lower median of what the others have, seen from any that has more than that.

    Infinite where there are no others.
    """
    return sorted(sizes)[len(sizes) // 2 - 1] if len(sizes) > 1 else math.inf


def size_of(knowledge: Knowledge) -> float:
    """Return the largest absolute value that knowledge holds; labels have none."""
    floats = (t for t in knowledge.tensors.values() if t.is_floating_point())
    return max(map(largest, floats), default=0.0)


def magnitude(upload: Upload) -> float:
    """Return the largest absolute value that an upload holds."""
    return max(map(size_of, upload.knowledge.values()), default=0.0)

"""An embedded benchmark of domains: the digits of scikit-learn, seen in four ways.

Each data set holds another fixed, stratified quarter of the training and of the test part of
``digits``, so that no picture occurs in two of them in any form: what a client learns of one
domain is not the answer to a test sample of another. They are small (about 360 pictures to
train on and 90 to test on) and the shifts are artificial: enough to see a method
work under domain shift, no evidence about real domains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fedkt.data.dataset import HOLD_OUT_SEED, Dataset
from fedkt.data.sources import digits
from fedkt.data.splits import Array, Ints
from fedkt.registry import register
from fedkt.rng import numpy_rng

DOMAINS = 4


@register(part="datasets")
def digits_plain() -> Dataset:
    """Digits as they are; domain 1 of the embedded four."""
    return _domain(0, "digits-plain", lambda x: x)


@register(part="datasets")
def digits_inverted() -> Dataset:
    """Digits, black for white; domain 2 of the embedded four."""
    return _domain(1, "digits-inverted", lambda x: 16 - x)


@register(part="datasets")
def digits_rotated() -> Dataset:
    """Digits, turned left by 90 degrees; domain 3 of the embedded four."""
    return _domain(2, "digits-rotated", lambda x: np.ascontiguousarray(np.rot90(x, axes=(1, 2))))


@register(part="datasets")
def digits_blurred() -> Dataset:
    """Digits, blurred over 3 x 3 pixels; domain 4 of the embedded four."""
    return _domain(3, "digits-blurred", _blurred)


def _domain(quarter: int, name: str, view: Callable[[Array], Array]) -> Dataset:
    whole = digits()
    train = _quarter(whole.y_train, quarter, "train")
    test = _quarter(whole.y_test, quarter, "test")
    return replace(
        whole,
        name=name,
        x_train=view(whole.x_train[train]),
        y_train=whole.y_train[train],
        x_test=view(whole.x_test[test]),
        y_test=whole.y_test[test],
    )


def _quarter(labels: Array, quarter: int, split: str) -> Ints:
    """Return a quarter of the rows, which are sorted by class and shuffled within."""
    order = numpy_rng(HOLD_OUT_SEED, f"digit-domains/{split}").permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    return np.sort(order[quarter::DOMAINS]).astype(np.int64)


def _blurred(x: Array) -> Array:
    """Return images convolved with [1 2 1] / 4 along both axes; black beyond the edge."""
    for axis in (1, 2):
        padded = np.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(3)])
        size = x.shape[axis]
        before, here, after = (np.take(padded, range(i, i + size), axis) for i in range(3))
        x = (before + 2 * here + after) / 4
    return x

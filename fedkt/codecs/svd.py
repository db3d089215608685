"""Matrices as two thin factors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from fedkt.codecs.codec import About, Arrays, Codec, Size
from fedkt.codecs.rows import CODES, need_finite, need_room, on_simplex
from fedkt.errors import KnowledgeError
from fedkt.options import Count, PositiveFraction
from fedkt.registry import register
from fedkt.schedules import Schedule, at, settled

RIGHT = ":right"


@register
@dataclass(frozen=True)
class SVD(Codec):
    """Codec that sends a matrix as two factors of its singular value decomposition.

    ``X = U·diag(s)·Vᵀ`` travels as ``U_K·diag(s_K)`` and ``V_Kᵀ``, and their product is what is
    decoded. K is the smallest number with ``Σ_{i≤K} s_i² ≥ E·Σ s_i²``, as in FedKD (Wu et al.,
    "Communication-efficient federated learning via knowledge distillation", Nature Communications
    13, 2022, arXiv:2108.13323), where E grows from 0.95 to 0.98; a matrix of zeros has K = 0.
    Tensors with more axes are matrices of their first axis by all others. FedKD sends updates:
    ``delta+svd`` is the decomposition of what has changed since the receiver decoded last.

    The paper's code finds K = 0 where only the full rank has the energy, and multiplies by the
    vector s as if it were a matrix; here K is the full rank then, and the product is right.

    Bytes of an n × m matrix: ``4·K·(n + m)``; where that is no less than ``4·n·m``, and of
    vectors and integers, the array as it is. Error: ``‖X − X'‖² ≤ (1 − E)·‖X‖²``, and the
    rounding of float32; no matrix of rank K is nearer. Rows of probabilities are divided by their
    sum afterwards.

    Parameters
    ----------
    energy : float or Schedule
        E, in (0, 1]: ``linear(start=0.95, end=0.98)``.
    rank : int
        K, instead of the energy's; 0: by energy.
    """

    name: ClassVar[str] = "svd"
    same_bits: ClassVar[bool] = False  # which factors there are is the processor's choice

    energy: PositiveFraction | Schedule = 0.95
    rank: Count = 0

    def encode(self, arrays: Arrays, about: About) -> Arrays:
        """Return factors; refuse what is not finite."""
        encoded, energy = dict(arrays), settled(at(self.energy, about.progress))
        for name, array in arrays.items():
            if array.dtype != np.float32 or array.ndim < 2 or not array.size:
                continue
            need_finite(name, array)
            rows = torch.tensor(array).reshape(len(array), -1)
            # Not NumPy's: a worker bounds the threads of torch, on which the last bits depend.
            u, s, v = torch.linalg.svd(rows.double(), full_matrices=False)
            kept = self._kept(s.numpy(), energy)
            if kept * sum(rows.shape) < rows.numel():
                encoded[name] = (u * s)[:, :kept].numpy().astype(np.float32)
                right = v[:kept].numpy().astype(np.float32)
                encoded[name + RIGHT] = right.reshape(kept, *array.shape[1:])
        return encoded

    def decode(self, arrays: Arrays, about: About) -> Arrays:
        """Return products, added up in one order, so that all machines have the same bits."""
        decoded = {n: a for n, a in arrays.items() if not n.endswith(RIGHT)}
        for name in [n for n in decoded if n + RIGHT in arrays]:
            left, right = decoded[name], arrays[name + RIGHT]
            if {left.dtype, right.dtype} != {np.dtype(np.float32)}:
                raise KnowledgeError(f"{name}: factors of dtypes {left.dtype} and {right.dtype}")
            shape = len(left), *right.shape[1:]
            need_room(shape, about)
            rank, most = len(right), min(len(left), math.prod(right.shape[1:]))
            if left.ndim != 2 or left.shape[1] != rank or rank > most:
                raise KnowledgeError(f"{name}: factors of shapes {left.shape} and {right.shape}")
            values = np.zeros(shape, np.float32)
            for column, row in zip(left.T, right, strict=True):
                values += column.reshape(-1, *[1] * row.ndim) * row
            decoded[name] = on_simplex(values) if about.kind == "probabilities" else values
        return decoded

    def passes(self, kind: str) -> str:
        """Return that factors are no rows of the kind."""
        return CODES

    def encoded_size(self, size: Size) -> Size:
        """Return two arrays for each, of no more bytes."""
        return Size(2 * size.arrays, size.bytes)

    def _kept(self, values: np.ndarray, energy: float) -> int:
        """Return K for singular values and E."""
        if self.rank:
            return min(self.rank, len(values))
        energies = np.cumsum(np.square(values))
        if not energies[-1]:
            return 0
        return int(np.searchsorted(energies, energy * energies[-1])) + 1

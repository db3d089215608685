"""Random streams.

Every random number in fedkt comes from a stream that is named by
(seed, purpose, round, client) and by nothing else: not by global state, node ids,
arrival order or the number of workers. Two streams with different names are
independent for all practical purposes (their seeds are BLAKE2 hashes of the names).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, purpose: str, round_: int = 0, client: int = 0) -> int:
    """Return the 63-bit seed of the stream (seed, purpose, round, client).

    Parameters
    ----------
    seed : int
        The seed of the run.
    purpose : str
        What the numbers are for, e.g. ``"batches"``.
    round_ : int
        The round, from 1; 0 for what happens once before the first round.
    client : int
        The client id; also 0 for streams that belong to no client (purposes differ).

    Returns
    -------
    int
        A seed in [0, 2**63).
    """
    name = f"{seed}/{purpose}/{round_}/{client}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1


def numpy_rng(seed: int, purpose: str, round_: int = 0, client: int = 0) -> np.random.Generator:
    """Return a NumPy generator for the stream; see :func:`derive`."""
    return np.random.default_rng(derive(seed, purpose, round_, client))


def torch_rng(seed: int, purpose: str, round_: int = 0, client: int = 0) -> torch.Generator:
    """Return a CPU torch generator for the stream; see :func:`derive`."""
    return torch.Generator().manual_seed(derive(seed, purpose, round_, client))


@contextmanager
def global_torch_stream(
    seed: int, purpose: str, round_: int = 0, client: int = 0
) -> Iterator[None]:
    """Run a block with torch's global generator on the stream, then restore it.

    For code that can only draw from the global generator: parameter initialisation
    and dropout.
    """
    before = torch.random.get_rng_state()
    # Not torch.manual_seed, which spends a hundred times longer on absent accelerators.
    torch.default_generator.manual_seed(derive(seed, purpose, round_, client))
    if torch.cuda.is_available():  # where a model on a GPU draws
        torch.cuda.manual_seed(derive(seed, purpose, round_, client))
    try:
        yield
    finally:
        torch.random.set_rng_state(before)

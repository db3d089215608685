"""What parts of a recipe tell in the greeting, so that clients which do not fit are found.

Each function returns texts by what they are about: the keys are nouns, and a method whose parts
tell of "architecture" needs one architecture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import Tensor

from fedkt.data.samples import ClientData, Samples
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge

About = Mapping[str, str]


class Model(Protocol):
    """A client's model as parts see it; see ``fedkt.clients.Learner``."""

    @property
    def architecture(self) -> str:
        """``name#fingerprint``; equal for models whose weights can be averaged."""
        ...

    def predict(self, x: Tensor, world: str = "model") -> Tensor:
        """Return logits ``[n, C]`` float32 for inputs ``[n, ...]``: the model's, or a net's."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """Return features ``[n, d]`` float32."""
        ...

    def weights(self, local_norms: bool = False, of: str = "", but: str = "") -> Knowledge:
        """Return the weights, or a part of them."""
        ...

    def load_weights(
        self, weights: Knowledge, of: str = "", rate: float = 1.0, moments: bool = False
    ) -> None:
        """Replace weights."""
        ...

    def state(self) -> dict[str, Any]:
        """Return a copy of the client's state."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a client's state."""
        ...


def of_weights(model: Model, data: ClientData) -> About:
    """Return what must be equal where weights are exchanged."""
    return {"architecture": model.architecture, **_of_samples(data)}


def of_part(name: str, weights: Knowledge, data: ClientData) -> About:
    """Return what must be equal where a part of a model is exchanged: its names and shapes."""
    lines = [f"{n} {list(tensor.shape)}" for n, tensor in weights.tensors.items()]
    return {name: "\n".join(lines), **_of_samples(data)}


def named(lines: str) -> list[str]:
    """Return the names of the tensors in what :func:`of_part` tells."""
    return [line.rpartition(" [")[0] for line in lines.split("\n")]


def _of_samples(data: ClientData) -> About:
    done = "\n".join(f"{name}: {how}" for name, how in data.preprocessing.items())
    return {**of_inputs(data), "preprocessing": done}


def of_public(data: ClientData) -> About:
    """Return what must be equal where a public set is in use: its samples, in their order."""
    public = data.public
    if public is None:
        return {}
    return {"public set": f"{len(public)} samples, {_digest(public)}", **of_inputs(data)}


def of_inputs(data: ClientData) -> About:
    """Return the shape of one sample."""
    return {"input shape": str(list(data.input_shape))}


def of_features(model: Model, data: ClientData) -> About:
    """Return the width of the model's features."""
    return {"feature width": str(model.features(_example(data)).shape[1])}


def no_features(model: Model, data: ClientData) -> str | None:
    """Return why a model has no features, in one line; None if it has."""
    try:
        model.features(_example(data))
    except ConfigError as error:
        return str(error).rstrip(".")
    return None


def _example(data: ClientData) -> Tensor:
    """Return one input of a client's, ``[1, ...]``; zeros where it has no training samples."""
    return data.train.x[:1] if len(data.train) else data.train.x.new_zeros(1, *data.input_shape)


_digests: WeakKeyDictionary[Samples, str] = WeakKeyDictionary()


def _digest(samples: Samples) -> str:
    """Return a hash of the dtype, shape and values of a public set's inputs."""
    if samples not in _digests:
        digest = hashlib.sha256(f"{samples.x.dtype} {tuple(samples.x.shape)} ".encode())
        digest.update(samples.x.contiguous().numpy().tobytes())
        _digests[samples] = digest.hexdigest()[:16]
    return _digests[samples]

"""The device of an executor: the CPU or a GPU.

Everything outside the executors is on the CPU: data, knowledge, client state, messages. An
executor moves its inputs to the device of its model, and its results back.
"""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedkt.clients.learners.base import Work
from fedkt.data.samples import Samples
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge, knowledge_in

CPU = torch.device("cpu")

# Copies of the public set on a device: it is moved once for all clients.
_shared: WeakKeyDictionary[Samples, Samples] = WeakKeyDictionary()


def resolve(name: str) -> str:
    """Return ``cpu`` or ``cuda`` for a device option; ``auto`` is a GPU where there is one.

    Raises
    ------
    ConfigError
        If the option is ``cuda`` and there is no GPU.
    """
    gpu = torch.cuda.is_available()
    if name == "cuda" and not gpu:
        raise ConfigError("run.device is cuda and torch finds no GPU here.")
    return ("cuda" if gpu else "cpu") if name == "auto" else name


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters; the CPU without any."""
    return next((p.device for p in model.parameters()), CPU)


def on(work: Work, device: torch.device) -> Work:
    """Return the work of a training step with its data and knowledge on a device."""
    if device == CPU:
        return work
    public = None if work.data.public is None else shared_on(work.data.public, device)
    data = replace(work.data, train=_samples_on(work.data.train, device), public=public)
    data.__dict__["log_prior"] = work.data.log_prior.to(device)
    knowledge = {
        name: knowledge_on(k, device)
        for name, k in knowledge_in(work.knowledge).items()  # no term reads other values
    }
    return replace(work, data=data, knowledge=knowledge, own={})


def shared_on(samples: Samples, device: torch.device) -> Samples:
    """Return samples of many clients on a device; the copy lives as long as the samples."""
    if device == CPU:
        return samples
    copy = _shared.get(samples)
    if copy is None or copy.x.device.type != device.type:
        copy = _shared[samples] = _samples_on(samples, device)
    return copy


def knowledge_on(knowledge: Knowledge, device: torch.device) -> Knowledge:
    """Return knowledge on a device."""
    if device == CPU:
        return knowledge
    parts = {name: tensor.to(device) for name, tensor in knowledge.parts().items()}
    return Knowledge.of_parts(knowledge.kind, parts)


def _samples_on(samples: Samples, device: torch.device) -> Samples:
    y: Tensor | None = None if samples.y is None else samples.y.to(device)
    return Samples(samples.x.to(device), y, samples.ids.to(device))

"""Where the arithmetic happens: on the CPU, or on a GPU.

Everything outside the executors is on the CPU: data, knowledge, client state, what travels. An
executor moves what it needs to the device of its model, and its results back.
"""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedkt.clients.learners.base import Work
from fedkt.data.samples import Samples
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge

CPU = torch.device("cpu")

# Of the public set, which is everybody's and is moved once.
_shared: WeakKeyDictionary[Samples, Samples] = WeakKeyDictionary()


def resolve(name: str) -> str:
    """Return cpu or cuda for ``auto``, ``cpu`` or ``cuda``; auto is a GPU where there is one.

    Raises
    ------
    ConfigError
        If there is no GPU and one is asked for.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigError("run.device is cuda and torch finds no GPU here.")
    return ("cuda" if there else "cpu") if name == "auto" else name


def device_of(model: nn.Module) -> torch.device:
    """Return where a model's parameters are."""
    return next((p.device for p in model.parameters()), CPU)


def on(work: Work, device: torch.device) -> Work:
    """Return the same work with all that a training step reads on a device."""
    if device == CPU:
        return work
    public = None if work.data.public is None else shared_on(work.data.public, device)
    data = replace(work.data, train=_samples_on(work.data.train, device), public=public)
    data.__dict__["log_prior"] = work.data.log_prior.to(device)
    knowledge = {name: knowledge_on(one, device) for name, one in work.knowledge.items()}
    return replace(work, data=data, knowledge=knowledge)


def shared_on(samples: Samples, device: torch.device) -> Samples:
    """Return samples that many clients use on a device; they stay there as long as they live."""
    if device == CPU:
        return samples
    known = _shared.get(samples)
    if known is None or known.x.device.type != device.type:
        known = _shared[samples] = _samples_on(samples, device)
    return known


def knowledge_on(one: Knowledge, device: torch.device) -> Knowledge:
    """Return the same knowledge on a device."""
    if device == CPU:
        return one
    return Knowledge.of_parts(one.kind, {n: t.to(device) for n, t in one.parts().items()})


def _samples_on(samples: Samples, device: torch.device) -> Samples:
    y: Tensor | None = None if samples.y is None else samples.y.to(device)
    return Samples(samples.x.to(device), y, samples.ids.to(device))

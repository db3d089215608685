"""A client's answer to the greeting: its id, the facts of its data, and a refusal if it has one."""

from __future__ import annotations

import hashlib
from typing import cast
from weakref import WeakKeyDictionary

from flwr.app import ConfigRecord, Message, RecordDict

from fedkt.clients.client import Client
from fedkt.clients.phases import refuses
from fedkt.clients.turn import read_recipe
from fedkt.data.samples import Samples


def hello(client: Client, message: Message) -> RecordDict:
    """Return a client's answer to the greeting: the facts of :mod:`fedkt.greeting`."""
    recipe = read_recipe(str(cast(ConfigRecord, message.content["config"])["recipe"]))
    learner, data = client.learner, client.data
    about = ConfigRecord({
        "client": client.id,
        "architecture": learner.architecture,
        "num-classes": learner.num_classes,
        "classes": list(data.classes),
        "input-shape": list(data.input_shape),
        "columns": [f"{name}: {dtype}" for name, dtype in data.columns.items()],
        "preprocessing": [f"{name}: {how}" for name, how in data.preprocessing.items()],
        "public-size": 0 if data.public is None else len(data.public),
        "public-digest": "none" if data.public is None else _digest(data.public),
    })  # fmt: skip
    refusal = refuses(recipe, learner, data)
    if refusal:
        about["refusal"] = refusal
    return RecordDict({"config": about})


_digests: WeakKeyDictionary[Samples, str] = WeakKeyDictionary()


def _digest(samples: Samples) -> str:
    """Return a hash of the dtype, shape and values of a public set's inputs."""
    if samples not in _digests:
        digest = hashlib.sha256(f"{samples.x.dtype} {tuple(samples.x.shape)} ".encode())
        digest.update(samples.x.contiguous().numpy().tobytes())
        _digests[samples] = digest.hexdigest()[:16]
    return _digests[samples]

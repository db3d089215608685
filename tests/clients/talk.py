"""Speaking to one client as a server would."""

from __future__ import annotations

from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedkt import wire
from fedkt.clients import Client, KnowledgeClientApp, client_app
from fedkt.knowledge import Knowledge
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.recipe import Predict, Recipe, Train
from fedkt.simulations.engines import _flwr_shim as shim

RECIPE = Recipe(
    learn=[Train("private", [CrossEntropy()])],
    share=[Predict()],
    absorb=[Train("public", [Distil(KL())])],
)


class Talk:
    """Speaks to one client as a server would."""

    def __init__(self, client: Client, store: Any = None, recipe: Recipe = RECIPE) -> None:
        shim.claim_identity()
        self.client, self.recipe = client, recipe
        self.app: KnowledgeClientApp = client_app(lambda context: self.client, store)
        self.context: Context = shim.new_context(client.id, 3)
        self.count = 0

    def say(self, kind: str, round_: int = 1, packets: Any = None, **config: Any) -> Message:
        base = {"recipe": self.recipe.to_json(), "codec": "none", "seed": 7, "server-round": round_}
        content = RecordDict({"config": ConfigRecord({"run": "a", **base, **config})})
        wire.attach(content, packets or {})
        message = Message(content, self.context.node_id, kind, group_id=str(round_))
        self.count += 1
        shim.number(message, str(self.count))
        return self.app(message, self.context)

    def learn(self, round_: int = 1, **more: Any) -> Message:
        return self.say("train", round_, **more)

    def absorb(self, round_: int = 1, value: float = 0.1, **more: Any) -> Message:
        target = torch.full((50, 10), value)
        target[:, 3] += 1 - target.sum(-1)
        packet = wire.encode(Knowledge.rows("probabilities", target), round_, torch.arange(50))
        return self.say("evaluate", round_, {"public": packet}, absorb=True, **more)

    @property
    def state(self) -> Any:
        return self.app.store.get("a", self.client.id)


def bits(state: Any) -> list[bytes]:
    tensors = [*state["learner"]["model"].values()]
    for one in state["learner"]["optimiser"].values():
        tensors += [v for v in one.values() if isinstance(v, torch.Tensor)]
    return [t.contiguous().numpy().tobytes() for t in tensors]

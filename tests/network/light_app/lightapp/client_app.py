"""The ClientApp of light clients: honest or hostile, as the node's configuration says."""

from __future__ import annotations

import json
import time
from hashlib import sha256
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from lightapp.hostile import evaluation_lie, lie
from lightapp.party import CLASSES, Party

app = ClientApp()
PHASE = {"query": "hello", "train": "train", "evaluate": "evaluate"}


def party_of(context: Context) -> Party:
    """Return the client of a node."""
    node, run = context.node_config, context.run_config
    return Party(int(node["partition-id"]), Path(str(node["state-dir"])), int(run["public-size"]))


def answer(message: Message, party: Party) -> RecordDict:
    """Return the content of an honest client's reply to a message."""
    config = message.content["config"]
    run, round_ = str(config["run"]), int(config["server-round"])
    if message.metadata.message_type == "query":
        party.greet(run, round_)
        return RecordDict({"config": facts(party, str(config["recipe"]))})
    if message.metadata.message_type == "train":
        meta = {"kind": form(config), "round": round_, "codec": "none"}
        return RecordDict({
            "metrics": MetricRecord({"num-examples": 100 + party.client, "loss": 0.5}),
            "knowledge.public": ArrayRecord({"t.values": Array(party.learn(run, round_))}),
            "knowledge.public.meta": ConfigRecord(meta),
        })  # fmt: skip
    if config["absorb"]:
        party.absorb(run, round_, message.content["knowledge.public"]["t.values"].numpy())
    on = ("personalised", "global", "validation")
    figures = zip(on, party.accuracies(run, round_), strict=True)
    return RecordDict({"metrics": MetricRecord({f"{name}-accuracy": v for name, v in figures})})


def facts(party: Party, recipe: str) -> ConfigRecord:
    """Return a client's answer to the greeting."""
    return ConfigRecord({
        "client": party.client,
        "architecture": "light",
        "num-classes": CLASSES,
        "classes": [str(label) for label in range(CLASSES)],
        "input-shape": [1],
        "columns": [],
        "public-size": party.public,
        "training": [],
        "recipe-digest": sha256(recipe.encode()).hexdigest()[:16],
    })  # fmt: skip


def form(config: ConfigRecord) -> str:
    """Return the kind of answers that a recipe asks for."""
    return str(json.loads(str(config["recipe"]))["share"][0]["form"])


def waits(context: Context, moment: str) -> None:
    """Say which message this is, and wait as long as the test wants it to last."""
    folder = Path(str(context.node_config["state-dir"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "at").write_text(moment, encoding="utf-8")
    while (folder / f"hold-{moment}").exists():
        time.sleep(0.05)


def handle(message: Message, context: Context) -> Message:
    """Return the reply of a node."""
    kind, node = message.metadata.message_type, context.node_config
    round_ = int(message.content["config"]["server-round"])
    waits(context, f"{round_}-{PHASE[kind]}")
    content = answer(message, party_of(context))
    if kind != "query" and "lies" in node:
        lies = str(node["lies"]).split(",")
        tell = {"train": lie, "evaluate": evaluation_lie}[kind]
        content = tell(lies[(round_ - 1) % len(lies)], content, str(node["trap"]))
    return Message(content, reply_to=message)


app.query()(handle)
app.train()(handle)
app.evaluate()(handle)

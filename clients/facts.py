"""A client's answer to the greeting: its id, the facts of its data, and a refusal if it has one."""

from __future__ import annotations

import json
from typing import cast

from flwr.app import ConfigRecord, Message, RecordDict

from fedkt import __version__
from fedkt.clients.client import Client
from fedkt.clients.phases import refuses
from fedkt.clients.state import StateStore
from fedkt.clients.turn import read_recipe
from fedkt.errors import ConfigError
from fedkt.greeting import DIGEST, told
from fedkt.recipe import Recipe
from fedkt.recipe.json import FORMAT, differing
from fedkt.text import foreign

NAMED = 3  # differing keys that a refusal names


def hello(client: Client, store: StateStore, message: Message) -> RecordDict:
    """Return a client's answer to the greeting: the facts of :mod:`fedkt.greeting`.

    The greeting says which round of which run is next: states of that round and later are of a
    server that has died since, and are forgotten.

    Raises
    ------
    ConfigError
        If the client has gone on too far to begin that round again, its state of a run that it
        has learnt in is lost, or the recipe has a format of another version.
    """
    config = cast(ConfigRecord, message.content["config"])
    if (theirs := config.get("recipe-format", FORMAT)) != FORMAT:
        raise ConfigError(
            f"the recipe of the server, fedkt {foreign(config.get('fedkt', 'of no version'))}, has "
            f"format {foreign(theirs)}; here fedkt {__version__} reads format {FORMAT}"
        )
    recipe = read_recipe(str(config["recipe"]))
    learner, data = client.learner, client.data
    if "run" in config:
        run = str(config["run"])
        store.rewind(run, client.id, int(str(config["server-round"])))
        learnt = cast(list[int], config.get("learnt", []))
        if client.id in learnt and store.get(run, client.id) is None:
            raise ConfigError(f"the state of client {client.id} in run {run} is lost")
    about = ConfigRecord({
        "client": client.id,
        "architecture": learner.architecture,
        "num-classes": learner.num_classes,
        "classes": list(data.classes),
        "input-shape": list(data.input_shape),
        "columns": [f"{name}: {dtype}" for name, dtype in data.columns.items()],
        "public-size": 0 if data.public is None else len(data.public),
        "training": client.options.told,
        DIGEST: recipe.digest,
    })  # fmt: skip
    misread = otherwise_read(str(config["recipe"]), recipe, str(config.get("fedkt", "")))
    if refusal := misread or client.policy.refusal(recipe) or refuses(recipe, learner, data):
        about["refusal"] = refusal
    else:
        about.update(told(recipe, learner, data))
    return RecordDict({"config": about})


def otherwise_read(text: str, recipe: Recipe, theirs: str) -> str | None:
    """Return how a recipe differs from the text that it was read from; None if it does not.

    Parameters
    ----------
    text : str
        The recipe as it came.
    recipe : Recipe
        The recipe as it was read: what the text does not say has its default here.
    theirs : str
        The version of fedkt at the server.
    """
    keys = sorted(differing(json.loads(text), json.loads(recipe.to_json())))
    if not keys:
        return None
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return (
        f"it reads the recipe otherwise: {foreign(', '.join(keys[:NAMED]))}{more} (fedkt "
        f"{foreign(theirs) or 'of no version'} at the server, {__version__} here)"
    )

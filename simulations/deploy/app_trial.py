"""A dry run of what an app's author fills in: ``load_data`` and ``build_model``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

from fedkt.about import of_public
from fedkt.deploy.party import Party, client_id
from fedkt.deploy.rehearsal import party_of
from fedkt.errors import ConfigError
from fedkt.text import foreign

_PAIR = re.compile(r"""([A-Za-z][\w.-]*)=("[^"]*"|'[^']*'|\S+)""")


def dry_run(app: Path, node_config: str) -> Iterator[tuple[str, str]]:
    """Load an app's data and build its model, as its node would.

    Parameters
    ----------
    app : Path
        The folder of the app.
    node_config : str
        As ``flower-supernode --node-config`` takes it.

    Yields
    ------
    tuple[str, str]
        What was looked at, and what was seen.

    Raises
    ------
    ConfigError
        If the folder holds no app, or its data or its model cannot be used.
    """
    party, config = party_of(app)
    context = Context(0, 0, node_config_of(node_config), RecordDict(), dict(config))
    yield from trial(party, context)


def trial(party: Party, context: Context) -> Iterator[tuple[str, str]]:
    """Call the functions of a party and say what they give."""
    yield "client", f"{client_id(context)} (partition-id)"
    data = party.data(context)
    parts = {"training": data.train, "validation": data.validation, "test": data.test}
    sizes = ", ".join(f"{len(samples)} {part}" for part, samples in parts.items())
    yield "data", f"{sizes} samples of shape {list(data.input_shape)}"
    yield "classes", foreign(f"{data.num_classes}: {', '.join(data.classes)}")
    public = of_public(data).get("public set")
    yield "public set", f"{public}; the same at every node" if public else "none"
    learner = party.learner(context, data)
    network = learner.as_network()
    count = sum(p.numel() for p in network.model.parameters()) if network else 0
    numbers = f", {count:,} parameters" if network else ""
    yield "model", foreign(learner.architecture.partition("#")[0]) + numbers
    shares = party.policy.shares
    yield "policy", f"shares {'of any kind' if shares is None else ', '.join(sorted(shares))}"


def node_config_of(text: str) -> dict[str, Any]:
    """Return the values of a node config, ``"key=1 other='text'"``.

    Raises
    ------
    ConfigError
        If it has another form.
    """
    values: dict[str, Any] = {}
    if rest := _PAIR.sub("", text).strip():
        raise ConfigError(f"node-config has {foreign(rest)!r}; allowed is key=value key=value ...")
    for key, value in _PAIR.findall(text):
        try:
            values[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f"node-config: {key} is {foreign(value)}; text stands in quotes, as in "
                f'{key}="{foreign(value)}"'
            ) from error
    return values

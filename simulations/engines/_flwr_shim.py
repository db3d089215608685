"""All use of Flower's private parts (flwr 1.41).

Flower makes messages only inside one of its own runs. Our grids are outside, so they give the
process the identity of a run, and rebuild messages in the workers of Ray. Which node of a SuperLink
has which key is printed by no command of Flower's.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections.abc import Callable
from typing import Any

# Read by Flower and Ray when they are imported: no calls home, no warning about GPUs.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

from flwr.app import Context, Message, Metadata, RecordDict
from flwr.supercore.task_identity import TaskIdentity

RUN_ID = 1
SERVER_NODE = 1  # Flower's own id for the server side
FIRST_NODE = 2  # the node of client 0


def claim_identity() -> None:
    """Give this process an identity for making messages, unless Flower has given it one."""
    if vars(TaskIdentity)["_run_id"] is None:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN_ID, 0, SERVER_NODE


def number(message: Message, message_id: str) -> None:
    """Set the id of a message, which its reply refers to."""
    message.metadata.__dict__["_message_id"] = message_id


def rebuild(metadata: Metadata, content: RecordDict) -> Message:
    """Return a message with the metadata of another process."""
    return Message(content=content, metadata=metadata)  # type: ignore[call-overload,no-any-return]  # Flower's internal signature


def new_context(client: int, clients: int) -> Context:
    """Return the context of a simulated node."""
    return Context(
        run_id=RUN_ID,
        node_id=FIRST_NODE + client,
        node_config={"partition-id": client, "num-partitions": clients},
        state=RecordDict(),
        run_config={},
    )


def nodes_by_key(connection: str | None) -> dict[bytes, tuple[int, bool]]:
    """Return each node of a SuperLink, (id, whether still registered), by its public key in PEM.

    ``flwr supernode list`` has the same without the keys.

    Parameters
    ----------
    connection : str, optional
        A name in Flower's ``config.toml``; by default its default.
    """
    from flwr.cli.flower_config import read_superlink_connection
    from flwr.cli.utils import init_http_client_from_connection
    from flwr.proto.control_pb2 import ListNodesRequest

    with contextlib.redirect_stdout(io.StringIO()):  # it says which connection it takes
        client = init_http_client_from_connection(read_superlink_connection(connection))
        with contextlib.closing(client):
            nodes = client.ListNodes(ListNodesRequest()).nodes_info
    return {node.public_key: (node.node_id, node.status != "unregistered") for node in nodes}


def starts_simulation(connection: str | None) -> bool:
    """Return whether a connection is Flower's own SuperLink for simulations on this machine.

    It is the default until a ``config.toml`` names another, and a command starts it.

    Parameters
    ----------
    connection : str, optional
        A name in Flower's ``config.toml``; by default its default.
    """
    from flwr.cli.constant import (
        LOCAL_SUPERLINK_ADDRESS_MAGIC_VALUE,
        LOCAL_SUPERLINK_ADDRESS_MAGIC_VALUE_IN_MEMORY,
    )
    from flwr.cli.flower_config import read_superlink_connection

    with contextlib.redirect_stdout(io.StringIO()):  # it says that it has made a config.toml
        superlink = read_superlink_connection(connection)
    if superlink.address is None:  # an older form, of simulations alone
        return superlink.options is not None
    return superlink.address in (
        LOCAL_SUPERLINK_ADDRESS_MAGIC_VALUE,
        LOCAL_SUPERLINK_ADDRESS_MAGIC_VALUE_IN_MEMORY,
    )


def run_client_app(check: Callable[[bytes], None]) -> None:
    """Run Flower's ``flwr-clientapp``; the bundle of the app is checked before it is unpacked.

    Parameters
    ----------
    check : Callable[[bytes], None]
        Raises an error if the bundle is to be refused; the server gets its text.
    """
    module = importlib.import_module("flwr.supernode.runtime.run_clientapp")
    install = module.install_from_fab  # another version of Flower may end here: nothing runs then

    def checked(content: bytes, *options: Any, **named: Any) -> Any:
        check(content)
        return install(content, *options, **named)

    vars(module)["install_from_fab"] = checked
    importlib.import_module("flwr.supernode.cli").flwr_clientapp()

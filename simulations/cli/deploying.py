"""``fedkt deploy``: certificates, keys and checks for a real federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

deploying = typer.Typer(
    help="Certificates, keys and checks for a federation over a network.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Of certificates and clients.toml.")]
Connection = Annotated[
    str | None,
    typer.Argument(help="SuperLink in Flower's config.toml; by default its default."),
]
Name = Annotated[str, typer.Argument(help="Of the client.")]
Public = Annotated[
    Path | None, typer.Option("--key", help="Its public key, if it made the pair itself.")
]
Hosts = Annotated[str, typer.Option(help="The server's names and addresses: a,b.")]
Days = Annotated[int, typer.Option(help="Until the server's certificate ends.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@deploying.command()
def certs(
    folder: Folder,
    hosts: Hosts,
    clients: Annotated[str, typer.Option(help="Their number, or names: north,south.")] = "3",
    days: Days = 365,
    debug: Debug = False,
) -> None:
    """Make a certificate authority, a server's certificate and a key for each client."""
    from fedkt.deploy.certificates import hosts_of
    from fedkt.deploy.credentials import clients_of, make

    print(*make(folder, hosts_of(hosts), clients_of(clients), days), sep="\n")


@deploying.command()
def renew(folder: Folder, hosts: Hosts, days: Days = 365, debug: Debug = False) -> None:
    """Make a new certificate for the server, by the same authority."""
    from fedkt.deploy.certificates import hosts_of
    from fedkt.deploy.credentials import renew

    print(*renew(folder, hosts_of(hosts), days), sep="\n")


@deploying.command()
def add(folder: Folder, name: Name, key: Public = None, debug: Debug = False) -> None:
    """Add a client to clients.toml, with a new key or the one that it has sent."""
    from fedkt.deploy.credentials import add

    print(*add(folder, name, key), sep="\n")


@deploying.command()
def register(folder: Folder, connection: Connection = None, debug: Debug = False) -> None:
    """Register at the SuperLink each key that has no node yet."""
    from fedkt.deploy.registering import register

    for line in register(folder, connection):
        print(line, flush=True)


@deploying.command()
def rotate(
    folder: Folder,
    name: Name,
    connection: Connection = None,
    key: Public = None,
    debug: Debug = False,
) -> None:
    """Give a client a new key; the old one is refused afterwards."""
    from fedkt.deploy.registering import rotate

    for line in rotate(folder, name, connection, key):
        print(line, flush=True)


@deploying.command()
def pin(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="First on the node's PATH.")],
    bundles: Annotated[list[Path], typer.Argument(help="Files of `flwr build`.")],
    debug: Debug = False,
) -> None:
    """Let a node run the given apps and no others."""
    from fedkt.deploy.pinned import pin

    print(*pin(folder, bundles), sep="\n")


@deploying.command()
def check(
    app: Annotated[Path | None, typer.Argument(metavar="[APP_DIR]", help="Of the app.")] = None,
    superlink: Annotated[str | None, typer.Option(help="HOST:PORT of the server.")] = None,
    ca: Annotated[Path | None, typer.Option(help="The federation's ca.crt.")] = None,
    key: Annotated[Path | None, typer.Option(help="The node's private key.")] = None,
    state: Annotated[Path | None, typer.Option(help="Folder of the client's state.")] = None,
    node_config: Annotated[str, typer.Option(help="As flower-supernode takes it.")] = "",
    debug: Debug = False,
) -> None:
    """Check that this node can take part in a federation."""
    from fedkt.deploy.node_check import Node, examine

    if not examine(Node(app, superlink, ca, key, state, node_config)):
        raise typer.Exit(1)

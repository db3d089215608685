"""The folder ``deploy`` of an app: proxy, systemd units, containers, and an empty client list."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from fedkt.deploy.client_list import FILE, write_clients
from fedkt.disk import write_atomic, writing
from fedkt.errors import ConfigError
from fedkt.text import foreign

TEMPLATES = Path(__file__).parent / "templates" / "deploy"
PORT, SUPERLINK_PORT = 443, 8000
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")  # of folders, of a compose project


def write_deploy_folder(
    folder: Path,
    name: str,
    hosts: Sequence[str] = ("localhost",),
    port: int = PORT,
    *,
    superlink_port: int = SUPERLINK_PORT,
    clients: int = 3,
    certificates: str | None = None,
    venv: str | None = None,
    logs: str = "/var/log/nginx",
) -> list[Path]:
    """Write how the server and the nodes of a federation run.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.
    name : str
        Of the federation: small letters, digits and dashes. Names its folders on the machines.
    hosts : Sequence[str]
        The server's names and addresses; nodes use the first.
    port, superlink_port : int
        That the proxy listens on, and the SuperLink on the loopback device.
    clients : int
        Their number, in the example of a node config.
    certificates : str, optional
        Where certificates and keys lie on the machines; by default ``/etc/NAME``.
    venv : str, optional
        The Python environment there; by default ``/opt/NAME/venv``.
    logs : str
        Where nginx writes its logs.

    Returns
    -------
    list[Path]
        The files.

    Raises
    ------
    ConfigError
        If one of them exists, a value is not allowed, or the folder cannot be written to.
    """
    _check(name, hosts, {"port": port, "superlink_port": superlink_port})
    values = {
        "name": name,
        "hosts": list(hosts),
        "port": port,
        "superlink_port": superlink_port,
        "clients": clients,
        "certificates": certificates or f"/etc/{name}",
        "venv": venv or f"/opt/{name}/venv",
        "logs": logs,
    }
    listed = folder / FILE
    texts = {folder / file.name: _filled(file, values) for file in sorted(TEMPLATES.iterdir())}
    if existing := [path for path in (*texts, listed) if path.exists()]:
        raise ConfigError(f"{existing[0]} exists and is not overwritten.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        write_atomic(path, text)
    write_clients(listed, [])
    return [*texts, listed]


def _check(name: str, hosts: Sequence[str], ports: Mapping[str, int]) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"name is {foreign(name)!r}; allowed are up to 31 small letters, digits and dashes, a "
            "letter first."
        )
    for what, value in ports.items():
        if not 0 < value < 65536:
            raise ConfigError(f"{what} is {value}; allowed are 1 to 65535.")
    if not hosts:
        raise ConfigError("hosts is empty; nodes reach the server by at least one name or address.")


def _filled(file: Path, values: dict[str, object]) -> str:
    template = jinja2.Template(
        file.read_text(encoding="utf-8"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return str(template.render(values))

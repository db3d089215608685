"""A node that runs the apps which its operator has looked at, and no others.

Flower ships an app as code: the server sends a bundle (``.fab``) and the node runs it. Flower
starts the program for that, ``flwr-clientapp``, by name. A folder of programs that comes first on
the PATH of ``flower-supernode`` has one that compares the bundle's SHA-256 with a list of the
node's before it is unpacked. The programs for other kinds of tasks, which a server may ask for too,
do not start.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from fedkt.disk import replacing, write_atomic, writing
from fedkt.errors import ConfigError
from fedkt.text import foreign

LIST = "apps.sha256"
PROGRAM = "flwr-clientapp"
OTHERS = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp", "flwr-simulation")
_LINE = re.compile(r"([0-9a-f]{64})(  .*)?")
_RUNS = """\
#!{python}
import sys

from fedkt.deploy.pinned import run

if __name__ == "__main__":
    sys.exit(run({file!r}))
"""
_REFUSES = """\
#!/bin/sh
echo "$0: not started; this node runs pinned client apps alone" >&2
exit 1
"""


def pin(folder: Path, bundles: Sequence[Path]) -> list[str]:
    """Let a node run the apps of some bundles; those that were pinned before stay.

    Parameters
    ----------
    folder : Path
        Of the programs, to come first on the PATH of ``flower-supernode``. Made if absent.
    bundles : Sequence[Path]
        ``.fab`` files of ``flwr build``, looked at by the operator.

    Returns
    -------
    list[str]
        What is pinned now, and what to do.

    Raises
    ------
    ConfigError
        If a bundle cannot be read, or is none.
    """
    file = folder.resolve() / LIST
    apps = dict(_bundle(bundle) for bundle in bundles)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    listed = {**(_read(file) if file.exists() else {}), **apps}
    write_atomic(file, "".join(f"{digest}  {name}\n" for digest, name in listed.items()))
    _write_program(folder / PROGRAM, _RUNS.format(python=sys.executable, file=str(file)))
    for name in OTHERS:
        _write_program(folder / name, _REFUSES)
    return [
        *(f"{name}: sha256:{digest}" for digest, name in listed.items()),
        f"Put {folder.resolve()} first on the PATH of flower-supernode, and restart it. To take an "
        f"app back, remove its line from {file}.",
    ]


def run(file: str) -> None:
    """Run ``flwr-clientapp``, which refuses an app that a list does not have."""
    from fedkt.simulations.engines._flwr_shim import run_client_app

    run_client_app(lambda content: check(content, Path(file)))


def check(content: bytes, file: Path) -> None:
    """Compare a bundle with the list of a node.

    Raises
    ------
    ConfigError
        If it is not there; if the list cannot be read.
    """
    digest = hashlib.sha256(content).hexdigest()
    if digest not in _read(file):
        raise ConfigError(f"this node does not run the app sha256:{digest}; it is not pinned here")


def _read(file: Path) -> dict[str, str]:
    """Return the names of the listed bundles by digest."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {foreign(error)}.") from error
    listed = {}
    for line in filter(None, lines):
        if not (parts := _LINE.fullmatch(line)):
            raise ConfigError(f"{file} has {foreign(line)!r}; allowed are lines of sha256sum.")
        listed[parts[1]] = (parts[2] or "").strip()
    return listed


def _bundle(bundle: Path) -> tuple[str, str]:
    """Return digest and name of a bundle."""
    try:
        content = bundle.read_bytes()
    except OSError as error:
        raise ConfigError(f"{bundle} cannot be read: {error.strerror}.") from error
    if bundle.suffix != ".fab" or not content.startswith(b"PK"):
        raise ConfigError(f"{bundle} is no app bundle; wanted is the .fab file of `flwr build`.")
    return hashlib.sha256(content).hexdigest(), foreign(bundle.name)


def _write_program(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
        partial.chmod(0o755)

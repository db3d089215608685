"""A federation of real processes on this machine: a SuperLink with TLS and keys, and SuperNodes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from .certificate_maker import make_certificates, make_key
from .processes import (
    QUIET,
    Process,
    answers,
    end_all,
    free_ports,
    left_behind,
    make_launchers,
    wait_until,
)

LIGHT_APP = Path(__file__).parent / "light_app"
CONNECTION = "tests"
# Several commands of the command line in one process: each costs a second of imports otherwise.
COMMANDS = """
import json, sys
from flwr.cli.app import app
for arguments in json.loads(sys.argv[1]):
    try:
        app(arguments)
    except SystemExit as end:
        if end.code:
            raise
"""
SHOWN = 4000  # characters of each log that a failure shows


@dataclass
class Node:
    """A SuperNode: how it is started, and the folder of its state."""

    name: str
    folder: Path
    command: list[str]
    env: Mapping[str, str] = field(repr=False)
    process: Process | None = None

    def start(self) -> Process:
        """Start it, or start it again."""
        self.process = Process.start(self.name, self.command, self.folder / "log", self.env)
        return self.process

    @property
    def log(self) -> str:
        """The log, of all its starts."""
        file = self.folder / "log"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    @property
    def state(self) -> Path:
        """The folder of the client's files."""
        return self.folder / "state"

    @property
    def at(self) -> str:
        """The message that its client has come to, as ``ROUND-PHASE``; empty before the first."""
        file = self.state / "at"
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def hold(self, moment: str) -> Path:
        """Let the client wait in a message, ``ROUND-PHASE``, until the file is removed."""
        self.state.mkdir(parents=True, exist_ok=True)
        file = self.state / f"hold-{moment}"
        file.touch()
        return file


class Federation:
    """A SuperLink and its nodes; all of them end with the ``with``.

    Parameters
    ----------
    folder : Path
        A new folder, of which everything is a part: certificates, keys, states, logs.
    app : Path
        The app that is run.
    hurried : bool
        Whether nodes ask for messages more often than Flower's do.
    """

    def __init__(self, folder: Path, app: Path, hurried: bool) -> None:
        self.folder, self.nodes, self._ports = folder, dict[str, Node](), free_ports()
        self.bin = make_launchers(folder / "bin", hurried)
        self.certificates = make_certificates(folder / "certificates")
        self.port = self.free_port()
        self.app = shutil.copytree(
            app, folder / "app", ignore=shutil.ignore_patterns("__pycache__")
        )
        self.superlink: Process | None = None

    def free_port(self) -> int:
        """Return a port that nobody has."""
        return next(self._ports)

    # --- the SuperLink ---------------------------------------------------------------------

    def start(self) -> None:
        """Start the SuperLink, or start it again on its database."""
        folder = self._home("superlink")
        pem = self.certificates
        command = [
            "flower-superlink", "--port", str(self.port), "--database", str(folder / "state.db"),
            "--ssl-ca-certfile", str(pem / "ca.crt"), "--ssl-certfile", str(pem / "server.crt"),
            "--ssl-keyfile", str(pem / "server.key"), "--enable-supernode-auth",
        ]  # fmt: skip
        env = self._env("superlink")
        self.superlink = Process.start("superlink", self._found(command), folder / "log", env)
        wait_until(lambda: answers(self.port), "the SuperLink listens")

    def kill_superlink(self) -> None:
        """Kill the SuperLink and all that it has started, as a service manager would."""
        end_all(f"FLWR_HOME={self.folder}/superlink")
        assert self.superlink is not None
        self.superlink.wait()

    def flwr(self, *commands: Sequence[str]) -> str:
        """Run commands of ``flwr`` against the SuperLink; return what they print.

        Raises
        ------
        AssertionError
            If a command fails.
        """
        text, status = self.try_flwr(*commands)
        assert status == 0, f"flwr {commands}: {text}"
        return text

    def asked(self, command: Sequence[str]) -> dict[str, Any]:
        """Return what a command with ``--format json`` says."""
        text = self.flwr(command)
        said: dict[str, Any] = json.loads(text[text.index("{") :])
        assert said["success"], text
        return said

    def try_flwr(self, *commands: Sequence[str], port: int | None = None) -> tuple[str, int]:
        """Run commands of ``flwr``, at the SuperLink's port or another; return text and status."""
        name = f"operator-{port or self.port}"
        folder = self._home(name)
        log = folder / "log"
        log.write_bytes(b"")
        address = f"127.0.0.1:{port or self.port}"
        connection = {"address": address, "root-certificates": str(self.certificates / "ca.crt")}
        config = {"superlink": {"default": CONNECTION, CONNECTION: connection}}
        (folder / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
        script = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
        process = Process.start("flwr", script, log, self._env(name))
        status = process.wait(300)
        return process.text, status

    def fedkt(self, *arguments: str, status: int = 0) -> str:
        """Run a command of ``fedkt`` as the operator, ending so; return what it prints."""
        self.flwr()  # its connection is there
        name = f"operator-{self.port}"
        command = [str(Path(sys.executable).with_name("fedkt")), *arguments]
        process = Process.start("fedkt", command, self._home(name) / "log", self._env(name))
        assert process.wait(400) == status, process.text
        return process.text

    # --- nodes ------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        *arguments: str,
        host: str = "127.0.0.1",
        port: int | None = None,
        **config: Any,
    ) -> Node:
        """Return a new node, not started.

        Parameters
        ----------
        name : str
            Its name.
        arguments : str
            Arguments of ``flower-supernode`` in place of the certificate and the key of the name.
        host, port : str and int, optional
            The address that it connects to; by default the SuperLink's.
        config
            Its configuration, with underscores for hyphens.
        """
        folder = self._home(name)
        key = folder / "key"
        if not key.exists():
            make_key(key)
        values = {"state-dir": str(folder / "state"), **config}
        given = " ".join(f"{k.replace('_', '-')}={json.dumps(v)}" for k, v in values.items())
        command = [
            "flower-supernode", *(arguments or self.trusted(key)),
            "--superlink", f"{host}:{port or self.port}",
            "--port", str(self.free_port()), "--node-config", given,
        ]  # fmt: skip
        node = Node(name, folder, self._found(command), self._env(name))
        self.nodes[name] = node
        return node

    def trusted(self, key: Path) -> list[str]:
        """Return the arguments of a node with a key that trusts our certificates."""
        root = str(self.certificates / "ca.crt")
        return ["--root-certificates", root, "--auth-supernode-private-key", str(key)]

    def register(self, *nodes: Node) -> None:
        """Register the keys of nodes."""
        keys = [str(node.folder / "key.pub") for node in nodes]
        self.flwr(*(["supernode", "register", key, CONNECTION] for key in keys))

    def online(self) -> list[str]:
        """Return the ids of the nodes that are online."""
        nodes = self.asked(["supernode", "list", CONNECTION, "--format", "json"])["nodes"]
        return [node["node-id"] for node in nodes if node["status"] == "online"]

    # --- runs -------------------------------------------------------------------------------

    def run(self, name: str, **values: Any) -> Run:
        """Begin a run of the app; values are its configuration, with underscores for hyphens."""
        folder = self.folder / "runs" / str(values.pop("folder", name))
        config = {"run-dir": str(folder), "run-name": name}
        config |= {key.replace("_", "-"): value for key, value in values.items()}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "values.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
        for old in ("end", "server.pid"):
            (folder / old).unlink(missing_ok=True)
        overrides = ["-c", str(folder / "values.toml"), "--format", "json"]
        said = self.asked(["run", str(self.app), CONNECTION, *overrides])
        return Run(self, said["run-id"], name, folder)

    # --- the end ----------------------------------------------------------------------------

    def close(self) -> None:
        """End all processes."""
        running = [node.process for node in self.nodes.values() if node.process is not None]
        for process in running:
            process.kill()
        if self.superlink is not None:
            self.superlink.kill()
        end_all(self._mark)
        wait_until(lambda: not left_behind(self._mark), "the end of all processes", 10)

    def logs(self) -> str:
        """Return the ends of all logs, and the rounds of all runs."""
        files = [*self.folder.glob("*/log"), *self.folder.glob("runs/*/rounds.jsonl")]
        return "\n".join(
            f"--- {file.parent.name}\n{_text(file)[-SHOWN:]}" for file in sorted(files)
        )

    @property
    def _mark(self) -> str:
        return f"FLWR_HOME={self.folder}/"

    def _home(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _env(self, name: str) -> dict[str, str]:
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, **QUIET, "PATH": path, "FLWR_HOME": f"{self.folder}/{name}"}

    def _found(self, command: list[str]) -> list[str]:
        return [str(self.bin / command[0]), *command[1:]]


@dataclass(frozen=True)
class Run:
    """A run of the light app."""

    federation: Federation = field(repr=False)
    id: str
    name: str
    folder: Path

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The finished rounds."""
        file = self.folder / "rounds.jsonl"
        if not file.exists():
            return []
        whole, _, _ = file.read_text(encoding="utf-8").rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    @property
    def server(self) -> int:
        """The process id of the ServerApp."""
        return int((self.folder / "server.pid").read_text(encoding="utf-8"))

    @property
    def end(self) -> str:
        """How the ServerApp has ended, ``done`` or its error; empty before that."""
        file = self.folder / "end"
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def go(self, round_: int) -> None:
        """Let a paced run begin a round."""
        (self.folder / f"go-{round_}").touch()

    def wait(self, seconds: float = 240) -> list[dict[str, Any]]:
        """Wait for the end of the run; return its rounds."""
        wait_until(lambda: self.end, f"the end of run {self.name}", seconds)
        assert self.end == "done", self.end
        return self.rows

    def wait_for(self, round_: int, seconds: float = 120) -> dict[str, Any]:
        """Wait for the end of a round; return it."""
        came = lambda: len(self.rows) >= round_ or self.end  # noqa: E731
        wait_until(came, f"the end of round {round_}", seconds)
        assert len(self.rows) >= round_, self.end
        return self.rows[round_ - 1]

    def status(self) -> str:
        """Return the status that Flower gives the run."""
        command = ["ls", CONNECTION, "--run-id", self.id, "--format", "json"]
        return str(self.federation.asked(command)["runs"][0]["status"])


@contextmanager
def federation(folder: Path, app: Path = LIGHT_APP, hurried: bool = True) -> Iterator[Federation]:
    """Yield a federation whose SuperLink has started."""
    made = Federation(folder, app, hurried)
    try:
        made.start()
        yield made
    finally:
        made.close()


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")

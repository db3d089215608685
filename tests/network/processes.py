"""Processes of a federation on this machine: their commands, environment, logs, ports and end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path

FIRST_PORT, PORTS = 21000, 1000
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    # Bits are compared, and several processes compute at once.
    "OMP_NUM_THREADS": "1",
    # Once a second by default; Flower's own setting.
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.3",
}
LAUNCHER = """#!{python}
import sys, time, types
{before}
from {module} import {function}
sys.exit({function}())
"""
# Two short cuts, which are most of a light round: a node asks for messages every three seconds,
# and a ClientApp imports the code of the node too, half of its second of CPU.
BEFORE = {
    "flower-supernode": """
from flwr.supernode import start_client_internal as loop
loop.time = types.SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, 0.5)))
""",
    "flwr-clientapp": """
unused = types.ModuleType("flwr.supernode.cli.flower_supernode")
unused.flower_supernode = None
sys.modules[unused.__name__] = unused
""",
}


def make_launchers(folder: Path, hurried: bool = True) -> Path:
    """Write Flower's commands, run by this interpreter, into a folder; return it.

    Flower starts its processes by their bare names, so the folder must be on the path. Those that
    are installed may belong to another environment than this one. ``hurried``: with short cuts.
    """
    folder.mkdir(parents=True)
    for script in distribution("flwr").entry_points.select(group="console_scripts"):
        names = {"module": script.module, "function": script.attr}
        before = BEFORE.get(script.name, "") if hurried else ""
        file = folder / script.name
        text = LAUNCHER.format(python=sys.executable, before=before, **names)
        file.write_text(text, encoding="utf-8")
        file.chmod(0o755)
    return folder


def free_ports() -> Iterator[int]:
    """Yield ports of this machine that nobody listens on, other ones for each process."""
    begin = os.getpid() * 37 % PORTS
    for step in range(PORTS):
        port = FIRST_PORT + (begin + step) % PORTS
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                yield port


def wait_until(true: Callable[[], object], what: str, seconds: float = 60) -> float:
    """Wait until something is true; return the seconds that it took.

    Raises
    ------
    TimeoutError
        If it is not true in time.
    """
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.05)
    return time.monotonic() - began


def answers(port: int) -> bool:
    """Return whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Process:
    """A process in a session of its own, with all that it starts, and its log."""

    name: str
    log: Path
    popen: subprocess.Popen[bytes] = field(repr=False)

    @classmethod
    def start(cls, name: str, command: Sequence[str], log: Path, env: Mapping[str, str]) -> Process:
        """Start a command; its log goes on where it is."""
        with log.open("ab") as file:
            popen = subprocess.Popen(
                command, stdout=file, stderr=file, stdin=subprocess.DEVNULL,
                env=env, cwd=log.parent, start_new_session=True,
            )  # fmt: skip
        return cls(name, log, popen)

    @property
    def text(self) -> str:
        """The log."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def alive(self) -> bool:
        """Whether the process itself still runs."""
        return self.popen.poll() is None

    def wait(self, seconds: float = 60) -> int:
        """Return the exit status."""
        return self.popen.wait(seconds)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End the process and all that it has started in its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, how)
        if how == signal.SIGKILL:
            self.popen.wait()

    def end(self) -> None:
        """End the process by SIGTERM, as a service manager does, and then what is left of it."""
        if self.alive:
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(15)
        self.kill()


def left_behind(mark: str) -> list[int]:
    """Return the processes whose environment holds a text: what children of ours have started.

    A SuperLink starts its helpers in sessions of their own, so a process group is not enough.
    """
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:  # ended, or another user's
            continue
        if mark.encode() in environment and int(folder.name) != os.getpid():
            pids.append(int(folder.name))
    return pids


def end_all(mark: str) -> None:
    """Kill every process whose environment holds a text."""
    for pid in left_behind(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

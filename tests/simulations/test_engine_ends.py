"""How runs on Ray and on Flower's engine end before their time: in one line, with nothing left."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fedkt.simulations.results.rounds import read_rounds


def begin(folder: Path, toml: Path, grid: str) -> subprocess.Popen[str]:
    """Begin a simulation in a process of its own; return when it has two rounds."""
    command = [sys.executable, "-m", "fedkt.simulations.cli", "simulate", str(toml)]
    process = subprocess.Popen(
        [*command, "--grid", grid, "--workers", "1", "--out", "run"],
        cwd=folder,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Nobody answers there: a run joins no cluster that it is not asked to.
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:9"},
    )
    deadline = time.monotonic() + 180
    while len(read_rounds(folder / "run")) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    return process


def child(pid: int, name: bytes) -> int:
    """Return the child of a process whose program has that name."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    programs = {c: Path(f"/proc/{c}/cmdline").read_bytes().split(b"\0")[0] for c in children}
    (found,) = [int(c) for c, program in programs.items() if os.path.basename(program) == name]
    return found


def ended(process: subprocess.Popen[str], folder: Path) -> tuple[int, str]:
    """Return a run's exit status and its line; what it left can be gone on with."""
    _, err = process.communicate(timeout=120)
    (line,) = err.splitlines()
    said = line.partition("go on with: fedkt ")[2]
    assert shlex.split(said) == ["simulate", "--out", "run", "--resume"]
    left = {p.name for p in (folder / "run").iterdir()}
    assert left & {"flower", "state", ".lock", "summary.json"} == set()
    assert len(read_rounds(folder / "run")) >= 2
    return process.returncode, line


@pytest.mark.parametrize(
    "grid",
    [pytest.param("ray", marks=pytest.mark.ray), pytest.param("flower", marks=pytest.mark.flower)],
)
def test_sigterm(here: Path, write_toml: Any, grid: str) -> None:
    """Not a word of Ray's, which would print a stack of native calls."""
    toml = write_toml(here, rounds=500, strategy={"name": "local"}, run={"state": "disk"})
    process = begin(here, toml, grid)
    process.send_signal(signal.SIGTERM)
    status, line = ended(process, here)
    assert status == 143
    assert line.startswith("Stopped. What is finished is kept")


@pytest.mark.flower
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")
def test_the_death_of_what_an_engine_stands_on(here: Path, write_toml: Any) -> None:
    """Both engines look in the same way; Flower's waited for ever."""
    toml = write_toml(here, rounds=500, strategy={"name": "local"})
    process = begin(here, toml, "flower")
    os.kill(child(process.pid, b"raylet"), signal.SIGKILL)
    status, line = ended(process, here)
    assert status == 1
    assert line.startswith("error: Ray has died: its process raylet is gone. What is finished")

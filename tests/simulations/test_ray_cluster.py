"""Joining a Ray cluster that runs already, in this file only: no session is open here."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from fedkt.errors import ConfigError
from fedkt.simulations.engines.ray_session import join_ray
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute

pytestmark = pytest.mark.ray

WORKER_PORTS = range(10002, 20000)  # Ray's own, for its workers


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, outside the range Ray deals to its workers."""
    held: list[socket.socket] = []
    kept: list[int] = []
    try:
        while len(kept) < count:
            held.append(socket.socket())
            held[-1].bind(("127.0.0.1", 0))
            port = held[-1].getsockname()[1]
            if port not in WORKER_PORTS:
                kept.append(port)
    finally:
        for one in held:
            one.close()
    return kept


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Start a cluster of one node with two CPUs; return its address."""
    assert not ray.is_initialized(), "another test has left Ray running"
    port, client_port = free_ports(2)
    folder = tempfile.mkdtemp(prefix="ray-")  # a short name: the sockets lie in it
    ray_command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    options = [f"--port={port}", f"--ray-client-server-port={client_port}", "--num-cpus=2",
               "--include-dashboard=false", "--disable-usage-stats",
               f"--temp-dir={folder}"]  # fmt: skip
    process = subprocess.Popen(
        [*ray_command, *options],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)  # with --block this ends the whole node
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(port: int, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if "Ray runtime started" in line:
            break
    assert process.poll() is None, "the cluster has not started"
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        pass


def test_a_run_on_a_cluster_gives_the_same_bits(
    tmp_path: Path, tiny: Any, address: str, figures: Any, final_state: Any
) -> None:
    execute(prepare(tiny()), tmp_path / "here", label="x")
    run = {"grid": "ray", "workers": 2, "address": address}
    execute(prepare(tiny(run=run)), tmp_path / "there", label="x")
    assert figures(tmp_path / "there") == figures(tmp_path / "here")
    assert final_state(tmp_path / "there") == final_state(tmp_path / "here")
    assert not ray.is_initialized(), "the cluster is left"


@pytest.mark.parametrize(
    "command", [["simulate"], ["compare", "--strategies", "knfu", "--seeds", "1"]]
)
def test_a_cluster_that_is_too_small_is_refused_and_nothing_written(
    here: Path, fedkt: Any, write_toml: Any, address: str, command: list[str]
) -> None:
    toml = write_toml(here, data__clients=5)
    options = ["--grid", "ray", "--workers", 5, "--address", address, "--out", "run"]
    answer = fedkt(*command, toml, *options)
    assert answer.code == 2
    assert answer.err == "error: --workers 5: the Ray cluster has 2 CPUs.\n"
    assert not (here / "run").exists()
    assert not ray.is_initialized()


def test_by_default_no_cluster_is_joined(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one that the environment names: a run must not depend on it."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert join_ray(1, None)
    try:
        assert ray.cluster_resources()["CPU"] == 1, "the cluster has 2"
    finally:
        ray.shutdown()


def test_an_address_where_nobody_answers_is_refused_soon() -> None:
    """In a process of its own, because Ray may end the process it cannot join from."""
    (port,) = free_ports(1)
    code = f"""
from fedkt.errors import ConfigError
from fedkt.simulations.engines.ray_session import join_ray
try:
    join_ray(1, "127.0.0.1:{port}")
except ConfigError as error:
    print("refused:", error)
"""
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=20
        )
    except subprocess.TimeoutExpired:
        pytest.fail("no answer within 20 seconds")
    assert f"127.0.0.1:{port}" in done.stdout, (done.returncode, time.monotonic() - began)
    assert "refused: Ray cannot be reached" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="Ray cannot be reached at 'nonsense'"):
        join_ray(1, "nonsense")

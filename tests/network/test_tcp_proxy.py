"""The proxy that the tests of the network put between nodes and SuperLink."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from .processes import free_ports
from .tcp_proxy import TcpProxy

pytestmark = [pytest.mark.network, pytest.mark.network_quick]
SENT = bytes(range(256)) * 1000


@pytest.fixture
def echo() -> Iterator[int]:
    """Yield the port of a server that sends everything back, and then closes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):  # the end or the cut
                while data := connection.recv(65536):
                    connection.sendall(data)

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=[connection], daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def send(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(SENT)


def through(proxy: TcpProxy) -> bytes:
    """Return what comes back through a proxy, until the end or the cut."""
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        threading.Thread(target=send, args=[connection], daemon=True).start()
        came = b""
        with contextlib.suppress(ConnectionResetError):
            while len(came) < len(SENT) and (data := connection.recv(65536)):
                came += data
        return came


def test_it_passes_bytes_on_and_counts_them(echo: int) -> None:
    with TcpProxy(next(free_ports()), echo).running() as proxy:
        assert through(proxy) == SENT
        assert (proxy.up, proxy.down, proxy.cuts) == (len(SENT), len(SENT), 0)


def test_it_delays_each_way(echo: int) -> None:
    with TcpProxy(next(free_ports()), echo, delay=0.1).running() as proxy:
        began = time.monotonic()
        assert through(proxy) == SENT
        assert 0.2 <= time.monotonic() - began < 2


def test_it_cuts_connections(echo: int) -> None:
    with TcpProxy(next(free_ports()), echo, cut_after=1000).running() as proxy:
        assert through(proxy) != SENT
        assert proxy.cuts == 1

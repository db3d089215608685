"""The byte meter of a round, compared with what a proxy between nodes and SuperLink counts."""

from __future__ import annotations

import pytest

from .harness import Federation
from .tcp_proxy import TcpProxy

pytestmark = pytest.mark.network
CLIENTS, CLASSES = 2, 10
# Public samples, and rounds: the last is measured, small ones without greeting and app.
SIZES = {"4-MB": (100_000, 2), "50-MB": (1_250_000, 1)}
MOST = 1.02  # frames, polls and TLS


def test_the_meter_says_what_the_socket_carries(unhurried: Federation) -> None:
    net = unhurried
    with TcpProxy(net.free_port(), net.port).running() as proxy:
        nodes = [net.add(f"node-{c}", port=proxy.port, partition_id=c) for c in range(CLIENTS)]
        net.register(*nodes)
        for node in nodes:
            node.start()
        for size, (samples, rounds) in SIZES.items():
            values = {"rounds": rounds, "clients": CLIENTS, "public_size": samples}
            run = net.run(size, deadline=150.0, paced=True, **values)
            for earlier in range(1, rounds):
                run.go(earlier)
                run.wait_for(earlier)
            up, down = proxy.up, proxy.down
            run.go(rounds)
            row = run.wait()[-1]
            meter = CLIENTS * samples * CLASSES * 4
            assert (row["up"], row["down"]) == (meter, meter)
            ratios = (proxy.up - up) / meter, (proxy.down - down) / meter
            print(f"{size}: socket / meter {ratios[0]:.4f} up, {ratios[1]:.4f} down")
            assert 1 < ratios[0] < MOST
            assert 1 < ratios[1] < MOST

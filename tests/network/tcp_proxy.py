"""A TCP proxy on this machine that counts bytes, delays them, and cuts connections at random."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

CHUNK = 65536
RESET = struct.pack("ii", 1, 0)  # a socket that is closed so says that the connection is lost


@dataclass
class TcpProxy:
    """A proxy between a port and another one of this machine.

    Parameters
    ----------
    port, target : int
        The port to listen on, and the one to pass on to.
    delay : float
        Seconds that every byte takes, each way.
    cut_after : float
        Mean number of bytes from the client after which a connection is cut; 0: never. The bytes
        are lost, so a request does not arrive whole. An answer is never lost: where that to a piece
        of an upload is, Flower 1.41 sends the piece again, is refused, and gives the upload up.
    seed : int
        Seed of the cuts.
    host : str
        The address to listen on.

    Attributes
    ----------
    up, down : int
        Bytes that have come from clients and from the target.
    cuts : int
        Connections cut.
    peers : set[str]
        Addresses that connections have come from.
    """

    port: int
    target: int
    delay: float = 0.0
    cut_after: float = 0.0
    seed: int = 0
    host: str = "127.0.0.1"
    up: int = 0
    down: int = 0
    cuts: int = 0
    peers: set[str] = field(default_factory=set)
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    @contextmanager
    def running(self) -> Iterator[TcpProxy]:
        """Pass connections on while the ``with`` lasts."""
        started, ended, loops = threading.Event(), asyncio.Event(), []

        async def serve() -> None:
            loops.append(asyncio.get_running_loop())
            server = await asyncio.start_server(self._connected, self.host, self.port)
            started.set()
            await ended.wait()
            server.close()

        thread = threading.Thread(target=asyncio.run, args=[serve()], daemon=True)
        thread.start()
        assert started.wait(10), f"no proxy on port {self.port}"
        try:
            yield self
        finally:
            loops[0].call_soon_threadsafe(ended.set)
            thread.join(10)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peers.add(writer.get_extra_info("peername")[0])
        with contextlib.suppress(OSError, asyncio.CancelledError):
            there, target = await asyncio.open_connection("127.0.0.1", self.target)
            line = _Line((writer, target), self._lifetime())
            up = self._pump(reader, target, line, "up")
            await asyncio.gather(up, self._pump(there, writer, line, "down"))
            target.close()
        writer.close()

    def _lifetime(self) -> float:
        return self._random.expovariate(1 / self.cut_after) if self.cut_after else float("inf")

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: _Line, way: str
    ) -> None:
        """Pass the bytes of one direction on, each at its time, until the end or the cut."""
        with contextlib.suppress(OSError, asyncio.CancelledError):
            async for data in self._delayed(reader):
                setattr(self, way, getattr(self, way) + len(data))
                if way == "up" and line.is_cut(len(data)):
                    self.cuts += 1
                    line.cut()
                    return
                writer.write(data)
                await writer.drain()
            writer.write_eof()
            return
        line.cut()

    async def _delayed(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """Yield what arrives, each piece after the delay; pieces do not wait for each other."""
        clock, waiting = asyncio.get_running_loop().time, asyncio.Queue[tuple[float, bytes]](256)

        async def read() -> None:
            data = b"-"
            while data:
                try:
                    data = await reader.read(CHUNK)
                except OSError:
                    data = b""
                await waiting.put((clock() + self.delay, data))

        task = asyncio.create_task(read())
        try:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(0.0, due - clock()))
                if not data:
                    return
                yield data
        finally:
            task.cancel()


@dataclass
class _Line:
    """The two ends of a connection, and the bytes that the client has left."""

    ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    left: float

    def is_cut(self, length: int) -> bool:
        """Return whether the connection is cut in this piece."""
        before, self.left = self.left, self.left - length
        return before > 0 >= self.left

    def cut(self) -> None:
        """Reset both ends."""
        for end in self.ends:
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.transport.abort()

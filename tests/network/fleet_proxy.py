"""A small reverse proxy with the rule of the template ``nginx.conf``: nodes come in, no more."""

from __future__ import annotations

import http.client
import posixpath
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

FLEET = "/v1/fleet/"
HOP = {"connection", "host", "keep-alive", "transfer-encoding", "content-length"}


def normal(target: str) -> str:
    """Return the path of a request as nginx checks it: decoded, without ``..`` and ``//``."""
    path = re.sub("/+", "/", unquote(target.partition("#")[0].partition("?")[0]))
    ending = "/" if path.endswith(("/", "/.", "/..")) and path != "/" else ""
    return posixpath.normpath(path).rstrip("/") + ending or "/"


def let_through(method: str, target: str) -> bool:
    """Return whether a request may go on to the SuperLink."""
    return method == "POST" and normal(target).startswith(FLEET)


@dataclass
class Proxy:
    """A running proxy: its port, and the requests so far, (method, target, status)."""

    port: int
    seen: list[tuple[str, str, int]] = field(default_factory=list)


@contextmanager
def fleet_proxy(certificate: Path, key: Path, ca: Path, superlink: int) -> Iterator[Proxy]:
    """Run a proxy that ends TLS and speaks TLS with a SuperLink on the loopback device."""
    outwards = ssl.create_default_context(cafile=str(ca))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if let_through(self.command, self.path):
                status, headers, answer = self.forward(body)
            else:
                status, headers, answer = 403, [], b"403 Forbidden"
            proxy.seen.append((self.command, self.path, status))
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            headers = {n: v for n, v in self.headers.items() if n.lower() not in HOP}
            inner = http.client.HTTPSConnection(
                "localhost", superlink, context=outwards, timeout=60
            )
            try:
                inner.request(self.command, normal(self.path), body, headers)
                response = inner.getresponse()
                return response.status, response.getheaders(), response.read()
            except OSError:
                return 502, [], b""
            finally:
                inner.close()

        do_GET = do_POST = do_PUT = do_DELETE = any  # noqa: N815 - names of the base

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    proxy = Proxy(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""``fedkt deploy check``: whether a node is ready to take part in a federation."""

from __future__ import annotations

import http.client
import importlib.metadata
import platform
import shutil
import socket
import ssl
import stat
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any

from cryptography import x509
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from fedkt.deploy.app_trial import dry_run
from fedkt.deploy.certificates import read_private_key
from fedkt.deploy.pinned import LIST, PROGRAM
from fedkt.errors import ConfigError, FedktError
from fedkt.text import foreign, raised

PORT = 443
PROGRAMS = ("flower-supernode", "flower-superexec", "flwr-clientapp")  # started by bare name
PACKAGES = ("fedkt", "flwr", "torch")

_SECONDS = 10.0  # for the server to answer
_SOON = 30  # days that a certificate has left
_NEEDED_GB, _AMPLE_GB = 1.0, 5.0
# Flower refuses a node whose clock is so far behind the server's, or ahead of it, in seconds.
_MOST_BEHIND, _MOST_AHEAD = 305.0, 5.0
_BEHIND, _AHEAD = 60.0, 2.0  # said before it comes to that

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True)
class Finding:
    """The outcome of a check: ``ok``, ``warn`` or ``FAIL``, what was checked, what was found."""

    level: str
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<4}  {self.what}: {self.text}"


@dataclass(frozen=True)
class Node:
    """What there is to check at a node.

    Parameters
    ----------
    app : Path, optional
        The folder of the app, with ``pyproject.toml``.
    superlink : str, optional
        ``HOST`` or ``HOST:PORT`` of the server.
    ca : Path, optional
        The certificate of the federation's authority.
    key : Path, optional
        The node's private key.
    state : Path, optional
        The folder of the client's state.
    node_config : str
        What ``flower-supernode --node-config`` gets, for the dry run of the app.
    """

    app: Path | None = None
    superlink: str | None = None
    ca: Path | None = None
    key: Path | None = None
    state: Path | None = None
    node_config: str = ""


def examine(node: Node) -> bool:
    """Print one line for each check; return whether none fails."""
    well = True
    for finding in findings(node):
        print(finding, flush=True)
        well &= finding.level != FAIL
    return well


def findings(node: Node) -> Iterator[Finding]:
    """Yield the outcome of each check in turn; what was not asked for is a warning."""
    parts: list[tuple[str, str, Any, Callable[[], Iterable[Finding]]]] = [
        ("programs", "", node, _programs),
        ("versions", "", node, partial(_versions, node.app)),
        ("CA", "--ca FILE", node.ca, partial(_ca, node.ca)),
        ("server", "--superlink HOST:PORT", node.superlink, partial(_server, node)),
        ("key", "--key FILE", node.key, partial(_key, node.key)),
        ("state", "--state DIR", node.state, partial(_state, node.state)),
        ("app", "APP_DIR", node.app, partial(_app, node.app, node.node_config)),
    ]
    for what, option, value, check in parts:
        if value is None:
            yield Finding(WARN, what, f"not checked; give {option}")
            continue
        try:
            yield from check()
        except FedktError as error:
            yield Finding(FAIL, what, foreign(error))
        except Exception as error:  # any error is a finding
            yield Finding(FAIL, what, raised(error))


def _programs() -> Iterator[Finding]:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        yield Finding(
            FAIL,
            "programs",
            f"{', '.join(missing)} not on the PATH; Flower starts them by name, so put the bin "
            "folder of this Python there (systemd: Environment=PATH=...)",
        )
    else:
        yield Finding(OK, "programs", f"{', '.join(PROGRAMS)} on the PATH")
    program = shutil.which(PROGRAM)
    if program is not None and (pins := Path(program).with_name(LIST)).exists():
        yield Finding(OK, "pinned", f"the node runs the apps of {pins} and no others")
    elif program is not None:
        yield Finding(
            WARN, "pinned", "the node runs every app that the server sends; see fedkt deploy pin"
        )


def _versions(app: Path | None) -> Iterator[Finding]:
    """Yield the versions here; those that the app's ``pyproject.toml`` asks for, compared."""
    project = {} if app is None else _project(app).get("project", {})
    asked = str(project.get("requires-python", ""))
    try:
        fits = platform.python_version() in SpecifierSet(asked)
        wanted = [Requirement(line) for line in project.get("dependencies", [])]
    except (InvalidSpecifier, InvalidRequirement) as error:
        raise ConfigError(f"{app}/pyproject.toml: {foreign(error)}") from error
    yield Finding(
        OK if fits else FAIL,
        "Python",
        platform.python_version() + ("" if fits else f"; the app asks for {asked}"),
    )
    asked_names = {r.name for r in wanted}
    plain = [Requirement(name) for name in PACKAGES if name not in asked_names]
    for requirement in (*plain, *wanted):
        if requirement.marker is None or requirement.marker.evaluate():
            yield _version(requirement)


def _version(requirement: Requirement) -> Finding:
    name, asked = requirement.name, requirement.specifier
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(FAIL, name, f"not installed; pip install '{requirement}'")
    if not asked.contains(version, prereleases=True):
        return Finding(FAIL, name, f"{version}; the app asks for {asked}")
    return Finding(OK, name, version)


def _ca(ca: Path | None) -> Iterator[Finding]:
    assert ca is not None
    try:
        certificates = x509.load_pem_x509_certificates(ca.read_bytes())
    except OSError as error:
        raise ConfigError(f"{ca} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{ca} is no certificate in PEM form") from error
    for certificate in certificates:
        yield _dates("CA", str(ca), certificate)


def _server(node: Node) -> Iterator[Finding]:
    """Yield whether the port is open, the certificate vouched for, and the clocks together."""
    assert node.superlink is not None
    host, port = _host_and_port(node.superlink)
    try:
        plain = socket.create_connection((host, port), timeout=_SECONDS)
    except OSError as error:
        yield Finding(
            FAIL,
            "port",
            f"{host}:{port} cannot be reached ({raised(error)}); is the server up, and do both "
            "firewalls let this through?",
        )
        return
    with plain:
        yield Finding(OK, "port", f"{host}:{port} is open")
        if node.ca is None:
            yield Finding(WARN, "TLS", "not checked; give --ca FILE")
            return
        try:
            context = ssl.create_default_context(cafile=str(node.ca))
            with context.wrap_socket(plain, server_hostname=host) as secure:
                certificate = x509.load_der_x509_certificate(secure.getpeercert(True) or b"")
                yield _dates("TLS", f"{host} has a certificate of this CA", certificate)
                yield _clock(host, secure)
        except ssl.SSLCertVerificationError as error:
            yield Finding(
                FAIL,
                "TLS",
                f"{foreign(error.verify_message)}; {node.ca} must be the CA of this server, and "
                f"{host} among the hosts of its certificate",
            )
        except (OSError, http.client.HTTPException) as error:
            yield Finding(FAIL, "TLS", f"{raised(error)}; does {host}:{port} speak TLS?")


def _dates(what: str, who: str, certificate: x509.Certificate) -> Finding:
    end, now = certificate.not_valid_after_utc, datetime.now(UTC)
    left = (end - now).days
    if now > end:
        return Finding(FAIL, what, f"{who}, which ended on {end:%Y-%m-%d}; make a new one")
    if now < certificate.not_valid_before_utc:
        begin = certificate.not_valid_before_utc
        return Finding(FAIL, what, f"{who}, which begins on {begin:%Y-%m-%d}; is the clock right?")
    soon = "; renew it" if left < _SOON else ""
    text = f"{who}, until {end:%Y-%m-%d}, {left} days left{soon}"
    return Finding(WARN if soon else OK, what, text)


def _clock(host: str, secure: ssl.SSLSocket) -> Finding:
    """Return whether this clock is near the one in the server's ``Date`` header."""
    secure.sendall(f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    response = http.client.HTTPResponse(secure)
    response.begin()
    date = response.getheader("Date")
    if date is None:
        return Finding(WARN, "clock", "not compared; the server says no time")
    ahead = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
    return clock_finding(ahead)


def clock_finding(ahead: float) -> Finding:
    """Return the finding for a clock that is so many seconds ahead of the server's.

    The server's time is known to the second below, so up to one second ahead is none.
    """
    ahead = max(0.0, ahead - 1) if ahead > 0 else ahead
    side = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    if not -_MOST_BEHIND < ahead < _MOST_AHEAD:
        level, hint = FAIL, f"; Flower refuses the node from {_MOST_AHEAD:g} s ahead and " \
            f"{_MOST_BEHIND:g} s behind. Set the clock (NTP)"  # fmt: skip
    elif not -_BEHIND < ahead < _AHEAD:
        level, hint = WARN, "; set the clock (NTP) before Flower refuses the node"
    else:
        level, hint = OK, ""
    return Finding(level, "clock", side + hint)


def _key(key: Path | None) -> Iterator[Finding]:
    assert key is not None
    private, fingerprint = read_private_key(key)
    yield Finding(OK, "key", f"{key}, {private.curve.name}, {fingerprint}; the server must know it")
    mode = stat.S_IMODE(key.stat().st_mode)
    if mode & 0o077:
        text = f"{key} has mode {mode:o}: others may read it; chmod 600 {key}"
        yield Finding(FAIL, "key's mode", text)
    else:
        yield Finding(OK, "key's mode", f"{mode:o}")


def _state(state: Path | None) -> Iterator[Finding]:
    """Yield whether the state folder can be written to by its owner alone, and has room."""
    assert state is not None
    if not state.is_dir():
        raise ConfigError(f"{state} is no folder; make it: mkdir -m 700 -p {state}")
    try:
        with tempfile.NamedTemporaryFile(mode="wb", dir=state) as file:
            file.write(b"fedkt")
    except OSError as error:
        raise ConfigError(f"{state} cannot be written to: {error.strerror}") from error
    mode = stat.S_IMODE(state.stat().st_mode)
    if mode & 0o077:
        text = f"{state} has mode {mode:o}: others may read models; chmod 700 {state}"
        yield Finding(WARN, "state", text)
    else:
        yield Finding(OK, "state", f"{state} can be written to, by its owner alone")
    free = shutil.disk_usage(state).free / 1e9
    level = OK if free >= _AMPLE_GB else WARN if free >= _NEEDED_GB else FAIL
    hint = "" if level == OK else f"; states are copies of the model: have {_AMPLE_GB:g} GB"
    yield Finding(level, "disk", f"{free:.1f} GB free{hint}")


def _app(app: Path | None, node_config: str) -> Iterator[Finding]:
    assert app is not None
    for what, text in dry_run(app, node_config):
        yield Finding(OK, what, text)


def _project(app: Path) -> dict[str, Any]:
    """Return an app's ``pyproject.toml``."""
    file = app / "pyproject.toml"
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{file} is not TOML: {foreign(error)}") from error


def _host_and_port(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST``, ``HOST:PORT`` or ``[IPv6]:PORT``."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(PORT)
    if not port.isdecimal() or not 0 < int(port) < 65536 or not host or "/" in host:
        raise ConfigError(f"superlink is {foreign(text)!r}; allowed is HOST:PORT, without https://")
    return host.strip("[]"), int(port)

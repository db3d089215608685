"""Keys that are replaced, where the SuperLink only answers; tests of the network ask a real one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fedkt.deploy import registering
from fedkt.deploy.certificates import fingerprint_of
from fedkt.deploy.client_list import read_clients, write_clients
from fedkt.deploy.credentials import make
from fedkt.deploy.registering import register, rotate
from fedkt.errors import ConfigError


@pytest.fixture
def certs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of certificates whose clients are registered, at a SuperLink that agrees."""
    folder = tmp_path / "certs"
    make(folder, ("localhost",), ("north", "south"), 30)
    file = folder / "clients.toml"
    write_clients(file, [replace(c, node=c.id + 1) for c in read_clients(file)])
    monkeypatch.setattr(registering, "_check_connection", lambda connection: None)
    monkeypatch.setattr(registering, "_register", lambda *arguments: 100)
    monkeypatch.setattr(registering, "_unregister", lambda *arguments: None)
    return folder


def sent(folder: Path, name: str) -> tuple[Path, str]:
    """Return a public key that a party has made, and its fingerprint."""
    make(folder / name, ("localhost",), (name,), 30)
    public = folder / name / "keys" / f"{name}.pub"
    return public, fingerprint_of(public.read_bytes())


def test_another_key_than_that_of_a_rotation_that_was_cut_off(certs: Path, tmp_path: Path) -> None:
    (first, one), (second, two) = sent(tmp_path, "first"), sent(tmp_path, "second")
    stale = certs / "keys" / "north.new.pub"
    shutil.copy(first, stale)
    with pytest.raises(ConfigError) as refused:
        list(rotate(certs, "north", public=second))
    assert str(refused.value) == (
        f"north: a rotation to the key {one} was cut off, and {second} is {two}. Finish that "
        f"rotation first, without --key, or remove {stale} to drop it."
    )
    before = read_clients(certs / "clients.toml")
    assert before[0].node == 1
    list(rotate(certs, "north", public=first))
    assert read_clients(certs / "clients.toml")[0].key == one

    clients = read_clients(certs / "clients.toml")
    write_clients(certs / "clients.toml", [replace(clients[0], former=1), clients[1]])
    with pytest.raises(ConfigError, match=r"was cut off, and .*\. Finish .* without --key\.$"):
        list(rotate(certs, "north", public=second))
    (line, *_) = rotate(certs, "north", public=first)
    assert line == "north: going on with a rotation that was cut off."
    (certs / "keys" / "north").unlink(missing_ok=True)  # of the pair that was made here
    (_, line) = rotate(certs, "north", public=second)
    assert read_clients(certs / "clients.toml")[0].key == two
    assert line == (
        "Let its operator put the new private key in place, and restart its SuperNode; until then "
        "it stays out."
    )


def test_the_superlink_of_simulations_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower's default until its ``config.toml`` names another: it would take every key."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower"))
    monkeypatch.setattr(registering, "_register", lambda *arguments: 100)
    folder = tmp_path / "certs"
    make(folder, ("localhost",), ("north",), 30)
    line = "of Flower's config.toml is its SuperLink for simulations, which no node can reach"
    with pytest.raises(ConfigError, match=f"The default connection {line}"):
        list(register(folder))
    with pytest.raises(ConfigError, match=f"The connection local {line}"):
        list(rotate(folder, "north", "local"))
    with pytest.raises(ConfigError, match=r"'nowhere' not found in the Flower configuration file"):
        list(register(folder, "nowhere"))
    config = tmp_path / "flower" / "config.toml"
    config.write_text('[superlink.here]\naddress = "127.0.0.1:8000"\n', encoding="utf-8")
    assert list(register(folder, "here")) == ["north: node 100."]

"""``clients.toml``: read as written, and each fault named."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedkt.deploy.client_list import (
    Listed,
    client_named,
    names_of,
    nodes_of,
    read_clients,
    write_clients,
)
from fedkt.errors import ConfigError

KEYS = [f"SHA256:{letter * 43}" for letter in "ABC"]
NORTH = Listed(0, "north", KEYS[0], 18096653898194224757)  # above 2**63, as Flower's ids may be
SOUTH = Listed(1, "south", KEYS[1], 7, former=5)
WEST = Listed(2, "west", KEYS[2])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "clients.toml"
    write_clients(file, [WEST, NORTH, SOUTH])
    assert read_clients(file) == (NORTH, SOUTH, WEST)
    assert file.read_text(encoding="utf-8").count("[[client]]") == 3
    assert [p.name for p in tmp_path.iterdir()] == ["clients.toml"]


def test_the_maps_of_a_server() -> None:
    assert nodes_of((NORTH, SOUTH)) == {0: 18096653898194224757, 1: 7}
    assert names_of((NORTH, WEST)) == {0: "north", 2: "west"}
    assert nodes_of((NORTH, WEST)) == {0: 18096653898194224757}
    with pytest.raises(ConfigError, match=r"clients\.toml: west has no node; register the keys"):
        nodes_of((WEST,))


def test_a_node_may_be_written_as_a_number(tmp_path: Path) -> None:
    file = tmp_path / "clients.toml"
    file.write_text(
        f'[[client]]\nid = 3\nname = "a"\nkey = "{KEYS[0]}"\nnode = 12\n', encoding="utf-8"
    )
    assert read_clients(file) == (Listed(3, "a", KEYS[0], 12),)


def entry(**changes: object) -> str:
    values = {"id": 0, "name": '"a"', "key": f'"{KEYS[0]}"'} | changes
    return "[[client]]\n" + "".join(f"{k} = {v}\n" for k, v in values.items() if v is not None)


OTHER = entry(id=1, name='"b"', key=f'"{KEYS[1]}"')


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (entry() + OTHER.replace("id = 1", "id = 0"), "a (id 0) and b (id 0) have the same id, 0."),
        (entry() + OTHER.replace('"b"', '"a"'), "a (id 0) and a (id 1) have the same name, a."),
        (entry() + OTHER.replace(KEYS[1], KEYS[0]), f"have the same key, {KEYS[0]}."),
        (entry(node=5) + OTHER + "node = '5'\n", "a (id 0) and b (id 1) have the same node, 5."),
        (entry(id=-1), "client 1: id is '-1'; allowed are integers from 0 to 4095."),
        (OTHER + entry(id="true"), "client 2: id is 'True'; allowed are integers from 0 to 4095."),
        (entry(id='"0"'), "client 1: id is '0'; allowed are integers"),
        (entry(id=4096), "client 1: id is '4096'; allowed are integers from 0 to 4095."),
        (entry(id=None), "client 1 has no id."),
        (entry(key=None), "client 1 has no key."),
        (entry(name='"a/b"'), "client 1: name is 'a/b'; allowed are up to 64 letters"),
        (entry(name=7), "client 1: name is '7'; allowed is text."),
        (entry(key='"MD5:00"'), "client 1 (a): key is 'MD5:00'; allowed is a fingerprint, SHA256:"),
        (entry(node=0), "client 1 (a): node is '0'; allowed is the id of a Flower node."),
        (entry(node=2**64), "client 1 (a): node is '18446744073709551616'; allowed"),
        (entry(nod=1), "client 1 has 'nod'; allowed: id, name, key, node, former."),
        ("[client]\nid = 0\n", "write [[client]] with two brackets"),
        ("x = 1\n", "has 'x'; allowed is [[client]]."),
        ("x = = 1\n", "is not TOML: "),
    ],
)
def test_each_fault_is_named(tmp_path: Path, text: str, line: str) -> None:
    file = tmp_path / "clients.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        read_clients(file)
    assert str(error.value).startswith(str(file))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_list_at_fault_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "clients.toml"
    write_clients(file, [NORTH])
    with pytest.raises(ConfigError, match="have the same id"):
        write_clients(file, [NORTH, Listed(0, "south", KEYS[1])])
    assert read_clients(file) == (NORTH,)


def test_a_missing_file_and_a_missing_client(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"clients\.toml cannot be read: No such file"):
        read_clients(tmp_path / "clients.toml")
    with pytest.raises(ConfigError, match=r"clients\.toml has no client 'east'; it has north"):
        client_named((NORTH,), "east", tmp_path / "clients.toml")

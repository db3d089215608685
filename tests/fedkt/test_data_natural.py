"""Natural clients, and partitions that see more than labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkt.data import Federation, FederationSpec, build_federation
from fedkt.data.partition import partition
from fedkt.errors import ConfigError

SIZES = {"north": 40, "east": 3, "south": 30, "west": 2, "moon": 1, "inn": 24}


def hospitals(folder: Path, **changed: Any) -> FederationSpec:
    """Write 100 rows of six hospitals, the first column of which is the row's number."""
    owners = np.repeat(list(SIZES), list(SIZES.values()))
    owners = owners[np.random.default_rng(0).permutation(len(owners))]
    x = np.arange(400, dtype=np.float32).reshape(100, 4)
    y = np.arange(100) % 3
    arrays = {"x_train": x, "y_train": y, "x_test": x[:9] + 0.5, "y_test": y[:9]}
    arrays |= {"client_train": owners, "client_test": owners[:9], **changed}
    np.savez(folder / "hospitals.npz", **{k: v for k, v in arrays.items() if v is not None})
    return FederationSpec(dataset="hospitals", data_dir=str(folder), partition="natural")


def sizes_of(federation: Federation) -> dict[str, int]:
    totals = np.diff(federation.bounds[:, [0, 3]], axis=1)[:, 0]
    return dict(zip(federation.client_names, totals.tolist(), strict=True))


def owner_of(folder: Path, rows: Any) -> set[str]:
    with np.load(folder / "hospitals.npz") as arrays:
        return set(arrays["client_train"][(np.asarray(rows)[:, 0] // 4).astype(int)].tolist())


def test_each_client_has_its_rows(tmp_path: Path) -> None:
    spec = hospitals(tmp_path)
    federation = build_federation(replace(spec, public=False))
    assert sizes_of(federation) == dict(sorted(SIZES.items()))
    for place, name in enumerate(federation.client_names):
        data = federation.client(place)
        for part in (data.train, data.validation, data.test):
            assert owner_of(tmp_path, part.x) <= {name}
    assert federation.describe()["client_names"] == sorted(SIZES)
    federation.save(tmp_path / "kept")
    assert Federation.load(tmp_path / "kept").client_names == federation.client_names
    renamed = replace(federation, client_names=tuple("abcdef"))
    assert renamed.fingerprint() != federation.fingerprint()


@pytest.mark.parametrize(("small", "least"), [("keep", 30), ("merge", 30), ("drop", 40)])
def test_what_small_says_is_the_end_of_it(tmp_path: Path, small: Any, least: int) -> None:
    # All keep fewer than they should; the public set takes some of those that are large enough.
    spec = replace(hospitals(tmp_path), min_samples=least, small=small, public_samples=20)
    federation = build_federation(spec)
    assert sum(sizes_of(federation).values()) < least * federation.num_clients
    assert any(f"fewer than {least} samples" in note for note in federation.notes)


@pytest.mark.parametrize("samples", [0, 50, 94])
def test_every_client_keeps_a_row_beside_the_public_set(tmp_path: Path, samples: int) -> None:
    for seed in range(5):
        spec = replace(hospitals(tmp_path), public_samples=samples, seed=seed)
        federation = build_federation(spec)
        assert len(federation.public_x) == (samples or 20)
        assert min(sizes_of(federation).values()) >= 1
        assert list(federation.client_names) == sorted(SIZES)
    with pytest.raises(ConfigError, match="the clients need some"):
        build_federation(replace(spec, public_samples=95))


def test_numbers_come_in_their_order(tmp_path: Path) -> None:
    owners = np.random.default_rng(0).permutation(np.arange(100) % 12) * 10
    spec = hospitals(tmp_path, client_train=owners, client_test=owners[:9])
    names = build_federation(spec).client_names
    assert names == tuple(str(10 * k) for k in range(12))


def test_the_number_of_clients_follows_the_data(tmp_path: Path) -> None:
    spec = hospitals(tmp_path)
    assert build_federation(replace(spec, clients=6)).num_clients == 6
    with pytest.raises(ConfigError, match="clients is 7; hospitals has 6 natural clients"):
        build_federation(replace(spec, clients=7))


@pytest.mark.parametrize(
    ("small", "names", "note"),
    [
        ("keep", ["east", "inn", "moon", "north", "south", "west"], ""),
        ("drop", ["inn", "north", "south"], "; they were dropped, and 6 samples with them"),
        ("merge", ["east + moon", "inn", "north", "south + west"], "; merged, there are 4 clients"),
    ],
)
def test_small_clients(tmp_path: Path, small: Any, names: list[str], note: str) -> None:
    spec = replace(hospitals(tmp_path), min_samples=4, small=small, public=False)
    federation = build_federation(spec)
    said = "3 of 6 natural clients have fewer than 4 samples of the training part" + note
    assert said in federation.notes
    found = sizes_of(federation)
    assert sum(found.values()) == (94 if small == "drop" else 100)
    if small == "merge":  # west alone is too small: to the smallest of the others
        names = ["east + moon + west" if name == "east + moon" else name for name in names]
        names = ["south" if name == "south + west" else name for name in names]
    assert list(found) == names


def test_no_client_is_left(tmp_path: Path) -> None:
    spec = replace(hospitals(tmp_path), min_samples=101)
    for small in ("drop", "merge"):
        with pytest.raises(ConfigError, match="min_samples is 101; none of the 6 natural clients"):
            build_federation(replace(spec, small=small))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"client_train": None}, "hospitals has no natural clients: name the column"),
        ({"client_train": np.arange(99)}, r"client_train has shape \[99\]"),
    ],
)
def test_a_bad_client_column(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_federation(hospitals(tmp_path, **changed))


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    spec = hospitals(tmp_path)
    with pytest.raises(ConfigError, match="partition is 'natural', by the client column of one"):
        build_federation(replace(spec, dataset="digits", domains=("hospitals/*",)))
    with pytest.raises(ConfigError, match="small is 'drop', which is for natural clients"):
        build_federation(replace(spec, partition="iid", small="drop"))
    with pytest.raises(ConfigError, match="Partition 'natural:3' takes no argument"):
        build_federation(replace(spec, partition="natural:3"))


def test_other_partitions_give_small_clients_samples(tmp_path: Path) -> None:
    spec = replace(hospitals(tmp_path), partition="dirichlet:0.1", clients=8, public=False)
    few = build_federation(spec)
    assert min(np.diff(few.bounds[:, [0, 3]], axis=1)) < 6
    served = build_federation(replace(spec, min_samples=6))
    assert min(np.diff(served.bounds[:, [0, 3]], axis=1)) == 6


def test_three_hundred_clients_are_built_in_seconds(tmp_path: Path) -> None:
    """The data function is called as often as for one client, not once for each."""
    (tmp_path / "mine.py").write_text(
        "import time\nimport numpy as np\nfrom fedkt.data import Dataset\n"
        "def wards():\n"
        "    time.sleep(0.2)\n"
        "    x = np.random.default_rng(0).random((30000, 20))\n"
        "    y, who = np.arange(30000) % 5, np.arange(30000) % 300\n"
        "    return Dataset('wards', x, y, x[:500], y[:500],\n"
        "        client_train=who, client_test=who[:500])\n",
        encoding="utf-8",
    )
    began = time.monotonic()
    spec = FederationSpec(dataset=f"{tmp_path / 'mine.py'}:wards", partition="natural")
    federation = build_federation(spec)
    assert federation.num_clients == 300
    assert time.monotonic() - began < 20  # 2 on an idle machine; 300 calls would take 60


# --- partitions of the user's that see more than labels --------------------------------------


@pytest.fixture
def mine(tmp_path: Path) -> Callable[[str], FederationSpec]:
    def write(code: str) -> FederationSpec:
        (tmp_path / "mine.py").write_text(f"import numpy as np\n{code}", encoding="utf-8")
        file = tmp_path / "mine.py"
        return replace(hospitals(tmp_path), partition=f"{file}:split", clients=2, public=False)

    return write


def test_a_function_sees_labels_and_rows_in_stored_order(mine: Any) -> None:
    code = (
        "def split(labels, rows, clients):\n"
        "    assert (labels == rows % 3).all(), labels\n"
        "    return [np.flatnonzero(rows % clients == k) for k in range(clients)]\n"
    )
    spec = mine(code)
    federation = build_federation(replace(spec, public=True))
    for k in range(2):
        data = federation.client(k)
        for part in (data.train, data.validation, data.test):
            assert (part.x[:, 0] // 4 % 2 == k).all()
    assert len(federation.pool_x) == 80


def test_a_function_sees_domains_and_owners(mine: Any, tmp_path: Path) -> None:
    code = (
        "def split(domains, owners, argument):\n"
        "    names, places = np.unique(domains, return_inverse=True)\n"
        "    assert (places == owners).all()\n"
        "    return [np.flatnonzero(domains == argument), np.flatnonzero(domains != argument)]\n"
    )
    spec = mine(code)
    federation = build_federation(replace(spec, partition=f"{spec.partition}:south"))
    assert owner_of(tmp_path, federation.client(0).train.x) == {"south"}
    assert "south" not in owner_of(tmp_path, federation.client(1).train.x)


def test_the_five_parameters_stand_for_labels_in_random_order(mine: Any) -> None:
    code = (
        "def split(labels, argument, clients, seed, samples_per_client):\n"
        "    return np.array_split(np.arange(len(labels)), clients)\n"
    )
    first = build_federation(mine(code)).client(0).train.x[:, 0] // 4
    assert 20 < int((first >= 50).sum()) < 50 or first.max() > 50


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def split(rows, cliens): ...", "Unknown parameter of partition .* 'cliens'.*'clients'"),
        ("def split(owners): ...", "has no natural clients"),
    ],
)
def test_what_a_function_cannot_ask_for(mine: Any, tmp_path: Path, code: str, words: str) -> None:
    spec = mine(code)
    hospitals(tmp_path, client_train=None, client_test=None)
    with pytest.raises(ConfigError, match=words):
        build_federation(spec)


def test_labels_alone_do_not_say_the_owners() -> None:
    with pytest.raises(ConfigError, match="Partition 'natural' asks for owners"):
        partition(np.arange(10) % 2, "natural", 3, 0)

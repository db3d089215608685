from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

from fedkt.data import Federation, FederationSpec, Samples, build_federation, load_dataset
from fedkt.errors import ConfigError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
NAMES = ("a", "b", "c")
DIGITS = ("digits-plain", "digits-inverted", "digits-rotated", "digits-blurred")


def domain(folder: Path, d: int, name: str | None = None, **changed: Any) -> dict[str, Any]:
    """Write 200 + 40 grey 4 x 4 images of 4 classes that tell their domain, part and row."""
    x = np.zeros((240, 4, 4), dtype=np.uint8)
    x[:, 0, 0] = 80 * (d + 1)
    x[:200, 0, 1] = 255
    x[:, 0, 2] = np.arange(240)
    y = np.arange(240) % 4
    arrays = {"x_train": x[:200], "y_train": y[:200], "x_test": x[200:], "y_test": y[200:]}
    np.savez(folder / f"{name or NAMES[d]}.npz", **{**arrays, **changed})
    return arrays


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for d in range(3):
        domain(tmp_path, d)
    return tmp_path


def spec_for(folder: Path, **changed: Any) -> FederationSpec:
    settings: dict[str, Any] = {"domains": NAMES, "data_dir": str(folder), "clients": 7, "seed": 1}
    return FederationSpec(**{**settings, **changed})


def origin(samples: Samples | None) -> tuple[list[int], list[int], list[int]]:
    """Return the domains of samples (each once), their rows and their parts (1 = training)."""
    assert samples is not None
    pixels = (samples.x[:, 0] * 255).round().int()
    assert samples.y is not None
    assert samples.y.tolist() == (pixels[:, 0, 2] % 4).tolist(), "labels are kept"
    domains = (pixels[:, 0, 0] // 80 - 1).tolist()
    return sorted(set(domains)), pixels[:, 0, 2].tolist(), (pixels[:, 0, 1] // 255).tolist()


def of_domain(samples: Samples | None) -> list[int]:
    assert samples is not None
    return torch.bincount((samples.x[:, 0, 0, 0] * 255).round().long() // 80 - 1).tolist()


# --- who holds what ------------------------------------------------------------------------


@pytest.mark.parametrize("partition", ["iid", "dirichlet:0.3", "quantity:linear"])
def test_clients_hold_samples_of_their_domain_only(folder: Path, partition: str) -> None:
    federation = build_federation(spec_for(folder, partition=partition))
    held: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for i in range(7):
        client = federation.client(i)
        for samples in (client.train, client.validation, client.test):
            domains, rows, parts = origin(samples)
            assert domains in ([i % 3], [])
            assert set(parts) <= {1}, "of the training part"
            held[i % 3] += rows
        assert federation.domain_of(i) == i % 3
    _, public, _ = origin(federation.client(0).public)
    for rows in held.values():
        assert len(set(rows)) == len(rows) == 160
    assert len(public) == 3 * 40


def test_nothing_is_shared_between_the_sets(folder: Path) -> None:
    federation = build_federation(spec_for(folder))
    clients = [federation.client(i) for i in range(7)]
    own = [part for c in clients for part in (c.train, c.validation, c.test)]
    everything = [clients[0].public, *own, clients[0].common_test]
    ids = [int(i) for s in everything if s is not None for i in s.ids]
    rows = [x.numpy().tobytes() for s in everything if s is not None for x in s.x]
    assert len(set(ids)) == len(ids) == len(set(rows)) == 3 * 240


def test_public_and_test_sets_come_in_equal_parts(folder: Path) -> None:
    client = build_federation(spec_for(folder, public_samples=41, test_samples=24)).client(0)
    assert of_domain(client.public) == [14, 14, 13]
    assert of_domain(client.common_test) == [8, 8, 8]
    assert client.common_test is not None
    assert client.common_test.y is not None
    for d in range(3):
        classes = torch.bincount(client.common_test.y[8 * d : 8 * d + 8], minlength=4)
        assert classes.tolist() == [2] * 4
    assert set(origin(client.common_test)[2]) == {0}, "of the test part"


def test_by_default_each_domain_gives_its_own_share(folder: Path) -> None:
    arrays = domain(folder, 1)
    domain(folder, 1, x_train=arrays["x_train"][:100], y_train=arrays["y_train"][:100])
    client = build_federation(spec_for(folder)).client(0)
    assert of_domain(client.public) == [40, 20, 40]
    assert of_domain(client.common_test) == [40, 40, 40]


def test_samples_per_client_and_the_partition_hold_within_a_domain(folder: Path) -> None:
    federation = build_federation(
        spec_for(folder, samples_per_client=20, partition="pathological:2", public_samples=30)
    )
    assert federation.describe()["sizes"]["train"] == [20] * 7
    assert ((federation.label_counts() > 0).sum(axis=1) == 2).all()


def test_domains_have_random_streams_of_their_own(folder: Path) -> None:
    """The three toys differ in one pixel only, so equal streams would choose equal rows."""
    federation = build_federation(spec_for(folder, clients=6, test_samples=30, partition="iid"))
    first, second = federation.client(0), federation.client(1)
    assert first.public is not None
    rows = origin(first.public)[1]
    assert set(rows[:40]) != set(rows[40:80])
    assert set(origin(first.matched_test)[1]) != set(origin(second.matched_test)[1])
    assert set(origin(first.train)[1]) != set(origin(second.train)[1])


def test_drawn_shares_are_those_of_the_clients_own_domain(folder: Path) -> None:
    spec = spec_for(
        folder,
        partition="draw:0.5",
        samples_per_client=2000,
        validation_fraction=0,
        test_fraction=0,
    )
    federation = build_federation(spec)
    assert federation.class_shares is not None
    assert federation.class_shares.shape == (7, 4)
    frequencies = federation.label_counts() / 2000
    assert np.allclose(frequencies, federation.class_shares, atol=0.05)
    assert len(np.unique(federation.class_shares.round(6), axis=0)) == 7
    assert all(origin(federation.client(i).train)[0] == [i % 3] for i in range(7))


def test_equal_specifications_give_equal_federations(folder: Path) -> None:
    federation = build_federation(spec_for(folder))
    assert build_federation(spec_for(folder)).fingerprint() == federation.fingerprint()
    assert build_federation(spec_for(folder, seed=2)).fingerprint() != federation.fingerprint()
    assert replace(federation, domains=("a", "b", "d")).fingerprint() != federation.fingerprint()


def test_a_single_domain_is_that_data_set_alone() -> None:
    spec = FederationSpec(clients=4, public_samples=50, test_samples=90, seed=3)
    plain = build_federation(spec)
    single = build_federation(replace(spec, domains=("digits",)))
    assert single.describe() == {**plain.describe(), "domains": ["digits"] * 4}
    assert np.array_equal(single.pool_x, plain.pool_x)
    for i in range(4):
        ours, theirs = single.client(i), plain.client(i)
        for part in ("train", "validation", "test", "public", "common_test", "matched_test"):
            a, b = getattr(ours, part), getattr(theirs, part)
            assert torch.equal(a.x, b.x)
            assert torch.equal(a.y, b.y)
            assert torch.equal(a.ids, b.ids)
        assert ours.matched_test is ours.common_test


# --- overlap -------------------------------------------------------------------------------


def test_public_samples_of_one_domain_that_another_tests_on_are_dropped(folder: Path) -> None:
    clean = build_federation(spec_for(folder, public_samples=30)).client(0)
    assert clean.public is not None
    row = origin(clean.public)[1][10]  # the first public sample of domain 1
    arrays = domain(folder, 1)
    x = arrays["x_train"].copy()
    x[row] = domain(folder, 0)["x_test"][0]
    domain(folder, 1, x_train=x)
    federation = build_federation(spec_for(folder, public_samples=30))
    assert federation.notes == ("1 public samples equal to test samples were dropped",)
    assert of_domain(federation.client(0).public) == [10, 9, 10]


# --- what is measured ----------------------------------------------------------------------


def test_matched_test_samples_are_of_the_clients_domain(folder: Path) -> None:
    federation = build_federation(spec_for(folder, test_samples=60))
    common = federation.client(0).common_test
    assert common is not None
    for i in range(7):
        matched = federation.client(i).matched_test
        assert matched is not None
        assert origin(matched)[0] == [i % 3]
        assert len(matched) == 20
        assert torch.equal(common.at_ids(matched.ids).x, matched.x)
        assert federation.client(i).common_test is common


def test_matched_test_samples_are_made_once_a_process(folder: Path) -> None:
    federation = build_federation(spec_for(folder))
    copy: Federation = pickle.loads(pickle.dumps(federation))
    for i in range(3):
        assert copy.client(i).matched_test is federation.client(i + 3).matched_test
    assert copy.client(0).common_test is federation.client(6).common_test


def test_without_domains_all_common_test_samples_match() -> None:
    federation = build_federation(FederationSpec(clients=2))
    client = federation.client(1)
    assert client.matched_test is client.common_test
    assert "domains" not in federation.describe()


def test_description_and_files(folder: Path, tmp_path: Path) -> None:
    federation = build_federation(spec_for(folder))
    federation.save(tmp_path / "saved")
    loaded = Federation.load(tmp_path / "saved")
    found = json.loads(json.dumps(loaded.describe()))
    assert found["domains"] == ["a", "b", "c", "a", "b", "c", "a"]
    assert found["dataset"] == "a + b + c"
    assert loaded.fingerprint() == federation.fingerprint()
    loaded = replace(loaded, token="loaded")
    for i in range(7):
        ours, theirs = loaded.client(i).matched_test, federation.client(i).matched_test
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours.x, theirs.x)


def test_notes_name_the_domain(folder: Path) -> None:
    federation = build_federation(spec_for(folder, clients=6, partition="shards:3"))
    left = "4 of 160 training samples belong to no client under this partition"
    assert federation.notes == tuple(f"{name}: {left}" for name in NAMES)


# --- one input for all ---------------------------------------------------------------------


def test_every_domain_is_scaled_by_its_own_peak(folder: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 4
    sixteenths = rng.integers(0, 17, (80, 8, 8)).astype(np.float32)
    colour = rng.integers(0, 256, (80, 4, 4, 3), dtype=np.uint8)
    for name, x in (("sixteenths", sixteenths), ("colour", colour)):
        np.savez(folder / name, x_train=x[:60], y_train=y, x_test=x[60:], y_test=y[:20])
    domains = ("a", "sixteenths", "colour")
    federation = build_federation(spec_for(folder, domains=domains, clients=3, partition="iid"))
    assert federation.input_shape == (1, 4, 4), "of the first domain"
    assert origin(federation.client(0).train)[0] == [0]
    for i in (1, 2):
        client = federation.client(i)
        for samples in (client.train, client.matched_test):
            assert samples is not None
            assert samples.x.shape[1:] == (1, 4, 4)
            # Uniform grey levels; by another peak they would average 0.03, 8 or more.
            assert float(samples.x.mean()) == pytest.approx(0.5, abs=0.1)
            assert 0 <= float(samples.x.min()) <= float(samples.x.max()) <= 1


def test_bytes_and_floats_of_one_shape_come_through_exactly(folder: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 17, (80, 4, 4, 1)).astype(np.float32)
    y = np.arange(80) % 4
    np.savez(folder / "sixteenths", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    federation = build_federation(spec_for(folder, domains=("a", "sixteenths"), clients=2))
    known = {(row / 16).tobytes() for row in x}
    test = federation.client(1).matched_test
    assert test is not None
    assert {row.numpy().tobytes() for row in test.x} <= known
    assert {row.numpy().tobytes() for row in federation.client(1).train.x} <= known
    assert origin(federation.client(0).train)[0] == [0]


@pytest.mark.parametrize("key", ["domains", "dataset"])
def test_an_input_shape_asked_for(folder: Path, key: str) -> None:
    chosen = {"domains": NAMES} if key == "domains" else {"domains": (), "dataset": "a"}
    federation = build_federation(
        spec_for(folder, **chosen, input_shape=(3, 6, 5), public_dataset="digits")
    )
    client = federation.client(0)
    assert federation.describe()["input_shape"] == [3, 6, 5]
    for samples in (client.train, client.common_test, client.public):
        assert samples is not None
        assert samples.x.shape[1:] == (3, 6, 5)
        assert torch.equal(samples.x[:, 0], samples.x[:, 2]), "grey in all channels"


def test_without_an_input_shape_public_sets_of_another_shape_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="input_shape must say"):
        build_federation(spec_for(folder, domains=(), dataset="a", public_dataset="digits"))


# --- classes and errors --------------------------------------------------------------------


def test_a_domain_may_lack_the_last_classes(folder: Path) -> None:
    arrays = domain(folder, 0)
    domain(folder, 0, y_train=arrays["y_train"] // 2, y_test=arrays["y_test"] // 2)
    federation = build_federation(spec_for(folder))
    assert federation.classes == ("0", "1", "2", "3")
    assert federation.client(0).num_classes == 4


def test_class_names_must_agree(folder: Path) -> None:
    domain(folder, 1, classes=np.array(["0", "1", "two", "3"]))
    words = "Class 2 is '2' in domain a and 'two' in b|Class 2 is 'two' in domain b and '2' in a"
    with pytest.raises(ConfigError, match=words):
        build_federation(spec_for(folder))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"domains": ("a", "b", "a")}, "Two domains are called 'a'"),
        ({"domains": ("a", "bb")}, "Unknown data set 'bb'"),
        ({"dataset": "a"}, "dataset is 'a' and domains has 'a', 'b', 'c'; give one"),
        ({"clients": 2}, "clients is 2; 3 domains need at least 3"),
        ({"public_samples": 2}, "public_samples is 2; 3 domains need at least 3"),
        ({"test_samples": 1}, "test_samples is 1; 3 domains need at least 3"),
        ({"public_samples": 601}, "601, 201 of them of domain a; the training part of a has 200"),
        ({"test_samples": 123}, "123, 41 of them of domain a; the test part of a has 40"),
        ({"samples_per_client": 80}, r"Domain a: 3 clients with 114 .* there are 160 beside"),
        ({"partition": "pathological:5"}, "Domain a: Partition 'pathological:5' wants 5"),
        ({"input_shape": (2, 4, 4)}, r"input_shape is \[2, 4, 4\]"),
        ({"input_shape": (16,)}, "a has samples of shape .* only images"),
    ],
)
def test_bad_specifications(folder: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        build_federation(spec_for(folder, **changed))
    assert "\n" not in str(caught.value)


def test_another_public_set_need_not_reach_all_domains(folder: Path) -> None:
    federation = build_federation(spec_for(folder, public_dataset="digits", public_samples=2))
    assert len(federation.public_x) == 2


# --- the embedded domains ------------------------------------------------------------------


def test_the_embedded_domains_share_no_picture() -> None:
    digits = load_dataset("digits")
    plain, inverted, rotated, blurred = (load_dataset(name) for name in DIGITS)
    kernel = np.outer([1, 2, 1], [1, 2, 1])[None] / 16
    for part in ("x_train", "x_test"):
        x = getattr(digits, part)
        softened = convolve(x, kernel, mode="constant")
        found = []
        for seen, pictures in (
            (getattr(plain, part), x),
            (16 - getattr(inverted, part), x),
            (np.rot90(getattr(rotated, part), -1, axes=(1, 2)), x),
            (getattr(blurred, part), softened),
        ):
            distance = np.abs(seen[:, None] - pictures[None]).max(axis=(2, 3))
            assert (distance.min(axis=1) < 1e-4).all()
            found.append(distance.argmin(axis=1))
        rows = np.concatenate(found)
        assert sorted(rows) == list(range(len(x))), "a partition of the pictures"


def test_the_embedded_domains_keep_labels_and_class_shares() -> None:
    digits = load_dataset("digits")
    plain = load_dataset("digits-plain")
    labels = {row.tobytes(): y for row, y in zip(digits.x_train, digits.y_train, strict=True)}
    assert [labels[row.tobytes()] for row in plain.x_train] == plain.y_train.tolist()
    for name in DIGITS:
        dataset = load_dataset(name, seed=7)
        assert abs(len(dataset.y_train) - 1438 / 4) < 1
        assert abs(len(dataset.y_test) - 359 / 4) < 1
        share = np.bincount(dataset.y_train) / np.bincount(digits.y_train)
        assert np.abs(share - 0.25).max() < 0.01
        assert dataset.x_train.max() == 16


def test_the_embedded_domains_make_a_federation() -> None:
    federation = build_federation(FederationSpec(domains=DIGITS, clients=8, test_samples=80))
    assert federation.describe()["domains"] == list(DIGITS) * 2
    assert federation.input_shape == (1, 8, 8)
    assert np.bincount(federation.test_domain).tolist() == [20] * 4
    bright = [float(federation.client(i).train.x.mean()) for i in range(4)]
    assert bright[1] == pytest.approx(1 - bright[0], abs=0.05), "black for white"
    assert bright[2] == pytest.approx(bright[0], abs=0.05)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no data sets in {SHARED.name} beside the project")
def test_four_digit_sets_as_domains() -> None:
    names = tuple(f"digits5/{n}" for n in ("mnist", "usps", "synth", "optdigits"))
    spec = FederationSpec(
        domains=names,
        data_dir=str(SHARED),
        clients=12,
        samples_per_client=30,
        public_samples=800,
        test_samples=2000,
    )
    federation = build_federation(spec)
    assert federation.input_shape == (1, 28, 28)
    assert federation.pool_x.dtype == np.uint8
    assert federation.describe()["domains"] == list(names) * 3
    assert len(federation.public_x) == 800
    assert federation.notes == ()
    assert np.bincount(federation.test_domain).tolist() == [500] * 4
    usps = load_dataset("digits5/usps", SHARED)
    known = {row.tobytes() for row in usps.x_train}
    rows = federation.rows[federation.bounds[5, 0] : federation.bounds[5, 3]]
    assert {row.tobytes() for row in federation.pool_x[rows]} <= known
    colour = build_federation(replace(spec, input_shape=(3, 14, 14)))
    assert colour.client(2).train.x.shape == (30, 3, 14, 14)

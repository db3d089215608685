from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedkt import registry
from fedkt.data.partition import partition, partition_with_notes
from fedkt.data.splits import Ints
from fedkt.errors import ConfigError

LABELS = np.random.default_rng(0).integers(0, 10, 2000)
COVERING = ["iid", "dirichlet:0.5", "dirichlet:0.05", "pathological:2", "quantity:linear"]
OTHERS = ["shards:2", "quantity:square"]


def assert_disjoint(parts: list[Ints], n: int) -> None:
    rows = np.concatenate(parts)
    assert len(np.unique(rows)) == len(rows)
    assert rows.min() >= 0
    assert rows.max() < n
    for part in parts:
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()


def test_the_names_and_their_explanations() -> None:
    expected = ["dirichlet", "iid", "pathological", "quantity", "shards"]
    assert set(expected) <= set(registry.names("partitions"))
    for name in expected:
        summary = registry.lookup("partitions", name).__doc__.splitlines()[0]
        assert summary.endswith(".")


@pytest.mark.parametrize("spec", COVERING + OTHERS)
def test_laws(spec: str) -> None:
    parts = partition(LABELS, spec, 12, seed=3)

    assert len(parts) == 12
    assert min(len(p) for p in parts) >= 1
    assert_disjoint(parts, len(LABELS))
    if spec in COVERING:
        assert sum(len(p) for p in parts) == len(LABELS)


@pytest.mark.parametrize("spec", COVERING + OTHERS)
def test_deterministic_in_its_arguments_only(spec: str) -> None:
    np.random.seed(1)
    before = np.random.get_state(legacy=False)["state"]["key"].copy()
    first = partition(LABELS, spec, 12, seed=3)
    after = np.random.get_state(legacy=False)["state"]["key"]
    np.random.seed(2)
    second = partition(LABELS, spec, 12, seed=3)
    other = partition(LABELS, spec, 12, seed=4)

    assert np.array_equal(before, after)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_arguments_are_left_alone() -> None:
    labels = LABELS.copy()
    labels.setflags(write=False)
    partition(labels, "shards:2", 5, seed=0)
    assert np.array_equal(labels, LABELS)


def test_iid_clients_are_alike() -> None:
    parts = partition(np.sort(LABELS), "iid", 4, seed=0)
    whole = np.bincount(LABELS) / len(LABELS)

    assert [len(p) for p in parts] == [500] * 4
    for part in parts:
        assert np.abs(np.bincount(np.sort(LABELS)[part]) / 500 - whole).max() < 0.05


def test_a_small_alpha_skews_more() -> None:
    def largest_share(alpha: float) -> float:
        parts = partition(LABELS, f"dirichlet:{alpha}", 10, seed=0)
        return float(np.mean([np.bincount(LABELS[p]).max() / len(p) for p in parts]))

    assert largest_share(0.05) > 0.6 > 0.25 > largest_share(100)


def test_pathological_clients_hold_exactly_their_classes() -> None:
    parts = partition(LABELS, "pathological:3", 10, seed=0)
    classes = [np.unique(LABELS[p]).tolist() for p in parts]

    assert all(len(c) == 3 for c in classes)
    assert all(i in c for i, c in enumerate(classes))


def test_pathological_with_few_clients_says_what_is_left_out() -> None:
    parts, notes = partition_with_notes(LABELS, "pathological:1", 3, seed=0)
    held = sum(len(p) for p in parts)

    assert held == (LABELS < 3).sum()
    assert notes == [
        f"{2000 - held} of 2000 training samples belong to no client under this partition"
    ]


def test_shards_are_cut_from_the_sorted_data() -> None:
    labels = np.repeat(np.arange(10), 20)
    parts = partition(np.random.default_rng(1).permutation(labels), "shards:2", 10, seed=0)
    assert [len(p) for p in parts] == [20] * 10

    parts = partition(labels, "shards:1", 10, seed=0)
    assert sorted(tuple(np.unique(labels[p])) for p in parts) == [(k,) for k in range(10)]


@pytest.mark.parametrize(("growth", "power"), [("linear", 1), ("square", 2)])
def test_quantity_grows_with_the_id(growth: str, power: int) -> None:
    sizes = [len(p) for p in partition(LABELS, f"quantity:{growth}", 4, seed=0)]
    units = np.arange(1, 5) ** power
    assert np.abs(np.array(sizes) - 2000 * units / units.sum()).max() <= 3


@pytest.mark.parametrize("spec", ["iid", "dirichlet:0.3", "pathological:2", "shards:2"])
def test_exact_numbers_of_samples(spec: str) -> None:
    parts = partition(LABELS, spec, 10, seed=0, samples_per_client=50)

    assert [len(p) for p in parts] == [50] * 10
    assert_disjoint(parts, len(LABELS))
    if spec == "pathological:2":
        assert all(len(np.unique(LABELS[p])) == 2 for p in parts)


def test_exact_numbers_keep_the_skew() -> None:
    parts = partition(LABELS, "dirichlet:0.05", 10, seed=0, samples_per_client=50)
    assert np.mean([np.bincount(LABELS[p]).max() / 50 for p in parts]) > 0.6


def test_a_class_may_be_missing() -> None:
    labels = LABELS[LABELS != 4]
    for spec in ("dirichlet:0.5", "pathological:2", "shards:2"):
        for each in (0, 20):
            assert_disjoint(partition(labels, spec, 5, 0, each), len(labels))


def test_dirichlet_over_a_thousand_clients() -> None:
    labels = np.random.default_rng(1).integers(0, 10, 60000)
    parts, notes = partition_with_notes(labels, "dirichlet:0.1", 1000, seed=0)
    assert_disjoint(parts, 60000)
    assert sum(len(p) for p in parts) == 60000
    assert min(len(p) for p in parts) == 1
    assert notes
    assert "of 1000 clients had no sample and received some" in notes[0]


def test_min_samples() -> None:
    parts, notes = partition_with_notes(LABELS, "dirichlet:0.05", 100, seed=0, min_samples=12)
    assert min(len(p) for p in parts) == 12
    assert sum(len(p) for p in parts) == 2000
    assert "fewer than 12 samples" in notes[0]


def test_poor_clients_are_served_by_the_currently_largest(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "def lopsided(labels, argument, clients, seed, samples_per_client):\n"
        "    return [np.arange(6), np.arange(6, 13), np.array([], int), np.array([], int)]\n",
        encoding="utf-8",
    )
    labels = np.arange(20) % 2
    parts, notes = partition_with_notes(labels, f"{file}:lopsided", 4, seed=0, min_samples=2)

    # 6, 7, 0, 0: client 1 gives, then 0 (6 = 6, the lower id), then 1, then 0.
    assert [len(p) for p in parts] == [4, 5, 2, 2]
    assert_disjoint(parts, 20)
    assert notes == [
        "2 of 4 clients had fewer than 2 samples and received some of the largest clients",
        "7 of 20 training samples belong to no client under this partition",
    ]


def test_a_partition_of_ones_own_with_an_argument(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "def blocks(labels, argument, clients, seed, samples_per_client):\n"
        "    return np.split(np.arange(clients * int(argument)), clients)\n"
        "def twice(labels, argument, clients, seed, samples_per_client):\n"
        "    return [np.arange(3)] * clients\n",
        encoding="utf-8",
    )
    assert [len(p) for p in partition(LABELS, f"{file}:blocks:7", 3, 0)] == [7, 7, 7]
    assert [len(p) for p in partition(LABELS, f"{file}:blocks:7", 3, 0, 5)] == [5, 5, 5]
    with pytest.raises(ConfigError, match="no row in two of them"):
        partition(LABELS, f"{file}:twice", 3, 0)
    with pytest.raises(ConfigError, match="invalid literal"):
        partition(LABELS, f"{file}:blocks:x", 3, 0)


@pytest.mark.parametrize(
    ("spec", "clients", "each", "words"),
    [
        ("dirichlet:0", 10, 0, "alpha must be a number"),
        ("dirichlet:-1", 10, 0, "alpha must be a number"),
        ("dirichlet:nan", 10, 0, "alpha must be a number"),
        ("dirichlet:inf", 10, 0, "alpha must be a number"),
        ("dirichlet:half", 10, 0, "alpha must be a number"),
        ("dirichlet", 10, 0, "such as dirichlet:0.5"),
        ("dirichlt:0.5", 10, 0, "Did you mean 'dirichlet'"),
        ("iid:2", 10, 0, "takes no argument"),
        ("iid", 2001, 0, "2001 clients cannot share 2000 samples"),
        ("iid", 0, 0, "at least 1"),
        ("iid", 10, 201, "need 2010 samples; there are 2000"),
        ("iid", 10, -1, "negative"),
        ("pathological:11", 10, 0, "wants 11 classes per client; the data have 10"),
        ("pathological:0", 10, 0, "such as pathological:2"),
        ("pathological:two", 10, 0, "such as pathological:2"),
        ("pathological:10", 500, 0, "cannot share out 2000 samples among 500 clients"),
        ("pathological:2", 10, 200, "fewer than the 200 asked for"),
        ("shards:0", 10, 0, "such as shards:2"),
        ("shards:201", 10, 0, "needs 2010 shards"),
        ("quantity:cubic", 10, 0, "Known: exponential, linear, square"),
        ("quantity:exponential", 100, 0, "without a single one"),
        ("quantity:linear", 10, 20, "different sizes"),
    ],
)
def test_impossible_partitions_say_so_at_once(
    spec: str, clients: int, each: int, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        partition(LABELS, spec, clients, seed=0, samples_per_client=each)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_exhausted_classes_are_explained() -> None:
    labels = np.repeat([0, 1], [990, 10])
    with pytest.raises(ConfigError, match="larger alpha or fewer samples"):
        partition(labels, "dirichlet:0.0001", 10, seed=0, samples_per_client=100)


def test_min_samples_beyond_the_data() -> None:
    with pytest.raises(ConfigError, match="need 2010 samples"):
        partition(LABELS, "iid", 10, seed=0, min_samples=201)

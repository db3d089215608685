from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedkt.data.federation import FederationSpec, build_federation
from fedkt.data.partition import drawn_shares, overlaps, partition
from fedkt.errors import ConfigError

LABELS = np.random.default_rng(0).integers(0, 5, 400)
SPEC = FederationSpec(
    partition="draw:0.5",
    clients=12,
    samples_per_client=300,
    public_samples=100,
    validation_fraction=0,
    test_fraction=0,
)


def test_every_client_draws_by_shares_of_its_own() -> None:
    n = 4000
    parts = partition(LABELS, "draw:1", 6, 3, samples_per_client=n)
    shares = drawn_shares(LABELS, "draw:1", 6, 3, 5)
    assert shares is not None
    assert np.allclose(shares.sum(1), 1)
    for rows, share in zip(parts, shares, strict=True):
        found = np.bincount(LABELS[rows], minlength=5) / n
        # Four standard deviations of a multinomial count.
        assert (np.abs(found - share) <= 4 * np.sqrt(share * (1 - share) / n) + 1e-9).all()


def test_no_sample_twice_while_the_class_has_others() -> None:
    (rows,) = partition(LABELS, "draw:1000000", 1, 0, samples_per_client=50)
    assert len(np.unique(rows)) == 50


def test_classes_that_do_not_occur_have_no_share() -> None:
    shares = drawn_shares(np.array([1, 1, 4, 4]), "draw:1", 2, 0, 6)
    assert shares is not None
    assert (shares[:, [0, 2, 3, 5]] == 0).all()


def test_shared_out_partitions_have_no_shares() -> None:
    assert drawn_shares(LABELS, "dirichlet:0.5", 3, 0, 5) is None


def test_a_small_set_serves_many_clients() -> None:
    federation = build_federation(SPEC)
    assert federation.label_counts().sum(1).tolist() == [300] * 12
    clients = [federation.client(i) for i in range(12)]
    ids = [set(c.train.ids.tolist()) for c in clients]
    assert set.intersection(ids[0], set.union(*ids[1:])), "clients share samples"
    public = clients[0].public
    assert public is not None
    contents = {row.numpy().tobytes() for row in public.x}
    assert not any(row.numpy().tobytes() in contents for c in clients for row in c.train.x)
    shares = clients[3].class_shares
    assert shares is not None
    assert shares.dtype == torch.float64
    assert float(shares.sum()) == pytest.approx(1)
    assert not torch.equal(shares, clients[4].class_shares)


def test_it_survives_a_file(tmp_path: object) -> None:
    from pathlib import Path

    from fedkt.data.federation import Federation

    folder = Path(str(tmp_path))
    federation = build_federation(SPEC)
    federation.save(folder)
    loaded = Federation.load(folder)
    assert np.array_equal(loaded.class_shares, federation.class_shares)
    assert loaded.fingerprint() == federation.fingerprint()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"samples_per_client": 0}, "needs samples_per_client"),
        ({"test_fraction": 0.2}, "held out"),
        ({"partition": "draw:x"}, "alpha"),
        ({"partition": "draw"}, "alpha"),
    ],
)
def test_what_cannot_be_drawn(changes: dict[str, object], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        build_federation(FederationSpec(**{**SPEC.__dict__, **changes}))


def test_a_partition_of_one_s_own_may_overlap(tmp_path: Path) -> None:
    """Its clients' class shares are its own, not those of ``draw``."""
    file = tmp_path / "own.py"
    file.write_text(
        "import numpy as np\n"
        "from fedkt.data.partitioners import overlapping\n"
        "def halves(argument, clients, classes, seed):\n"
        "    return np.tile([0.5, 0.5] + [0.0] * (classes - 2), (clients, 1))\n"
        "@overlapping(halves)\n"
        "def same(labels, argument, clients, seed, samples_per_client):\n"
        "    rows = np.flatnonzero(labels < 2)[:samples_per_client]\n"
        "    return [rows] * clients\n",
        encoding="utf-8",
    )
    spec = f"{file}:same"
    assert overlaps(spec)
    first, second = partition(LABELS, spec, 2, 0, 4)
    assert first.tolist() == second.tolist()
    shares = drawn_shares(LABELS, spec, 2, 0, 5)
    assert shares is not None
    assert shares.tolist() == [[0.5, 0.5, 0.0, 0.0, 0.0]] * 2

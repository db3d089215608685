"""Trust in clients: invariances, closed forms, and liars in hand-made federations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt.answers import entropy
from fedkt.fusion import trust

M, C = 200, 10


def honest(clients: int = 8, noise: float = 1.0, seed: int = 0) -> torch.Tensor:
    """Clients that agree about a truth, each with noise of its own."""
    rng = torch.Generator().manual_seed(seed)
    truth = 4 * torch.nn.functional.one_hot(torch.randint(C, (M,), generator=rng), C).float()
    return truth + noise * torch.randn(clients, M, C, generator=rng)


def wrong(like: torch.Tensor) -> torch.Tensor:
    """A confident lie: the next class."""
    return 12 * torch.nn.functional.one_hot((like.argmax(-1) + 1) % C, C).float()


def test_correlation_by_hand() -> None:
    z = honest(3)
    v = z.log_softmax(-1).clamp_min(-8).double().numpy()
    v = v - v.mean(-1, keepdims=True)
    v = v - v.mean(1, keepdims=True)
    flat = v.reshape(3, -1)
    by_hand = (flat @ flat.T) / np.outer(*[np.linalg.norm(flat, axis=1)] * 2)
    assert np.allclose(trust.correlations(z), by_hand, atol=1e-5)


def test_correlation_is_blind_to_scale_and_class_bias() -> None:
    # Small logits, so that the clip at -8 does not act: there the law is exact.
    z = 0.5 * honest(5)
    changed = z.clone()
    changed[1] = 0.3 * z[1]
    changed[2] = z[2] / 2.0 + torch.randn(C, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(trust.correlations(changed), trust.correlations(z), atol=1e-5)
    before = trust.correlation_trust(trust.correlations(z))
    after = trust.correlation_trust(trust.correlations(changed))
    assert torch.allclose(before, after, atol=1e-4)


def test_identical_clients_are_trusted_fully() -> None:
    z = honest(1).expand(6, M, C)
    assert torch.equal(trust.correlation_trust(trust.correlations(z)), torch.ones(6))


def test_honest_clients_are_trusted_fully() -> None:
    assert torch.equal(trust.correlation_trust(trust.correlations(honest(8))), torch.ones(8))


@pytest.mark.parametrize("clients", [1, 2, 3])
def test_too_few_clients_to_judge(clients: int) -> None:
    z = honest(clients)
    z[0] = wrong(z[0])
    assert torch.equal(trust.correlation_trust(trust.correlations(z)), torch.ones(clients))


@pytest.mark.parametrize("liars", [1, 2, 4])
def test_confident_wrong_labels_are_not_trusted(liars: int) -> None:
    z = honest(10)
    z[:liars] = wrong(z[:liars])
    r = trust.correlation_trust(trust.correlations(z))
    assert float(r[:liars].max()) == 0
    assert float(r[liars:].min()) == 1


def test_identical_uploads_share_one_vote() -> None:
    # Five clients say the same wrong thing, four say different versions of the truth. With
    # a vote each the copies would be the majority; sharing one, they are not.
    z = honest(9, noise=1.5)
    z[:5] = wrong(z[8])
    agreement = trust.correlations(z)
    assert trust._copies(agreement).tolist() == [5.0] * 5 + [1.0] * 4
    assert float(trust.correlation_trust(agreement)[5:].min()) > 0.9


def test_permuting_clients_permutes_trust() -> None:
    z = honest(7)
    z[2] = wrong(z[2])
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    r = trust.correlation_trust(trust.correlations(z))
    assert torch.allclose(trust.correlation_trust(trust.correlations(z[order])), r[order])


def test_soften_reaches_the_median_entropy_and_sharpens_nobody() -> None:
    z = honest(5)
    z[0], z[1] = 10 * z[0], wrong(z[1])
    before, after = (entropy(v.softmax(-1)).mean(-1) for v in (z, trust.soften(z)))
    wanted = before.median()
    for n in range(5):
        if before[n] >= wanted:
            assert torch.equal(trust.soften(z)[n], z[n])
        else:
            assert float(after[n]) == pytest.approx(float(wanted), abs=2e-3)


def test_one_hot_uploads_become_almost_flat() -> None:
    z = honest(5, noise=2)
    z[0] = wrong(z[0])
    h = entropy(trust.soften(z)[0].softmax(-1))
    assert float(h.max() - h.min()) < 1e-4, "the same entropy everywhere: no sample stands out"


def test_weighted_median() -> None:
    values, ones = torch.tensor([5.0, 1.0, 3.0]), torch.ones(3)
    assert float(trust.weighted_median(values, ones)) == 3
    assert float(trust.weighted_median(values, torch.tensor([5.0, 1.0, 1.0]))) == 5
    assert float(trust.weighted_median(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.ones(4))) == 2.5
    assert float(trust.weighted_median(torch.tensor([7.0]), torch.ones(1))) == 7


def test_class_reliability_lowers_a_client_where_the_others_contradict_it() -> None:
    p = honest(6).softmax(-1)
    rows = p[1].argmax(-1) == 3
    p[0, rows] = p[0, rows].roll(1, -1)  # client 0 calls class 3 class 4
    weights = trust.class_reliability(p, torch.ones(6, M))
    others = weights[1:, rows].mean()
    assert float(weights[0, rows].mean()) < float(others)
    assert bool((weights > 0).all())


def test_coordinate_median_ignores_a_minority() -> None:
    p = honest(7, noise=0.2).softmax(-1)
    clean = trust.coordinate_median(p)
    p[:3] = wrong(honest(7)[:3]).softmax(-1)
    assert torch.equal(trust.coordinate_median(p).argmax(-1), clean.argmax(-1))
    assert torch.allclose(clean.sum(-1), torch.ones(M))


def test_root_precision_by_hand() -> None:
    p = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    precision = trust.root_precision(p, torch.tensor([0, 0]), power=1.0)
    assert torch.allclose(precision, torch.tensor([[5 / 6, 1 / 2], [1 / 2, 1 / 6]]))

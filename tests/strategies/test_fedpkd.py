from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt.errors import ConfigError
from fedkt.fusion import mean_by_counts
from fedkt.knowledge import Knowledge, Upload, Uploads
from fedkt.objectives import Batch, Outputs, PseudoLabels
from fedkt.strategies.answers.fedpkd import FedPKD, likeness, nearest_of_each_class

M, C, D = 6, 4, 3
CLASSES = {0: (0, 1, 3), 1: (1, 2), 2: (0, 2)}


@pytest.fixture
def uploads() -> Uploads:
    rng, each = torch.Generator().manual_seed(0), []
    for client, classes in CLASSES.items():
        counts = torch.randint(1, 9, (len(classes),), generator=rng)
        values = torch.randn(len(classes), D, generator=rng)
        prototypes = Knowledge("prototypes", {"values": values}, torch.tensor(classes), counts)
        logits = Knowledge.rows("logits", 2 * torch.randn(M, C, generator=rng))
        each.append(Upload(client, 10, {"public": logits, "prototypes": prototypes}))
    return Uploads(each)


def test_weights_are_the_likeness_of_the_answers_classes(uploads) -> None:
    rows = {u.client: u.knowledge["prototypes"] for u in uploads}
    fused = {}
    for c in range(C):
        own = [(int(k.counts[i]), k.values[i].double().numpy())
               for k in rows.values() for i, x in enumerate(k.ids.tolist()) if x == c]  # fmt: skip
        fused[c] = sum(n * p for n, p in own) / sum(n for n, _ in own)
    prototypes = mean_by_counts(uploads["prototypes"]).shared["prototypes"]
    assert np.allclose(prototypes.values, np.stack([fused[c] for c in range(C)]), atol=1e-5)
    ours = likeness(uploads["public"], uploads["prototypes"], prototypes)
    for n, upload in enumerate(uploads):
        for m in range(M):
            z = upload.knowledge["public"].values[m].double().numpy()
            p, expected = np.exp(z) / np.exp(z).sum(), 0.0
            for c, mine in zip(CLASSES[n], rows[n].values.double().numpy(), strict=True):
                cosine = mine @ fused[c] / np.linalg.norm(mine) / np.linalg.norm(fused[c])
                expected += p[c] * max(cosine, 0)
            assert float(ours[n, m]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_nearest_samples_of_each_class_are_kept() -> None:
    distance = torch.tensor([3.0, 1, 2, 5, torch.inf, 4, 9])
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    kept = nearest_of_each_class(distance, labels, 0.7)
    assert kept.tolist() == [False, True, True, True, False, True, True]
    assert nearest_of_each_class(distance, labels, 1.0).all()


def test_pseudo_labels_are_the_top_classes() -> None:
    z, told = torch.randn(2, M, C, generator=torch.Generator().manual_seed(1))
    batch = Batch(torch.zeros(M, 1), None, torch.arange(M), torch.tensor([1.0] * 5 + [0]))
    loss = PseudoLabels()(Outputs(z, None, {}), batch, {"public": Knowledge.rows("logits", told)})
    s = np.exp(z.double().numpy())
    s /= s.sum(1, keepdims=True)
    expected = -np.mean([np.log(s[m, int(told[m].argmax())]) for m in range(5)])
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_losses_have_their_factors() -> None:
    recipe = FedPKD(mix=0.3, pull=2.0).recipe()
    assert [t.factor for t in recipe.absorb[0].terms] == pytest.approx([0.3, 0.7])
    assert recipe.learn[0].terms[1].factor == 2.0


def test_the_server_learns_and_sends_what_it_is_sure_of(world, with_options) -> None:
    run = world(models=("mlp",), learning_rate=0.01)
    strategy = with_options(FedPKD(keep=0.5, local_epochs=3), model="mlp")
    sent = []
    fuse = strategy.fuse

    def watched(uploads: Uploads):
        fused = fuse(uploads)
        x = strategy.samples.public.at_ids(fused.shared["public"].ids).x
        own = strategy.model["server"].predict(x)
        sent.append(torch.equal(fused.shared["public"].values, own))
        return fused

    strategy.fuse = watched
    run.start(strategy, 3)
    shown = [report.diagnostics for report in run.reports]
    assert shown[2]["server_loss"] < shown[0]["server_loss"]
    assert all(20 <= told["kept"] <= 30 for told in shown)
    assert sent == [True] * 3
    assert not any(report.failures for report in run.reports)
    rows = [told["kept"] for told in shown]
    assert [r.traffic.up > 4 * 4 * 50 * 10 for r in run.reports] == [True] * 3
    assert run.reports[0].traffic.down >= 4 * rows[0] * (4 * 10 + 8)


def test_features_of_another_width_are_refused(world, with_options) -> None:
    with pytest.raises(ConfigError, match=r"features are \d+ wide and the clients' 64; set server"):
        world(models=("mlp",)).start(with_options(FedPKD(), model="mlp-wide"), 1)

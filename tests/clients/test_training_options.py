"""Class weights, the limit of gradients and augmentations: by hand, and equal in both executors."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from fedkt.augmentations import augmentations_of, augmented
from fedkt.clients import SklearnLearner, TrainingOptions, Work
from fedkt.clients.learners.private_samples import balanced
from fedkt.data.priors import empirical_bayes_prior
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.objectives import AdjustedCrossEntropy, Batch, CrossEntropy, Outputs, weighted_mean
from fedkt.recipe import Recipe, Train, Weighted
from fedkt.registry import register

from .cohort_parties import BUCKETS, STEPS, UNEVEN, Party, apart

LEARN = {"learn/0": Train("private", [CrossEntropy()], epochs=2)}
EVERYTHING = {"class_weights": "balanced", "clip_norm": 0.05, "augment": "flip+crop:1+noise:0.2"}


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize(
    "options",
    [
        {"class_weights": "balanced"},
        {"clip_norm": 0.05},
        {"augment": "flip"},
        {"augment": "crop:2"},
        {"augment": "noise:0.3"},
        EVERYTHING,
    ],
    ids=lambda options: "+".join(map(str, options.values())),
)
def test_a_cohort_is_the_loop_and_the_option_counts(options, optimiser) -> None:
    """In private steps, distillation with rehearsal and part of the samples."""
    settings = {"learning_rate": 1e-3, "optimiser": optimiser}
    torch.manual_seed(0)
    party = Party("mlp", **settings, **options)
    (loop, losses), (ours, found) = party.in_the_loop(), party.together()
    assert apart(ours, loop) < 1e-12
    for mine, theirs in zip(found, losses, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-12)
    torch.manual_seed(0)
    plain = Party("mlp", **settings)
    for name, step in STEPS.items():
        moved = apart(party.in_the_loop({name: step})[0], plain.in_the_loop({name: step})[0])
        touched = step.on == "private" or step.rehearse or "clip_norm" in options
        assert moved > 1e-7 if touched else moved == 0


@pytest.mark.parametrize(
    ("model", "sizes"), [("cnn", UNEVEN), ("resnet8-bn", BUCKETS), ("mlp", (9,))]
)
def test_a_cohort_is_the_loop_for_other_networks(model, sizes) -> None:
    torch.manual_seed(0)
    party = Party(model, sizes, learning_rate=1e-3, **EVERYTHING)
    assert apart(party.together()[0], party.in_the_loop()[0]) < 1e-11


def by_hand(work: Work, learner: Any, rows_of: Any, loss_of: Any, clip: float | None = None) -> Any:
    """Train with torch alone: ``loss_of(model, rows)``, plain gradient descent."""
    descent = torch.optim.SGD(learner.model.parameters(), lr=work.options.learning_rate)
    learner.model.train()
    for rows in rows_of:
        descent.zero_grad()
        loss_of(learner.model, rows).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(learner.model.parameters(), clip)
        descent.step()
    return learner.model.state_dict()


def drawn(work: Work) -> list[Tensor]:
    """Return the rows of the batches of ``LEARN``."""
    from fedkt.clients.learners import batches

    epochs = batches.epochs(LEARN["learn/0"], work, "learn/0", len(work.data.train))
    return list(itertools.chain.from_iterable(epochs))


@pytest.mark.parametrize("option", ["class_weights", "clip_norm"])
def test_the_loop_is_torch_s(option) -> None:
    """The weighted mean of ``F.cross_entropy(weight=...)``; ``clip_grad_norm_``."""
    torch.manual_seed(0)
    party = Party("mlp", (41, 8), momentum=0.0, **{option: EVERYTHING[option]})
    for client, work in enumerate(party.works):
        train = work.data.train
        assert train.y is not None
        weight, clip = None, None
        if option == "class_weights":
            present = np.unique(train.y.numpy())
            weight = torch.zeros(10, dtype=torch.float64)
            of_sklearn = compute_class_weight("balanced", classes=present, y=train.y.numpy())
            weight[present] = torch.from_numpy(of_sklearn)
        else:
            clip = 0.05

        def loss_of(model, rows, train=train, weight=weight):
            return F.cross_entropy(model(train.x[rows]), train.y[rows], weight=weight)

        party.learner.load_state(party.fresh(client))
        exact = {n: t.clone() for n, t in by_hand(
            work, party.learner, drawn(work), loss_of, clip).items()}  # fmt: skip
        party.learner.load_state(party.fresh(client))
        party.learner.train(LEARN["learn/0"], work, "learn/0")
        for name, tensor in party.learner.model.state_dict().items():
            # the weights of samples are float32
            assert torch.allclose(
                tensor, exact[name], rtol=0, atol=1e-7 if weight is not None else 1e-14
            )


def test_balanced_weights_are_sklearn_s() -> None:
    y = np.array([0, 0, 0, 0, 2, 2, 5])
    expected = compute_class_weight("balanced", classes=np.unique(y), y=y)
    found = balanced(torch.bincount(torch.from_numpy(y), minlength=7))
    assert found[[0, 2, 5]].numpy() == pytest.approx(expected, rel=1e-15)
    assert found[[1, 3, 4, 6]].tolist() == [0.0] * 4


@register
@dataclass(frozen=True)
class Noting:
    """Cross-entropy that keeps the batches it has seen."""

    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "test-noting-batches"
    seen: ClassVar[list[Batch]] = []

    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        self.seen.append(batch)
        return weighted_mean(outputs.logits.square().sum(-1), batch.weight)


def noted(step: Train, **options: Any) -> tuple[Work, list[Batch]]:
    """Return the batches that the first client of a party trains on."""
    torch.manual_seed(0)
    party = Party("mlp", (41,), **options)
    Noting.seen.clear()
    party.in_the_loop({"learn/0": step})
    return party.works[0], list(Noting.seen)


def test_all_terms_see_weights_and_the_prior_of_the_weighted_samples() -> None:
    """Also the partners of mixed samples, each with the weight of its own label."""
    step = Train("private", [Weighted(0.5, Noting())], mixup=0.4)
    work, seen = noted(step, class_weights="balanced")
    counts = work.data.class_counts
    weights = balanced(counts).float()
    prior = empirical_bayes_prior(counts * weights.double()).log()
    assert len(seen) == 2 * 6
    for batch in seen:
        assert torch.equal(batch.weight.float(), weights[batch.y])
        assert batch.log_prior is not None
        assert torch.allclose(batch.log_prior, prior, atol=1e-6)
    there = prior[counts > 0]
    assert float(there.max() - there.min()) < 1e-6  # all classes there count the same


def test_adjusted_cross_entropy_is_fair_with_and_without_weights() -> None:
    """A model of the class alone: the best logits are equal for all classes either way."""
    y = torch.tensor([0] * 30 + [1] * 10)
    counts = torch.tensor([30, 10])
    for weights in (torch.ones(2).double(), balanced(counts)):
        prior = (counts * weights / (counts * weights).sum()).log()
        logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        batch = Batch(torch.zeros(40, 1), y, torch.arange(40), weights[y], prior)
        outputs = Outputs(logits.expand(40, 2), None, {})
        AdjustedCrossEntropy()(outputs, batch, {}).backward()
        assert logits.grad is not None
        assert logits.grad.abs().max() < 1e-12


def test_only_private_samples_are_augmented() -> None:
    work, seen = noted(Train("private", [Noting()]), augment="noise:0.5")
    train = work.data.train
    noise = torch.cat([b.x - train.x[b.ids] for b in seen])  # ids are rows here
    assert float(noise.std()) == pytest.approx(0.5, rel=0.05)
    assert len({float(n) for n in noise.flatten()}) == noise.numel()  # each batch has its own
    work, seen = noted(Train("public", [Noting()], rehearse=[Noting()]), augment="noise:0.5")
    public = work.data.public
    assert public is not None
    outside, inside = seen[::2], seen[1::2]
    assert all(torch.equal(batch.x, public.x[batch.ids]) for batch in outside)
    assert not any(torch.equal(batch.x, train.x[batch.ids]) for batch in inside)


# --- augmentations -----------------------------------------------------------------------------


def changed(text: str, x: Tensor, key: int = 3) -> Tensor:
    return augmented(augmentations_of(text), x, torch.tensor(key))


IMAGES = torch.arange(2000 * 3 * 4 * 5, dtype=torch.float32).reshape(2000, 3, 4, 5) + 1


def test_flip_mirrors_half_of_the_images() -> None:
    found = changed("flip", IMAGES).numpy()
    plain = IMAGES.numpy()
    mirrored = np.array(
        [np.array_equal(f, p[:, :, ::-1]) for f, p in zip(found, plain, strict=True)]
    )
    same = np.array([np.array_equal(f, p) for f, p in zip(found, plain, strict=True)])
    assert (mirrored ^ same).all()
    assert abs(mirrored.mean() - 0.5) < 0.04  # 3.6 standard deviations
    other = changed("flip", IMAGES, key=4).numpy()
    assert not np.array_equal(found, other)


def test_crop_takes_every_place_in_the_bordered_image() -> None:
    found = changed("crop:2", IMAGES).numpy()
    bordered = np.pad(IMAGES.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    times = np.zeros((5, 5), dtype=int)
    for image, wide in zip(found, bordered, strict=True):
        places = [
            (down, right)
            for down in range(5)
            for right in range(5)
            if np.array_equal(image, wide[:, down : down + 4, right : right + 5])
        ]
        assert len(places) == 1
        times[places[0]] += 1
    assert times.min() > 45  # 80 are expected at each, with a standard deviation of 9
    assert times.max() < 120


def test_noise_has_its_deviation_and_padding_changes_nothing() -> None:
    x = torch.zeros(500, 40, dtype=torch.float64)
    found = changed("noise:0.25", x)
    assert float(found.std()) == pytest.approx(0.25, rel=0.03)
    assert abs(float(found.mean())) < 0.01
    for text in ("noise:0.25", "flip+crop:1"):
        images = IMAGES[:9]
        assert torch.equal(changed(text, images), changed(text, IMAGES[:16])[:9])


def test_links_of_a_chain_draw_for_themselves() -> None:
    twice, once = (
        changed("noise:1+noise:1", torch.zeros(2000)),
        changed("noise:1", torch.zeros(2000)),
    )
    assert float(twice.std()) == pytest.approx(2**0.5, rel=0.06)
    assert float(once.std()) == pytest.approx(1.0, rel=0.06)


@pytest.mark.parametrize(
    ("augment", "line"),
    [
        ("flop", "Unknown augmentation 'flop'. Did you mean 'flip'"),
        ("crop:0", r"augmentation.pixels = 0 \(crop\): must be a whole number of at least 1"),
        ("flip:2", "augmentation flip has no options: write flip, not flip:2"),
        ("noise:-1", "augmentation.deviation = -1"),
    ],
)
def test_a_wrong_augmentation_is_refused_at_once(augment, line) -> None:
    with pytest.raises(ConfigError, match=line):
        TrainingOptions(augment=augment)
    assert len(augmentations_of("crop(pixels=3)+noise")) == 2
    assert augmentations_of("none") == ()


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"flip is for images; a sample here is \[7\]"):
        changed("flip", torch.zeros(2, 7))
    with pytest.raises(ConfigError, match="noise is for real numbers, not for token ids"):
        changed("noise:1", torch.zeros(2, 7, dtype=torch.int64))


# --- scikit-learn ------------------------------------------------------------------------------


def test_classifiers_are_fitted_as_sklearn_balances(data, work_on) -> None:
    learner = SklearnLearner(lambda: LogisticRegression(max_iter=2000), 10, "logistic")
    learner.follow(Recipe())
    learner.reset(0, 0)
    learner.train(LEARN["learn/0"], work_on(data, class_weights="balanced"), "learn/0")
    train, x = data.train, data.common_test.x
    exact = LogisticRegression(max_iter=2000, class_weight="balanced")
    exact.fit(train.x.flatten(1).numpy(), train.y.numpy())
    found = learner.predict(x).softmax(-1).numpy()[:, exact.classes_]
    assert found == pytest.approx(exact.predict_proba(x.flatten(1).numpy()), abs=2e-3)
    plain = LogisticRegression(max_iter=2000).fit(train.x.flatten(1).numpy(), train.y.numpy())
    assert np.abs(found - plain.predict_proba(x.flatten(1).numpy())).max() > 0.01


PLAIN = """
from dataclasses import dataclass, fields
from fedkt.optimisers.sgd import SGD
from fedkt.registry import register

@register(name="{}")
@dataclass(frozen=True)
class Mine(SGD):
    pass
"""


def test_options_are_told_alike_wherever_the_training_is_alike(tmp_path: Path) -> None:
    """Weights are averaged only of clients that train alike, and nodes have other paths."""
    plain = TrainingOptions().told
    assert plain[:2] == ["optimiser: adam", "learning_rate: 0.001"]
    assert len(plain) == len(fields(TrainingOptions))
    assert TrainingOptions(momentum=1 / 3, weight_decay=0).told[2:4] == [
        f"momentum: {1 / 3}",
        "weight_decay: 0",
    ]
    assert TrainingOptions(augment="flip+crop:2").told == TrainingOptions(augment="flip+crop").told
    assert TrainingOptions(augment="crop:2+flip").told != TrainingOptions(augment="flip+crop").told
    files = [tmp_path / name / "mine.py" for name in "abc"]
    for file, name in zip(files, ("same", "same", "other"), strict=True):
        file.parent.mkdir()
        file.write_text(PLAIN.format(name), encoding="utf-8")
    told = [TrainingOptions(optimiser=f"{file}:Mine").told for file in files]
    assert told[0] == told[1]
    assert str(tmp_path) not in told[0][0]
    assert told[0] != told[2]

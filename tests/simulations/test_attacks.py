"""Every attack against its definition, on logits made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt import registry
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.simulations.attacks import View

CLASSES, ROWS = 10, 24


def answers(clients: int, seed: int) -> Tensor:
    """Return logits ``[clients, ROWS, CLASSES]`` in which every class is somebody's answer."""
    rng = torch.Generator().manual_seed(seed)
    truth = 4 * F.one_hot(torch.arange(ROWS) % CLASSES, CLASSES).float()
    return truth + torch.randn(clients, ROWS, CLASSES, generator=rng)


def view(**changes: Any) -> View:
    liars = answers(2, 1)
    plain = View(
        own=liars[0],
        honest=answers(4, 2),
        attackers=liars,
        first=answers(1, 3)[0],
        ids=torch.arange(ROWS),
        target=None,
        seed=7,
        round=6,
        client=0,
    )
    return replace(plain, **changes)


def lie(kind: str, seen: View, **options: Any) -> Tensor:
    result = registry.lookup("attacks", kind)(seen, **options)
    assert isinstance(result, Tensor)
    assert (result.shape, result.dtype) == (seen.own.shape, torch.float32)
    return result


def sure(labels: Tensor) -> Tensor:
    """Twelve for the label and nothing for the others, written out by loops."""
    rows = [[12.0 if c == int(label) else 0.0 for c in range(CLASSES)] for label in labels]
    return torch.tensor(rows)


def test_all_kinds_of_the_issue_are_there() -> None:
    assert registry.names("attacks") == sorted([
        "wrong", "random", "constant", "flip", "adaptive-flip", "amplified", "inverted",
        "inverted10", "replay", "lie", "mimic", "mimic-confident", "mimic-noisy", "half", "swap",
        "on-off", "silent",
    ])  # fmt: skip


# --- confident labels --------------------------------------------------------------------------


def test_wrong_answers_the_next_class_and_wraps_around() -> None:
    seen = view()
    own = seen.own.argmax(-1)
    assert CLASSES - 1 in own
    assert torch.equal(lie("wrong", seen), sure(torch.where(own == 9, 0, own + 1)))


def test_random_is_new_for_every_round_client_and_seed_and_for_nothing_else() -> None:
    seen = view()
    first = lie("random", seen)
    assert torch.equal(first, sure(first.argmax(-1)))
    assert torch.equal(first, lie("random", replace(seen, own=seen.honest[0], target=None)))
    for change in ({"round": 7}, {"client": 1}, {"seed": 8}):
        assert not torch.equal(first, lie("random", replace(seen, **change)))
    drawn = [lie("random", replace(seen, round=r)).argmax(-1) for r in range(100)]
    counts = torch.bincount(torch.cat(drawn), minlength=CLASSES)
    assert counts.min() > 180, "all classes are about as likely: 240 each"
    assert counts.max() < 300


def test_constant_is_class_zero() -> None:
    assert torch.equal(lie("constant", view()), sure(torch.zeros(ROWS)))


@pytest.mark.parametrize(("options", "pair"), [({}, (3, 8)), ({"source": 1, "target": 0}, (1, 0))])
def test_flip_changes_the_rows_of_one_class_only(options: Any, pair: tuple[int, int]) -> None:
    seen = view()
    given, own = lie("flip", seen, **options), seen.own.argmax(-1)
    hit = own == pair[0]
    assert bool(hit.any())
    assert torch.equal(given[~hit], seen.own[~hit])
    assert torch.equal(given[hit], sure(torch.full((int(hit.sum()),), pair[1])))


def test_adaptive_flip_repeats_the_last_fused_answers() -> None:
    seen = view()
    own = seen.own.argmax(-1)
    assert torch.equal(lie("adaptive-flip", seen), sure(torch.where(own == 3, 8, own)))
    fused = answers(1, 9)[0].roll(4, 0).softmax(-1)
    told = Knowledge.rows("probabilities", fused)
    labels = fused.argmax(-1)
    assert not torch.equal(labels, own)
    wanted = sure(torch.where(labels == 3, 8, labels))
    assert torch.equal(lie("adaptive-flip", replace(seen, target=told)), wanted)


def test_adaptive_flip_goes_by_sample_ids() -> None:
    """Of rows 10 to 33 the target speaks of the first fourteen, and of ten others."""
    fused = answers(1, 9)[0].softmax(-1)
    told = Knowledge.rows("probabilities", fused)
    seen = view(ids=torch.arange(10, 10 + ROWS), target=told)
    labels = torch.cat([fused.argmax(-1)[10:], seen.own.argmax(-1)[14:]])
    wanted = sure(torch.where(labels == 3, 8, labels))
    assert torch.equal(lie("adaptive-flip", seen), wanted)


def test_half_is_honest_on_every_second_row() -> None:
    seen = view()
    given = lie("half", seen)
    assert torch.equal(given[0::2], seen.own[0::2])
    assert torch.equal(given[1::2], lie("wrong", seen)[1::2])


@pytest.mark.parametrize(("options", "last"), [({}, 5), ({"honest_rounds": 2}, 2)])
def test_on_off_turns_wrong(options: Any, last: int) -> None:
    for round_ in range(1, 8):
        seen = view(round=round_)
        wanted = seen.own if round_ <= last else lie("wrong", seen)
        assert torch.equal(lie("on-off", seen, **options), wanted)


# --- distorted answers -------------------------------------------------------------------------


def test_amplified_and_inverted_scale_the_logits() -> None:
    seen = view()
    assert torch.equal(lie("amplified", seen), 10 * seen.own)
    assert torch.equal(lie("amplified", seen, scale=1), seen.own)
    assert torch.equal(lie("inverted", seen), -seen.own)
    assert torch.equal(lie("inverted10", seen), -10 * seen.own)


def test_inverting_twice_is_the_truth() -> None:
    seen = view()
    assert torch.equal(lie("inverted", replace(seen, own=lie("inverted", seen))), seen.own)


def test_replay_repeats_the_first_round() -> None:
    assert torch.equal(lie("replay", view()), view().first)


def test_swap_exchanges_two_columns() -> None:
    seen = view()
    given = lie("swap", seen)
    assert torch.equal(given[:, 3], seen.own[:, 8])
    assert torch.equal(given[:, 8], seen.own[:, 3])
    rest = [c for c in range(CLASSES) if c not in (3, 8)]
    assert torch.equal(given[:, rest], seen.own[:, rest])
    assert torch.equal(lie("swap", replace(seen, own=given)), seen.own)


def test_lie_moves_the_mean_by_one_deviation_towards_the_second_class() -> None:
    """Two honest clients with two classes: means and deviations are worked out by hand."""
    p = torch.tensor([[[0.9, 0.1]], [[0.6, 0.4]]])
    seen = view(own=torch.zeros(1, 2), honest=p.log(), first=torch.zeros(1, 2))
    mean = [(p[0, 0, c].log() + p[1, 0, c].log()).item() / 2 for c in (0, 1)]
    spread = [abs(p[0, 0, c].log() - p[1, 0, c].log()).item() / 2 for c in (0, 1)]
    wanted = torch.tensor([[mean[0] - spread[0], mean[1] + spread[1]]])
    assert torch.allclose(lie("lie", seen), wanted, atol=1e-6)


def test_lie_touches_two_classes_of_a_row_and_is_the_same_from_all() -> None:
    seen = view()
    given = lie("lie", seen)
    mean = seen.honest.log_softmax(-1).mean(0)
    moved = given != mean
    assert torch.equal(moved.sum(-1), torch.full((ROWS,), 2))
    top_two = mean.argsort(-1, descending=True)[:, :2]
    assert bool(moved.gather(-1, top_two).all())
    assert bool((given < mean).gather(-1, top_two[:, :1]).all())
    other = replace(seen, own=seen.attackers[1], client=1)
    assert torch.equal(lie("lie", other), given)
    assert torch.equal(lie("lie", seen, deviations=0), mean)


def test_mimic_keeps_its_confidence_and_nothing_else() -> None:
    seen = view()
    given = lie("mimic", seen)
    for c in range(CLASSES):
        assert torch.equal(given[:, (c + 1) % CLASSES], seen.own[:, c])


def test_mimic_confident_copies_the_surest_honest_client() -> None:
    honest = answers(4, 2)
    honest[2] *= 3
    seen = view(honest=honest)
    given = lie("mimic-confident", seen)
    assert torch.equal(given, honest[2].roll(1, -1))
    assert torch.equal(lie("mimic-confident", replace(seen, own=seen.attackers[1])), given)


def test_mimic_noisy_adds_noise_of_a_known_size() -> None:
    seen = view(honest=answers(4, 2))
    copied = lie("mimic-confident", seen)
    given = lie("mimic-noisy", seen)
    added = given - copied
    assert float(added.std() / copied.std()) == pytest.approx(0.7, rel=0.15)
    assert abs(float(added.mean())) < 0.2
    other = lie("mimic-noisy", replace(seen, client=1)) - copied
    both = torch.stack([added.flatten(), other.flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.2, "independent of the other attackers'"
    assert torch.equal(lie("mimic-noisy", seen, noise=0), copied)


def test_silent_says_nothing() -> None:
    assert registry.lookup("attacks", "silent")(view()) is None


# --- all of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", registry.names("attacks"))
def test_attacks_are_pure(kind: str) -> None:
    """Twice the same from the same view, which stays as it was."""
    attack = registry.lookup("attacks", kind)
    seen = view(target=Knowledge.rows("probabilities", answers(1, 9)[0].softmax(-1)))
    before = [t.clone() for t in (seen.own, seen.honest, seen.attackers, seen.first)]
    once, again = attack(seen), attack(seen)
    assert (once is None) is (again is None) is (kind == "silent")
    assert once is None or torch.equal(once, again)
    after = (seen.own, seen.honest, seen.attackers, seen.first)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", ["flip", "adaptive-flip", "swap"])
@pytest.mark.parametrize("pair", [(3, 3), (-1, 2), (2, 10)])
def test_targeted_attacks_need_two_classes(kind: str, pair: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="two of the 10 classes 0 to 9"):
        lie(kind, view(), source=pair[0], target=pair[1])

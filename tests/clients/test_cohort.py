"""The cohort executor gives each client what the loop gives it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from fedkt.clients import TorchLearner, Work
from fedkt.clients.cohorts import cohort, messages
from fedkt.clients.cohorts.cohort import Row
from fedkt.clients.cohorts.stacking import Feed
from fedkt.clients.learners.making import make_learner
from fedkt.data import Samples
from fedkt.errors import KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives import KL, CrossEntropy, Distil, Proximal
from fedkt.objectives.heads import Head
from fedkt.recipe import Recipe, Train, Weighted
from fedkt.schedules import Cosine, StepDown

from .cohort_parties import BUCKETS, SHAPE, STEPS, UNEVEN, Party, apart


@pytest.mark.parametrize(
    ("model", "sizes", "optimiser"),
    [
        ("mlp", UNEVEN, "sgd"),
        ("mlp", UNEVEN, "adam"),
        ("cnn", UNEVEN, "sgd"),
        ("cnn", UNEVEN, "adam"),
        ("resnet8", (8, 20, 13), "sgd"),
        ("resnet8-bn", BUCKETS, "sgd"),
        ("resnet8-bn", (17, 17, 9), "sgd"),  # whose last batches are of one sample
    ],
)
def test_a_cohort_is_the_loop_in_float64(model, sizes, optimiser) -> None:
    torch.manual_seed(0)
    party = Party(model, sizes, optimiser=optimiser, learning_rate=1e-3)
    (loop, losses), (ours, found) = party.in_the_loop(), party.together()
    assert apart(ours, loop) < 1e-12
    for mine, theirs in zip(found, losses, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-12)


def test_a_cut_last_pass_is_the_loop_s_too() -> None:
    torch.manual_seed(0)
    party = Party("mlp", UNEVEN, learning_rate=1e-3)
    steps = {
        "learn/0": replace(STEPS["learn/0"], epochs=1, least_steps=7, rate=Cosine()),
        "absorb/0": replace(STEPS["absorb/0"], epochs=1, least_steps=5),
    }
    (loop, losses), (ours, found) = party.in_the_loop(steps), party.together(steps)
    assert apart(ours, loop) < 1e-12
    for mine, theirs in zip(found, losses, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-12)
    assert [work.trained.steps for work in party.works] == [5] * len(UNEVEN)


def smooth(model: nn.Module) -> nn.Module:
    """Bend the kinks of a model: a ReLU's input that is 0 but for rounding decides either way."""
    for name, child in model.named_children():
        if isinstance(child, nn.ReLU):
            setattr(model, name, nn.GELU())
        else:
            smooth(child)
    return model


@pytest.mark.parametrize(
    ("model", "sizes"),
    [("mlp", UNEVEN), ("cnn", UNEVEN), ("resnet8", (8, 20, 13)), ("resnet8-bn", BUCKETS)],
)
def test_both_executors_are_float64_up_to_float32_s_roundoff(model, sizes) -> None:
    """Kernels and their order of summing differ by processor; none may be off by more.

    In units of the roundoff at a tensor's largest number; 2 to 20 were seen.
    """
    steps = {n: STEPS[n] for n in ("learn/0", "absorb/0")}  # a round
    build = make_learner(model, SHAPE, 10).build
    parties = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        party = Party(model, sizes, dtype, learning_rate=1e-3)
        party.learner = TorchLearner(lambda: smooth(build()), 10, "smooth")
        party.learner.follow(Recipe())
        parties.append(party)
    single, double = parties
    double.works = [in_float64(work) for work in single.works]
    exact = double.in_the_loop(steps)[0]
    for found in (single.in_the_loop(steps)[0], single.together(steps)[0]):
        for ours, theirs in zip(found, exact, strict=True):
            for name, value in theirs["model"].items():
                largest = max(float(value.abs().max()), 1e-30)
                off = float((ours["model"][name].double() - value).abs().max())
                assert off < 100 * torch.finfo(torch.float32).eps * largest, name


def in_float64(work: Work) -> Work:
    """Return the very same numbers in double precision."""

    def samples(some: Samples) -> Samples:
        return Samples(some.x.double(), some.y, some.ids)

    data = work.data
    assert data.public is not None
    data = replace(data, train=samples(data.train), public=samples(data.public))
    known = {}
    for name, one in work.knowledge.items():
        tensors = {n: t.double() if t.is_floating_point() else t for n, t in one.tensors.items()}
        known[name] = replace(one, tensors=tensors)
    return replace(work, data=data, knowledge=known)


@pytest.mark.parametrize("personal", [False, True])
@pytest.mark.parametrize("sizes", [(9,) * 4, (9,) * 30])  # 30 clients for 30 answers: no mix-up
def test_public_samples_are_one_batch_for_all(personal, sizes, monkeypatch) -> None:
    seen = set()
    at = Feed.at

    def noting(feed: Feed, number: int) -> Any:
        own, common = at(feed, number)
        assert not own
        seen.add(tuple(common["x"].shape))
        return own, common

    monkeypatch.setattr(Feed, "at", noting)
    torch.manual_seed(0)
    party = Party(sizes=sizes, personal=personal)
    steps = {"absorb/1": STEPS["absorb/1"]}
    assert apart(party.together(steps)[0], party.in_the_loop(steps)[0]) < 1e-12
    assert seen == {(16, *SHAPE), (9, *SHAPE)}  # no dimension of the clients


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.0},
        {"weight_decay": 0.01},
        {"optimiser": "adam", "weight_decay": 0.01},
        {"optimiser": "adamw", "weight_decay": 0.1},
        {"optimiser_state": "reset"},
    ],
)
def test_all_options_of_training(options) -> None:
    party = Party(**options)
    assert apart(party.together()[0], party.in_the_loop()[0]) < 1e-12


def test_schedules_are_the_same_in_both_executors() -> None:
    """Also among clients with other numbers of batches, whose progress differs."""
    terms = [CrossEntropy(), Weighted(Cosine(0.0, 1.0), Distil(KL(Cosine(4.0, 1.0))))]
    changing = Train("public", terms[1:], epochs=2, rate=StepDown(1.0, 0.1, (0.2, 0.6)))
    steps = {"learn/0": Train("private", terms[:1], epochs=2, rate=Cosine()), "absorb/0": changing}
    party = Party()
    party.works = [replace(work, rounds=2) for work in party.works]
    ends = party.together(steps)[0]
    assert apart(ends, party.in_the_loop(steps)[0]) < 1e-12
    usual = {name: replace(step, rate=1.0) for name, step in steps.items()}
    assert apart(ends, party.together(usual)[0]) > 1e-4


def test_each_client_learns_what_it_was_told() -> None:
    party = Party(personal=True)
    assert apart(party.together()[0], party.in_the_loop()[0]) < 1e-12
    alike = Party()
    assert apart(party.together()[0], alike.together()[0]) > 1e-4


def test_a_state_goes_on_in_the_other_executor() -> None:
    party = Party(optimiser="adam")
    first, second = {"learn/0": STEPS["learn/0"]}, {"learn/1": STEPS["learn/1"]}
    whole = party.in_the_loop({**first, **second})[0]
    rows = [Row(s, w) for s, w in zip(party.in_the_loop(first)[0], party.works, strict=True)]
    cohort.train(party.learner, second["learn/1"], rows, "learn/1")
    assert apart([row.state for row in rows], whole) < 1e-12
    halfway = party.together(first)[0]
    ends = []
    for state, work in zip(halfway, party.works, strict=True):
        party.learner.load_state(state)
        party.learner.train(second["learn/1"], work, "learn/1")
        ends.append(party.learner.state())
    assert apart(ends, whole) < 1e-12


def test_a_client_does_not_notice_who_shares_its_cohort() -> None:
    party = Party()
    everyone, few = party.together()[0], party.together(clients=(3, 1))[0]
    assert apart([everyone[3], everyone[1]], few) < 1e-15


def test_a_client_that_is_done_stays_as_it_is() -> None:
    """The smallest client has one batch; the largest goes on for seven more."""
    party = Party(sizes=(8, 60))
    step = {"learn/0": Train("private", [CrossEntropy()])}
    alone, with_a_larger_one = party.together(step, (0,))[0], party.together(step)[0]
    assert apart(alone, with_a_larger_one[:1]) < 1e-15


def test_a_step_without_data_or_knowledge_does_nothing() -> None:
    party = Party()
    before = [party.fresh(c) for c in range(len(party.works))]
    for step in (
        Train("private", [CrossEntropy()], epochs=0),
        Train("public", [Distil(source="never came")]),
    ):
        states, losses = party.together({"learn/0": step})
        assert apart(states, before) == 0
        assert losses == [[None]] * len(before)


def test_heads_train_with_the_model() -> None:
    party = Party()
    party.learner.follow(Recipe(heads=[Head("domain", (5, 2), norm=True)]))
    steps = {"learn/0": Train("private", [CrossEntropy(), Proximal(0.1, source="own")])}
    anchor = {n: torch.zeros_like(t) for n, t in party.fresh(7)["model"].items()}
    for work in party.works:
        object.__setattr__(work, "knowledge", {"own": Knowledge("weights", anchor)})
    loop, ours = party.in_the_loop(steps)[0], party.together(steps)[0]
    assert any(n.startswith("heads.") for n in ours[0]["model"])
    assert apart(ours, loop) < 1e-12


def test_a_client_whose_questions_fail_is_out_with_that_reason(monkeypatch) -> None:
    monkeypatch.setattr(messages, "error_reply", lambda error, message: error)
    group = object.__new__(messages._Cohort)
    vars(group).update(_messages=[None], _failed={}, _turns={0: Mock()}, _learners={0: Mock()})
    step = Mock(as_train=Mock(return_value=None), questions=Mock(side_effect=KnowledgeError("odd")))
    assert group._step(step, [0], "learn", 0) == {}
    assert str(group._failed[0]) == "odd"

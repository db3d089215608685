"""The cohort executor gives each client what the loop gives it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkt.clients import TorchLearner, TrainingOptions, Work
from fedkt.clients.cohorts import cohort
from fedkt.clients.cohorts.cohort import Row
from fedkt.clients.cohorts.stacking import Feed
from fedkt.clients.learners.making import make_learner
from fedkt.data import ClientData, Samples
from fedkt.knowledge import Knowledge
from fedkt.objectives import KL, CrossEntropy, Distil, Proximal
from fedkt.objectives.heads import Head
from fedkt.recipe import Recipe, Train, Weighted
from fedkt.schedules import Cosine, StepDown

SHAPE = (1, 8, 8)
UNEVEN = (33, 41, 8, 60, 5)  # 5 are no whole batch
BUCKETS = (12, 12, 20, 12, 20)
STEPS = {
    "learn/0": Train("private", [CrossEntropy()], epochs=2),
    "absorb/0": Train("public", [Distil()], rehearse=[CrossEntropy()], epochs=2),
    "absorb/1": Train("public", [Distil()], samples=25),
    "learn/1": Train("private", [CrossEntropy(), Proximal(0.1)], samples=20),
}


def some(seed: int, n: int, dtype: torch.dtype, labelled: bool = True) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *SHAPE, generator=generator, dtype=dtype)
    y = torch.randint(10, (n,), generator=generator) if labelled else None
    return Samples(x, y, torch.arange(n))


class Party:
    """Some clients of one model, to be trained in either way."""

    def __init__(
        self,
        model: str = "mlp",
        sizes: tuple[int, ...] = UNEVEN,
        dtype: torch.dtype = torch.float64,
        personal: bool = False,
        **options: Any,
    ) -> None:
        self.dtype = dtype
        learner = make_learner(model, SHAPE, 10)
        assert isinstance(learner, TorchLearner)
        self.learner = learner
        self.learner.follow(Recipe())
        given = {"optimiser": "sgd", "learning_rate": 0.02, "batch_size": 8, **options}
        settings = TrainingOptions(public_batch_size=16, **given)
        public = some(99, 50, dtype, labelled=False)
        own = Knowledge("weights", self.fresh(99)["model"])
        answers = torch.randn(len(sizes), 30, 10, dtype=dtype).softmax(-1)
        self.works = []
        for k, size in enumerate(sizes):
            data = ClientData(
                some(k, size, dtype), some(50 + k, 7, dtype), some(70 + k, 9, dtype),
                public, None, 10, SHAPE,
            )  # fmt: skip
            told = Knowledge.rows("probabilities", answers[k if personal else 0], range(5, 35))
            knowledge = {"public": told, "weights": own}
            self.works.append(Work(data, knowledge, settings, 0, 1, k, rounds=3))

    def fresh(self, client: int) -> dict[str, Any]:
        self.learner.reset(0, client)
        self.learner.model.to(self.dtype)
        self.learner.heads.to(self.dtype)
        return self.learner.state()

    def in_the_loop(self, steps: dict[str, Train] = STEPS) -> tuple[list[Any], list[Any]]:
        states, losses = [], []
        for client, work in enumerate(self.works):
            self.learner.load_state(self.fresh(client))
            losses.append([self.learner.train(step, work, name) for name, step in steps.items()])
            states.append(self.learner.state())
        return states, losses

    def together(
        self, steps: dict[str, Train] = STEPS, clients: tuple[int, ...] | None = None
    ) -> tuple[list[Any], list[Any]]:
        chosen = range(len(self.works)) if clients is None else clients
        rows = [Row(self.fresh(c), self.works[c]) for c in chosen]
        losses = [cohort.train(self.learner, step, rows, name) for name, step in steps.items()]
        return [row.state for row in rows], [list(one) for one in zip(*losses, strict=True)]


def tensors(state: Any) -> list[Tensor]:
    if isinstance(state, dict):
        return [t for key in sorted(state, key=str) for t in tensors(state[key])]
    return [torch.as_tensor(state)] if state is not None else []


def apart(some: Any, others: Any) -> float:
    pairs = zip(tensors(dict(enumerate(some))), tensors(dict(enumerate(others))), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


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


def test_answers_are_the_loop_s() -> None:
    party = Party("cnn", dtype=torch.float32)
    states = party.together()[0]
    public = party.works[0].data.public
    assert public is not None
    shared = cohort.answer(party.learner, states, [public.x] * 5)
    own = [work.data.train.x for work in party.works]
    each = cohort.answer(party.learner, states, own)
    for state, x, one, other in zip(states, own, shared, each, strict=True):
        party.learner.load_state(state)
        assert torch.allclose(one, party.learner.predict(public.x), atol=1e-5)
        assert torch.allclose(other, party.learner.predict(x), atol=1e-5)
        assert other.shape == (len(x), 10)


def test_dropout_is_refused_before_anything_changes() -> None:
    party = Party()

    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))

    learner = TorchLearner(build, 10, "dropping")
    state = learner.state()
    rows = [Row(state, work) for work in party.works]
    with pytest.raises(cohort.RefusedError, match="draws random numbers"):
        cohort.train(learner, STEPS["learn/0"], rows, "learn/0")
    assert all(row.state is state for row in rows)


def test_a_compiled_step_is_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and split into its gradients as always, but run without a C++ compiler."""
    compiled = []

    def traced(function: Any, **options: Any) -> Any:
        compiled.append(function)
        return real(function, backend="aot_eager", **options)

    real = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    ends = []
    for compile_it in (True, False):
        torch.manual_seed(0)
        ends.append(Party(compile=compile_it).together()[0])
    assert apart(*ends) < 1e-12
    assert len(compiled) == len(STEPS)


def test_a_compiled_step_serves_other_clients_and_other_knowledge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One step, whose guards look at tensors only: knowledge in common, then each its own."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **o: real(f, backend="aot_eager", **o))
    steps = {n: STEPS[n] for n in ("absorb/0", "absorb/1")}
    torch.manual_seed(0)
    first = Party(compile=True)
    for personal, sizes in ((False, UNEVEN), (True, UNEVEN), (True, (9, 30)), (False, UNEVEN)):
        torch.manual_seed(1)
        party = Party(sizes=sizes, personal=personal, compile=True)
        torch.manual_seed(1)
        plain = Party(sizes=sizes, personal=personal)
        party.learner = first.learner
        assert apart(party.together(steps)[0], plain.in_the_loop(steps)[0]) < 1e-12
    assert len(cohort.template_of(first.learner).steps) == len(steps)


def test_linear_layers_without_bias_and_on_sequences() -> None:
    def build() -> nn.Module:
        # Rows of 8 numbers are a sequence; the first layer sees [B, 1, 8, 8].
        layers = nn.Linear(8, 6, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(48, 10, bias=False)
        return nn.Sequential(*layers)

    party = Party()
    party.learner = TorchLearner(build, 10, "bare")
    party.learner.follow(Recipe())
    steps = {"learn/0": Train("private", [CrossEntropy()], epochs=2)}
    (loop, _), (ours, _) = party.in_the_loop(steps), party.together(steps)
    assert apart(ours, loop) < 1e-12


def test_frozen_parameters_stay_as_they_are() -> None:
    def build() -> nn.Module:
        model = make_learner("mlp", SHAPE, 10).model
        next(model.parameters()).requires_grad_(False)
        return model

    party = Party()
    party.learner = TorchLearner(build, 10, "frozen")
    party.learner.follow(Recipe())
    (loop, _), (ours, _) = party.in_the_loop(), party.together()
    assert apart(ours, loop) < 1e-12
    begins = [party.fresh(k)["model"] for k in range(len(ours))]
    frozen, *others = (n for n, _ in party.learner.model.named_parameters())
    for end, begin in zip(ours, begins, strict=True):
        assert torch.equal(end["model"][frozen], begin[frozen])
        assert not any(torch.equal(end["model"][n], begin[n]) for n in others)


class Idle(nn.Module):
    """A network with a layer, and a bias, that its answers do not depend on."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.body = nn.Linear(64, 12)
        self.norm = nn.BatchNorm1d(12) if norm else nn.Identity()
        self.unused = nn.Linear(12, 12)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.norm(self.body(x.flatten(1)))))
        return logits


def shaken(state: dict[str, Any]) -> dict[str, Any]:
    """Return a client whose optimiser remembers a movement of every parameter."""
    moments = {
        i: {
            name: value + 3 if name == "step" else torch.full_like(value, 0.1)
            for name, value in one.items()
        }
        for i, one in state["optimiser"].items()
    }
    return {**state, "optimiser": moments}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_what_a_step_does_not_reach_stays(
    optimiser: str, weight_decay: float, norm: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither decay, momentum nor moments move a parameter whose gradient is none."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **o: real(f, backend="aot_eager", **o))
    sizes = (16, 16, 16) if norm else UNEVEN
    given = {"optimiser": optimiser, "weight_decay": weight_decay, "compile": compiled}
    party = Party(sizes=sizes, **given)
    party.learner = TorchLearner(lambda: Idle(norm), 10, "idle")
    heads = Recipe(heads=[Head("domain", (5, 2))])
    party.learner.follow(heads)
    first, second = {"learn/0": STEPS["learn/0"]}, {"absorb/1": STEPS["absorb/1"]}
    begins = [shaken(state) for state in party.in_the_loop(first)[0]]
    loop = []
    for state, work in zip(begins, party.works, strict=True):
        party.learner.load_state(state)
        party.learner.train(second["absorb/1"], work, "absorb/1")
        loop.append(party.learner.state())
    rows = [Row(state, work) for state, work in zip(begins, party.works, strict=True)]
    cohort.train(party.learner, second["absorb/1"], rows, "absorb/1")
    ours = [row.state for row in rows]
    assert apart(ours, loop) < 1e-12
    names = [n for n, _ in party.learner.model.named_parameters()]
    names += [f"heads.{n}" for n, _ in party.learner.heads.named_parameters()]
    for begin, end in zip(begins, ours, strict=True):
        for place, name in enumerate(names):
            idle = name.startswith(("unused", "heads"))
            assert torch.equal(begin["model"][name], end["model"][name]) == idle, name
            for moment, value in begin["optimiser"][place].items():
                assert torch.equal(value, end["optimiser"][place][moment]) == idle, name

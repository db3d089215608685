"""What a cohort does with a network: its answers, compiled steps, frozen and idle parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkt.clients import TorchLearner
from fedkt.clients.cohorts import cohort
from fedkt.clients.cohorts.cohort import Row
from fedkt.clients.learners.making import make_learner
from fedkt.objectives import CrossEntropy
from fedkt.objectives.heads import Head
from fedkt.recipe import Recipe, Train

from .cohort_parties import SHAPE, STEPS, UNEVEN, Party, apart


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


def test_frozen_parameters_are_the_same_for_all_and_in_no_state() -> None:
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
        assert list(end["model"]) == list(begin) == others
        assert not any(torch.equal(end["model"][n], begin[n]) for n in others)
    assert party.learner.constants.keys() == {frozen}


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

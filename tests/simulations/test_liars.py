"""Malicious clients in whole runs: what the server gets, what is reported, what is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from flwr.app import Message, MessageType
from torch import Tensor

from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.machine import one_thread
from fedkt.simulations.engines.grid import InProcessGrid
from fedkt.simulations.engines.population import Population
from fedkt.simulations.runs.plan import Plan, liars_of, prepare, strategy_of
from fedkt.simulations.runs.recorder import round_row
from fedkt.simulations.runs.run import server_app
from fedkt.strategies import KnowledgeStrategy, Observer, RoundReport

FEDMD = {"name": "fedmd", "local_epochs": 1, "distil_epochs": 1}
FEDPF = {"name": "fedpf", "local_epochs": 1, "distil_epochs": 1}
SHARING = {
    "logits": FEDMD,
    "probabilities": {**FEDMD, "form": "probabilities"},
    "fedpf": FEDPF,
}
FIVE = {"models": ["mlp", "linear"], "data__clients": 5}
VOTE = """
import torch
import torch.nn.functional as F
from fedkt.knowledge import Fused, Knowledge
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.recipe import Predict, Recipe, Train
from fedkt.strategies import KnowledgeStrategy

class Vote(KnowledgeStrategy):
    def recipe(self):
        return Recipe(
            learn=[Train(on="private", terms=[CrossEntropy()])],
            share=[Predict(form="labels")],
            absorb=[Train(on="public", terms=[Distil(KL())])],
        )

    def fuse(self, uploads):
        stack = uploads["public"]
        shares = F.one_hot(stack.values, 10).float().mean(0)
        return Fused(shared={"public": Knowledge.rows("probabilities", shares, stack.ids)})
"""


@dataclass
class Outcome(Observer):
    """What came out of a run in this process; also the observer that collects it."""

    liars: Any
    engine: InProcessGrid
    rows: list[dict[str, Any]] = field(default_factory=list)
    uploads: list[dict[int, Knowledge]] = field(default_factory=list)
    fused: list[Fused] = field(default_factory=list)

    def round_finished(self, report: RoundReport, strategy: KnowledgeStrategy) -> None:
        row = round_row(report, None, self.liars)
        self.rows.append({k: v for k, v in row.items() if k not in ("seconds", "strategy")})


def federate(plan: Plan, grid: type[InProcessGrid] = InProcessGrid) -> Outcome:
    """Run a plan in this process and watch what the strategy gets and gives."""
    population = Population(plan.population, plan.federation)
    engine = grid(population.app(), plan.federation.num_clients)
    strategy, liars = strategy_of(plan), liars_of(plan)
    outcome = Outcome(liars, engine)
    strategy.observers = [outcome]
    fuse: Callable[[Uploads], Fused] = strategy.fuse

    def watched(uploads: Uploads) -> Fused:
        outcome.uploads.append({u.client: u.knowledge["public"] for u in uploads})
        outcome.fused.append(fuse(uploads))
        return outcome.fused[-1]

    strategy.fuse = watched
    with one_thread():
        engine.run_server(server_app(strategy, plan, population, liars))
    return outcome


def logits_of(upload: Knowledge) -> Tensor:
    return upload.values.log() if upload.kind == "probabilities" else upload.values


def sure(labels: Tensor, kind: str) -> Tensor:
    logits = 12 * F.one_hot(labels, 10).float()
    return logits.softmax(-1) if kind == "probabilities" else logits


def without(row: dict[str, Any], *clients: int) -> dict[str, list[float | None]]:
    """Return a round's accuracies by client with those of some clients left out."""
    names = ("personalised_accuracy", "global_accuracy", "validation_accuracy")
    return {
        name: [None if c in clients else v for c, v in enumerate(row[name]["per_client"])]
        for name in names
    }


# --- what the server gets --------------------------------------------------------------------


@pytest.mark.parametrize("strategy", SHARING.values(), ids=SHARING)
def test_only_the_uploads_of_liars_change(tiny: Any, strategy: Any) -> None:
    """In round one, before the lies have taught anybody anything."""
    plain = federate(prepare(tiny(strategy=strategy, rounds=1, **FIVE)))
    lying = federate(prepare(tiny(strategy=strategy, rounds=1, **FIVE, attack="wrong:2")))
    for client, true in plain.uploads[0].items():
        given = lying.uploads[0][client]
        assert (given.kind, given.values.dtype) == (true.kind, true.values.dtype)
        if client >= 2:
            assert torch.equal(given.values, true.values)
        else:
            wanted = sure((true.values.argmax(-1) + 1) % 10, true.kind)
            assert torch.allclose(given.values, wanted, atol=1e-7)


@pytest.mark.parametrize("strategy", [FEDMD, SHARING["probabilities"]], ids=lambda s: len(s))
@pytest.mark.parametrize("kind", ["amplified", "inverted", "mimic", "swap", "lie", "constant"])
def test_the_fused_mean_differs_by_the_replaced_uploads(
    tiny: Any, strategy: Any, kind: str
) -> None:
    plain = federate(prepare(tiny(strategy=strategy, rounds=1, **FIVE)))
    lying = federate(prepare(tiny(strategy=strategy, rounds=1, **FIVE, attack=f"{kind}:2")))
    moved = lying.fused[0].shared["public"].values - plain.fused[0].shared["public"].values
    changes = [lying.uploads[0][c].values - plain.uploads[0][c].values for c in range(2)]
    assert float(moved.abs().max()) > 1e-3
    assert torch.allclose(moved, torch.stack(changes).sum(0) / 5, atol=1e-5)


def test_amplified_probabilities_are_powers(tiny: Any) -> None:
    """The softmax of ten times log p is p to the tenth, normalised."""
    same = {"strategy": SHARING["probabilities"], "rounds": 1, **FIVE}
    plain = federate(prepare(tiny(**same))).uploads[0][0].values.double()
    given = federate(prepare(tiny(**same, attack="amplified:1"))).uploads[0][0].values
    power = plain**10
    wanted = power / power.sum(-1, keepdim=True)
    assert torch.allclose(given.double(), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["lie", "mimic-confident"])
def test_omniscient_liars_agree_and_know_the_honest_uploads(tiny: Any, kind: str) -> None:
    plan = prepare(tiny(strategy=FEDMD, rounds=2, **FIVE, attack=f"{kind}:2"))
    for uploads in federate(plan).uploads:
        honest = torch.stack([uploads[c].values for c in (2, 3, 4)])
        assert torch.equal(uploads[0].values, uploads[1].values)
        if kind == "lie":
            logs = honest.log_softmax(-1)
            gap = (uploads[0].values - logs.mean(0)).abs()
            assert float((gap - logs.std(0, correction=0)).max()) < 1e-5
        else:
            back = uploads[0].values.roll(-1, -1)
            assert any(torch.equal(back, one) for one in honest)


def test_labels_can_be_lied_in_too(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "vote.py").write_text(VOTE, encoding="utf-8")
    same = {"strategy": {"name": f"{tmp_path}/vote.py:Vote"}, "rounds": 2, **FIVE}
    plain = federate(prepare(tiny(**same)))
    lying = federate(prepare(tiny(**same, attack="wrong:2")))
    for client, true in plain.uploads[0].items():
        wanted = (true.values + 1) % 10 if client < 2 else true.values
        assert torch.equal(lying.uploads[0][client].values, wanted)


def test_adaptive_flip_answers_what_was_fused_last(tiny: Any) -> None:
    attack = {"kind": "adaptive-flip", "clients": 2, "source": 1, "target": 4}
    run = federate(prepare(tiny(strategy=FEDPF, rounds=3, **FIVE, attack=attack)))
    for before, uploads in zip(run.fused[:2], run.uploads[1:], strict=True):
        labels = before.shared["public"].values.argmax(-1)
        wanted = sure(torch.where(labels == 1, 4, labels), "logits")
        assert torch.equal(uploads[0].values, wanted)
        assert torch.equal(uploads[1].values, wanted)
        assert not torch.equal(uploads[2].values, wanted)


def test_adaptive_flip_goes_by_sample_ids(tiny: Any) -> None:
    """With other public samples every round the last target covers some of them only."""
    strategy = {**FEDMD, "form": "probabilities", "public_samples": 25}
    run = federate(prepare(tiny(strategy=strategy, rounds=2, **FIVE, attack="adaptive-flip:1")))
    told, given = run.fused[0].shared["public"], run.uploads[1][0]
    assert told.ids is not None
    assert given.ids is not None
    both = [int(i) for i in given.ids if i in told.ids]
    assert 0 < len(both) < 25
    for sample in both:
        label = int(told.at(torch.tensor(sample)).argmax())
        answer = int(given.at(torch.tensor(sample)).argmax())
        assert answer == (8 if label == 3 else label)


def test_replay_repeats_the_first_upload_bit_for_bit(tiny: Any) -> None:
    run = federate(prepare(tiny(strategy=FEDPF, rounds=3, **FIVE, attack="replay:2")))
    for later in run.uploads[1:]:
        for client in range(2):
            assert torch.equal(later[client].values, run.uploads[0][client].values)
        assert not torch.equal(later[2].values, run.uploads[0][2].values)


@pytest.mark.parametrize("codec", ["none", "float16"])
def test_lies_weigh_what_the_truth_weighs(tiny: Any, codec: str) -> None:
    same = {"strategy": FEDMD, **FIVE, "run__codec": codec}
    plain, lying = (federate(prepare(tiny(**same, **a))) for a in ({}, {"attack": "wrong:2"}))
    assert [r["traffic"] for r in lying.rows] == [r["traffic"] for r in plain.rows]
    if codec == "float16":
        assert torch.equal(lying.uploads[0][0].values.unique(), torch.tensor([0.0, 12.0]))


# --- honest and silent liars -----------------------------------------------------------------


@pytest.mark.parametrize("strategy", SHARING.values(), ids=SHARING)
def test_on_off_is_no_attack_until_it_begins(tiny: Any, strategy: Any) -> None:
    same = {"strategy": strategy, "rounds": 4, **FIVE}
    plain = federate(prepare(tiny(**same)))
    attack = {"kind": "on-off", "clients": 2, "honest_rounds": 2}
    lying = federate(prepare(tiny(**same, attack=attack)))
    for r in range(2):
        assert without(plain.rows[r], 0, 1) == without(lying.rows[r], 0, 1)
        for client in range(5):
            assert torch.equal(lying.uploads[r][client].values, plain.uploads[r][client].values)
    assert not torch.equal(lying.uploads[2][0].values, plain.uploads[2][0].values)
    assert without(plain.rows[3], 0, 1) != without(lying.rows[3], 0, 1)


class Deaf(InProcessGrid):
    """Loses what clients 0 and 1 upload."""

    def _handle(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        replies = super()._handle(messages, timeout)
        pairs = zip(messages, replies, strict=True)
        return [
            reply
            for message, reply in pairs
            if message.metadata.message_type != MessageType.TRAIN or self.client_of(message) > 1
        ]


@pytest.mark.parametrize("strategy", [FEDMD, FEDPF], ids=["fedmd", "fedpf"])
def test_silence_is_as_if_the_server_never_heard_of_them(
    tiny: Any, plain_state: Any, strategy: Any
) -> None:
    same = {"strategy": strategy, "rounds": 3, **FIVE}
    silent = federate(prepare(tiny(**same, attack="silent:2")))
    deaf = federate(prepare(tiny(**same)), grid=Deaf)
    assert plain_state(silent.engine.snapshot()) == plain_state(deaf.engine.snapshot())
    for one, other in zip(silent.rows, deaf.rows, strict=True):
        assert without(one) == without(other, 0, 1)
        assert one["participants"] == [2, 3, 4]
        assert one["failures"] == [], "who keeps silent on purpose has not failed"
        assert len(other["failures"]) == 2
        assert one["traffic"] == other["traffic"]


def test_when_all_drawn_clients_lie_they_know_themselves_only(tiny: Any) -> None:
    same = {"strategy": FEDMD, "rounds": 6, "data__clients": 3, "run__participation": 0.34}
    run = federate(prepare(tiny(**same, attack="mimic-confident:2")))
    alone = [u for u in run.uploads if set(u) <= {0, 1}]
    assert alone
    assert all(len(u) == 1 for u in alone)


# --- attacks of one's own --------------------------------------------------------------------

OWN = """
def shy(view, after: int = 1):
    '''Honest at first, silent later.'''
    return view.own if view.round <= after else None

def greedy(view):
    '''Works in place, on what it was given.'''
    view.own.neg_()
    return view.own
"""


def test_an_attack_of_ones_own(here: Path, tiny: Any) -> None:
    (here / "mine.py").write_text(OWN, encoding="utf-8")
    same = {"strategy": FEDMD, "rounds": 2, **FIVE}
    shy = federate(prepare(tiny(**same, attack="mine.py:shy:2")))
    assert [r["participants"] for r in shy.rows] == [[0, 1, 2, 3, 4], [2, 3, 4]]
    options = {"kind": "mine.py:shy", "clients": 2, "after": 0}
    at_once = federate(prepare(tiny(**same, attack=options)))
    assert [r["participants"] for r in at_once.rows] == [[2, 3, 4]] * 2
    greedy = federate(prepare(tiny(**same, attack="mine.py:greedy:2")))
    inverted = federate(prepare(tiny(**same, attack="inverted:2")))
    assert greedy.rows == inverted.rows


# --- the point of it all ---------------------------------------------------------------------


def test_trust_withstands_three_liars_of_ten(tiny: Any) -> None:
    """Confident, colluding wrong labels ruin plain fusion and cost little with trust."""
    scores = {}
    for trust in ("off", "correlation"):
        for attack in ("wrong:3", "silent:3"):
            experiment = tiny(
                strategy={"name": "fedpf", "trust": trust, "local_epochs": 5},
                models=["mlp"], rounds=6, attack=attack, training__learning_rate=0.005,
                data={"clients": 10, "samples_per_client": 60, "public_samples": 300,
                      "test_samples": 300, "partition": "dirichlet:0.5"},
            )  # fmt: skip
            last = federate(prepare(experiment)).rows[-1]
            scores[trust, attack] = last["global_accuracy"]["mean"]
    assert scores["off", "wrong:3"] < scores["off", "silent:3"] - 0.25
    assert scores["correlation", "wrong:3"] > scores["correlation", "silent:3"] - 0.05
    assert scores["correlation", "wrong:3"] > scores["off", "wrong:3"] + 0.25

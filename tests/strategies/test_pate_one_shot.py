"""FedKT: votes of teachers and of unanimous students by counting, its limit, its bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedkt.clients.learners.base import Work
from fedkt.context import Round
from fedkt.data.samples import ClientData, Samples
from fedkt.knowledge import Knowledge, Upload, Uploads
from fedkt.objectives import CrossEntropy, Distil
from fedkt.recipe import Train
from fedkt.strategies.answers.compose import Compose
from fedkt.strategies.baselines.local import Local
from fedkt.strategies.oneshot.pate_one_shot import (
    KEPT,
    PartyStudents,
    PateOneShot,
    UnanimousLabels,
    consistent,
)
from fedkt.training import TrainingOptions

from .by_hand import assert_equal_runs

C, M, PRIVATE = 3, 6, 7
NOTHING = Samples(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64), torch.arange(0))


class Told:
    """A model whose labels for public samples can be counted from the samples that it has seen.

    A teacher that has learnt the private rows i, j, ... labels sample m by (i + j + ... + m) mod C,
    an untrained model and the client's own by 0 and 1, and a student as it was taught.
    """

    def __init__(self) -> None:
        self.labels, self.seen = torch.ones(M, dtype=torch.int64), list[Any]()

    def state(self) -> dict[str, Any]:
        return {"labels": self.labels}

    def load_state(self, state: Any) -> None:
        self.labels = state["labels"]

    def reset(self, seed: int, client: int) -> None:
        self.labels, self.seed = torch.zeros(M, dtype=torch.int64), seed

    def train(self, step: Train, work: Work, stream: str) -> None:
        rows = work.data.train.ids.tolist()
        self.seen.append((step.on, step.epochs, rows, stream, self.seed))
        if step.on == "private":
            self.labels = (sum(rows) + torch.arange(M)) % C
        else:
            self.labels = work.knowledge[step.terms[0].source].at(torch.arange(M)).argmax(-1)

    def predict(self, x: torch.Tensor, world: str = "model") -> torch.Tensor:
        return torch.nn.functional.one_hot(self.labels, C).float()


@pytest.fixture
def work() -> Work:
    y = torch.arange(PRIVATE) % C
    train = Samples(torch.zeros(PRIVATE, 1), y, torch.arange(PRIVATE))
    public = Samples(torch.zeros(M, 1), None, torch.arange(M))
    data = ClientData(train, NOTHING, NOTHING, public, None, C, (1,))
    return Work(data, {}, TrainingOptions(), 3, 1, 5)


@pytest.mark.parametrize("student_epochs", [0, 4])
@pytest.mark.parametrize(("s", "t"), [(1, 2), (2, 3), (3, 5)])
def test_teachers_vote_and_students_agree(work, s, t, student_epochs) -> None:
    """Every partition's subsets are all samples, each once; votes and unanimity by counting."""
    model = Told()
    PartyStudents(s, t, 2, student_epochs).run(model, work, "learn/1")
    teachers = [seen for seen in model.seen if seen[0] == "private"]
    students = [seen for seen in model.seen if seen[0] == "public"]
    assert len(teachers) == s * t
    assert [seen[1:3] for seen in students] == [(4, [])] * (s if student_epochs else 0)
    assert len({seen[3] for seen in model.seen}) == len({seen[4] for seen in model.seen})
    assert len({seen[3] for seen in model.seen}) == len(model.seen)
    labels = []
    for j in range(s):
        subsets = [seen[2] for seen in teachers[j * t : (j + 1) * t]]
        assert sorted(row for rows in subsets for row in rows) == list(range(PRIVATE))
        assert max(map(len, subsets)) - min(map(len, subsets)) <= 1
        votes = [Counter((sum(rows) + m) % C for rows in subsets) for m in range(M)]
        labels.append([min(c for c in v if v[c] == max(v.values())) for v in votes])
    kept = {m: labels[0][m] for m in range(M) if len({row[m] for row in labels}) == 1}
    told = work.own[KEPT]
    assert dict(zip(told.ids.tolist(), told.values.tolist(), strict=True)) == kept
    assert model.labels.tolist() == [1] * M  # the client's own model is back
    assert UnanimousLabels().make(model, work) is told
    assert work.done == []


def test_partitions_differ(work) -> None:
    model = Told()
    PartyStudents(2, 2, 1, 0).run(model, work, "learn/1")
    assert sorted(model.seen[0][2]) not in (sorted(model.seen[2][2]), sorted(model.seen[3][2]))


@pytest.mark.parametrize("empty", [False, True])
def test_the_own_model_teaches_where_nothing_is_divided(work, empty) -> None:
    if empty:
        work = replace(work, data=replace(work.data, train=NOTHING))
    model = Told()
    PartyStudents(2, 5 if empty else 1, 1, 3).run(model, work, "learn/1")
    assert [seen[0] for seen in model.seen] == ["public"] * 2
    assert work.own[KEPT].values.tolist() == [1] * M


def test_consistent_votes_by_numpy() -> None:
    """v_m = s |{i : v_m^i = s}|: the votes of parties whose students differ do not count."""
    rng, s, parties = np.random.default_rng(0), 2, 9
    labels = rng.integers(C, size=(parties, s, 40))
    labels[:, :, 0] = [[0, 1]] * parties  # of which nobody is sure
    uploads = []
    for party, answers in enumerate(labels):
        agreed = consistent(torch.tensor(answers))
        ids = torch.arange(40)[agreed]
        told = Knowledge.rows("labels", torch.tensor(answers[0])[agreed], ids)
        uploads.append(Upload(party, 1, {"public": told}))
    votes = np.zeros((40, C), int)
    for answers in labels:
        for m in range(40):
            of_party = Counter(answers[:, m].tolist())
            for c in range(C):
                votes[m, c] += s if of_party[c] == s else 0
    strategy = PateOneShot(student=False)
    strategy.__dict__["_supposed"] = Round(1, 1, tuple(range(parties)), C, 40, (1,), 0, {})
    fused = strategy.fuse(Uploads(uploads)).shared["public"].without_absent()
    assert fused.ids.tolist() == np.flatnonzero(votes.sum(1)).tolist()
    assert 0 not in fused.ids
    for sample, row in zip(fused.ids.tolist(), fused.values, strict=True):
        assert row.sum() == row.max() == 1
        assert votes[sample, int(row.argmax())] == votes[sample].max()


def test_one_partition_of_one_subset_is_a_vote_of_the_models(world, with_options) -> None:
    """To the bit ``compose(form=labels, fusion=vote)``, at mixed clients."""
    limit = PateOneShot(1, 1, 3, student_epochs=0, distil_epochs=2, student=False)
    plain = Compose(form="labels", fusion="vote", local_epochs=3, distil_epochs=2)
    runs = [world(models=("linear", "mlp", "logistic")) for _ in range(2)]
    for run, strategy in zip(runs, (limit, plain), strict=True):
        run.start(with_options(strategy), 2)
        assert not any(report.failures for report in run.reports)
    ours, theirs = (run.grid.snapshot() for run in runs)
    for client in (0, 1, 3):
        model, other = ours[client]["learner"]["model"], theirs[client]["learner"]["model"]
        assert all(torch.equal(tensor, other[name]) for name, tensor in model.items())
    absorbed, other = (s[2]["learner"]["absorbed"] for s in (ours, theirs))
    assert torch.equal(absorbed["targets"], other["targets"])
    traffic = [(r.traffic.up, r.traffic.down_broadcast) for r in runs[0].reports]
    assert traffic == [(4 * 8 * 50, 4 * 4 * 50 * 10)] * 2  # 8M up, 4MC down
    assert traffic == [(r.traffic.up, r.traffic.down_broadcast) for r in runs[1].reports]


def test_teachers_and_students_leave_the_own_model_alone(world, with_options) -> None:
    """Where nobody distils it is local training, to the bit and with the optimiser's moments."""
    method = PateOneShot(2, 3, 2, student_epochs=2, distil_epochs=0, student=False)
    assert_equal_runs(world, with_options(method), with_options(Local(2)))


def test_bytes_are_those_of_the_unanimous_samples(world, with_options) -> None:
    seen: list[Any] = []

    class Keeping(PateOneShot):
        def fuse(self, uploads: Uploads) -> Any:
            seen[:] = [uploads, super().fuse(uploads)]
            return seen[1]

    run = world()
    run.start(with_options(Keeping(2, 2, 10, 5, 1)), 1)
    uploads, fused = seen
    agreed = [len(upload.knowledge["public"].ids) for upload in uploads]
    somebody = len(fused.shared["public"].without_absent().ids)
    assert min(agreed) < max(agreed) <= somebody < 50
    traffic = run.reports[0].traffic
    assert (traffic.up, traffic.down_unicast) == (16 * sum(agreed), 0)
    assert traffic.down_broadcast == 4 * (4 * 10 + 8) * somebody
    assert "student_loss" in run.reports[0].diagnostics


def test_teachers_count_as_private_training() -> None:
    sizes = TrainingOptions()
    assert PartyStudents(3, 4, 5).as_train() == Train("private", [CrossEntropy()], epochs=15)
    assert PartyStudents(3, 4, 5).budget(20, 50, sizes) == 15 * 20
    assert PartyStudents(3, 1, 5).budget(20, 50, sizes) == 0
    assert PateOneShot().recipe().absorb[0].terms == (Distil(),)

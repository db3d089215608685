from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedkt.clients.phases import evaluate, run_steps, share
from fedkt.data import Samples
from fedkt.errors import KnowledgeError
from fedkt.knowledge import Knowledge
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.recipe import Load, Predict, Recipe, Train, Weights
from fedkt.shares.ids import public_ids

ALL = {"personalised-accuracy", "global-accuracy", "validation-accuracy"}


class Table(nn.Module):
    """Answers class ``table[i]`` for the sample whose first pixel is ``i``."""

    def __init__(self, table: list[int], classes: int) -> None:
        super().__init__()
        self.table, self.classes = torch.tensor(table), classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(1)[:, 0].long()
        return torch.nn.functional.one_hot(self.table[rows], self.classes).float()


def numbered(first: int, labels: list[int]) -> Samples:
    n = len(labels)
    x = torch.arange(first, first + n, dtype=torch.float32).view(n, 1, 1, 1)
    return Samples(x, torch.tensor(labels, dtype=torch.int64), torch.arange(first, first + n))


@pytest.fixture
def toy(data):
    """8 common test samples, of 3 classes; the client holds classes 0 (3 times) and 2 (once)."""
    return replace(
        data,
        train=numbered(0, [0, 0, 2, 0]),
        validation=numbered(0, [0, 1]),
        test=numbered(0, [0, 0, 1, 0]),
        common_test=numbered(0, [0, 0, 1, 1, 1, 2, 2, 2]),
        public=None,
        num_classes=3,
        classes=(),
    )


ANSWERS = [0, 1, 1, 0, 1, 2, 0, 0]  # per sample number


@pytest.fixture
def judge(learner_of):
    return learner_of(lambda: Table(ANSWERS, 3), (1, 1, 1), 3)


# --- evaluation ----------------------------------------------------------------------------


def test_split_accuracies(judge, toy) -> None:
    measured = evaluate(judge, toy)
    # answers 0 1 1 0: on the client's test labels 0 0 1 0 three are right
    assert measured["personalised-accuracy"] == pytest.approx(3 / 4)
    assert measured["validation-accuracy"] == pytest.approx(2 / 2)
    # 0 1 1 0 1 2 0 0 on 0 0 1 1 1 2 2 2: right are the 1st, 3rd, 5th and 6th
    assert measured["global-accuracy"] == pytest.approx(4 / 8)


def test_matched_accuracy(judge, toy) -> None:
    measured = evaluate(judge, toy, "matched")
    # class 0: 1 of 2, class 2: 1 of 3; the client has 3/4 of class 0 and 1/4 of class 2
    assert measured["personalised-accuracy"] == pytest.approx(3 / 4 * 1 / 2 + 1 / 4 * 1 / 3)
    assert measured["global-accuracy"] == pytest.approx(4 / 8)


def test_matched_leaves_out_classes_without_test_samples(judge, toy) -> None:
    toy = replace(toy, common_test=numbered(0, [0, 0, 1, 1, 1]))
    assert evaluate(judge, toy, "matched")["personalised-accuracy"] == pytest.approx(1 / 2)
    only_two = replace(toy, train=numbered(0, [2, 2]))
    assert "personalised-accuracy" not in evaluate(judge, only_two, "matched")


@pytest.mark.parametrize("readout", [False, True])
def test_matched_accuracy_is_of_the_clients_own_domain(judge, toy, readout: bool) -> None:
    toy = replace(toy, domain_test=toy.common_test.select(torch.tensor([1, 2, 5])))
    shifted = (lambda x, logits: logits.roll(1, dims=-1)) if readout else None
    measured = evaluate(judge, toy, "matched", shifted)
    # its domain has labels 0 1 2 and answers 1 1 2, or 2 2 0 one class further
    assert measured["personalised-accuracy"] == pytest.approx(0 if readout else 1 / 4)
    assert measured["global-accuracy"] == pytest.approx(4 / 8), "on all domains"


def test_matched_accuracy_of_a_real_client(learner_of, data, work_on) -> None:
    learner = learner_of("mlp")
    run_steps(learner, [Train("private", [CrossEntropy()], 5)], work_on(data), "learn")
    answers = learner.predict(data.common_test.x).argmax(-1).tolist()
    labels, own = data.common_test.y.tolist(), data.train.y.tolist()
    expected = 0.0
    for c in range(10):
        of_class = [a == c for a, y in zip(answers, labels, strict=True) if y == c]
        expected += own.count(c) / len(own) * sum(of_class) / len(of_class)
    measured = evaluate(learner, data, "matched")
    assert measured["personalised-accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("without", "missing"),
    [
        ("test", {"personalised-accuracy"}),
        ("validation", {"validation-accuracy"}),
        ("common_test", {"global-accuracy"}),
    ],
)
def test_no_samples_no_figure(learner_of, data, empty, without, missing) -> None:
    measured = evaluate(learner_of(), replace(data, **{without: empty}))
    assert set(measured) == ALL - missing


def test_without_a_common_test_set_nothing_is_matched(learner_of, data) -> None:
    measured = evaluate(learner_of(), replace(data, common_test=None), "matched")
    assert set(measured) == {"validation-accuracy"}


# --- sharing -------------------------------------------------------------------------------


def test_the_three_forms(learner_of, data, work_on) -> None:
    learner, work = learner_of(), work_on(data)
    logits = learner.predict(data.public.x)
    recipe = Recipe(
        share=[
            Predict(form="logits", name="z", temperature=9),
            Predict(temperature=3.0, name="p"),
            Predict(form="labels", name="y"),
            Weights(),
        ]
    )
    uploads = share(learner, recipe, work)
    assert [uploads[n].kind for n in ("z", "p", "y", "weights")] == [
        "logits",
        "probabilities",
        "labels",
        "weights",
    ]
    assert torch.equal(uploads["z"].values, logits)
    e = (logits.double() / 3).exp()
    assert torch.allclose(uploads["p"].values.double(), e / e.sum(-1, keepdim=True), atol=1e-6)
    assert torch.equal(uploads["y"].values, logits.argmax(-1))
    assert uploads["y"].values.dtype == torch.int64
    assert torch.equal(uploads["weights"].tensors["1.weight"], learner.model[1].weight)


def test_a_draw_of_the_public_set(learner_of, data, work_on) -> None:
    learner = learner_of()
    for round_ in (1, 2):
        one = share(learner, Recipe(share=[Predict("public", "logits", samples=7)]),
                    work_on(data, round_=round_))["public"]  # fmt: skip
        assert torch.equal(one.ids, public_ids(50, 7, 7, round_))
        assert torch.allclose(one.values, learner.predict(data.public.x[one.ids]), atol=1e-6)


def test_no_public_set_to_predict_on(learner_of, data, work_on) -> None:
    with pytest.raises(KnowledgeError, match="no public set"):
        share(learner_of(), Recipe(share=[Predict()]), work_on(replace(data, public=None)))


# --- steps ---------------------------------------------------------------------------------


def test_steps_run_in_order_on_streams_of_their_own(learner_of, data, work_on) -> None:
    learner, by_hand = learner_of(), learner_of()
    weights = learner_of("mlp")
    weights.reset(1, 1)
    fused = {
        "weights": weights.weights(),
        "public": Knowledge.rows("logits", torch.zeros(50, 10)),
    }
    work = work_on(data, fused)
    steps = [Load(), Train("private", [CrossEntropy()]), Train("public", [Distil(KL(2))])]
    loss = run_steps(learner, steps, work, "learn")
    by_hand.load_weights(weights.weights())
    by_hand.train(steps[1], work, "learn/1")
    last = by_hand.train(steps[2], work, "learn/2")
    assert torch.equal(learner.predict(data.test.x), by_hand.predict(data.test.x))
    assert loss == last


def test_the_loss_is_that_of_the_last_step_that_has_one(learner_of, data, work_on) -> None:
    steps = [Train("private", [CrossEntropy()]), Train("public", [Distil()])]
    work = work_on(data)
    assert run_steps(learner_of(), steps, work, "learn") == learner_of().train(
        steps[0], work, "learn/0"
    )
    assert run_steps(learner_of(), [], work, "learn") is None


def test_weights_that_have_not_come_are_not_loaded(learner_of, data, work_on) -> None:
    learner = learner_of()
    before = learner.weights().tensors["1.weight"]
    assert run_steps(learner, [Load()], work_on(data), "learn") is None
    assert torch.equal(learner.weights().tensors["1.weight"], before)

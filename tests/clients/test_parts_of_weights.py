"""Parts of a model: named, shared, loaded, stepped towards and trained by themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedkt.clients import TorchLearner, TrainingOptions, Work
from fedkt.clients.cohorts import cohort
from fedkt.clients.cohorts.cohort import Row
from fedkt.clients.cohorts.learner import CohortLearner
from fedkt.clients.learners.making import first_weights, make_learner
from fedkt.clients.phases import refuses
from fedkt.data import ClientData, Samples
from fedkt.errors import ConfigError
from fedkt.greeting import told
from fedkt.knowledge import Knowledge
from fedkt.objectives import CrossEntropy, Proximal
from fedkt.objectives.heads import Head
from fedkt.recipe import Load, Recipe, Remember, Train, Weights
from fedkt.shares import Asked

OPTIONS = TrainingOptions("sgd", 0.1, momentum=0.9, weight_decay=0.01, batch_size=8)
MODES = ["loop", "cohort"]


class Body(nn.Module):
    """Batch normalisation in the body; a classifier of one layer, or of two named as one."""

    def __init__(self, classes: int = 3, deep: bool = False) -> None:
        super().__init__()
        self.body, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
        head = nn.Linear(6, classes)
        self.head = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), head) if deep else head
        if deep:
            object.__setattr__(self, "feature_layer", "head")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.body(x)).relu())
        return logits


def data_of(client: int, rows: int = 20) -> ClientData:
    generator = torch.Generator().manual_seed(client)
    x = torch.randn(rows, 4, generator=generator)
    samples = Samples(x, torch.randint(3, (rows,), generator=generator), torch.arange(rows))
    empty = Samples(x[:0], torch.zeros(0, dtype=torch.int64), torch.arange(0))
    return ClientData(samples, empty, samples, None, samples, 3, (4,))


def learner_of(recipe: Recipe, deep: bool = False) -> TorchLearner:
    learner = TorchLearner(lambda: Body(deep=deep), 3, "deep" if deep else "body")
    learner.follow(recipe)
    learner.reset(0, 0)
    return learner


HEADED = Recipe(heads=[Head("d", (2,))])
BODY = {"body.weight", "body.bias", "norm.weight", "norm.bias"}
RUNNING = {"norm.running_mean", "norm.running_var"}


@pytest.mark.parametrize(
    ("of", "but", "norms", "names"),
    [
        ("@head", "", False, {"head.weight", "head.bias"}),
        ("@body", "", False, BODY | RUNNING),
        ("@body", "", True, {"body.weight", "body.bias"}),
        ("@body", "norm.", False, {"body.weight", "body.bias"}),
        ("heads.d.", "", False, {"heads.d.0.weight", "heads.d.0.bias"}),
        ("", "heads.", False, BODY | RUNNING | {"head.weight", "head.bias"}),
        ("", "@body", False, {"head.weight", "head.bias", "heads.d.0.weight", "heads.d.0.bias"}),
    ],
)
def test_the_names_of_a_part(of: str, but: str, norms: bool, names: set[str]) -> None:
    learner = learner_of(HEADED)
    member = CohortLearner(learner)
    member.take(learner.state())
    for model in (learner, member):
        share = Weights("part", local_norms=norms, of=of, but=but)
        assert set(share.first(model).tensors) == names


def test_the_head_is_what_the_model_names_as_its_feature_layer() -> None:
    names = learner_of(Recipe(), deep=True).weights(of="@head").tensors
    assert set(names) == {f"head.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (Weights("p", of="tail."), "share 'p': the part tail. has no weights here"),
        (Weights("p", of="head.", but="@head"), "part head. without @head has no weights here"),
        (Weights("p", but="haed."), "there is no part haed. to leave out"),
        (Weights("p", of="@tail"), "'@tail' is no part of a model: @head, @body or a name's"),
        (Weights("p", of="heads.net."), "share 'p': the part heads.net. has no weights here"),
    ],
)
def test_a_part_that_is_not_there_is_refused(share: Weights, said: str) -> None:
    recipe = Recipe(share=[share])
    assert said in str(refuses(recipe, learner_of(recipe), data_of(0)))


def test_a_step_for_a_part_that_is_not_there_is_refused() -> None:
    recipe = Recipe(learn=[Train("private", [CrossEntropy()], only="tail.")])
    assert learner_of(recipe).refuses(recipe) == "Train(only='tail.'): body has no parameter there"
    assert "'@tail' is no part" in str(
        learner_of(recipe).refuses(Recipe(learn=[Train("private", [CrossEntropy()], only="@tail")]))
    )
    forest = make_learner("forest", (4,), 3)
    recipe = Recipe(learn=[Train("private", [CrossEntropy()], only="@head")])
    assert "or train a part" in str(forest.refuses(recipe))


@pytest.mark.parametrize(
    ("load", "share", "said"),
    [
        (Load(of="haed."), Weights(), "of='haed.'): no weights to load there"),
        (Load(of="@foot"), Weights(), "'@foot' is no part of a model"),
        (Load(of="@body"), Weights(of="@head"), "of='@body'): no weights to load there"),
        (Load("old", of="@body"), Weights("old", of="@head"), "Load('old', of='@body')"),
    ],
)
def test_loading_a_part_that_is_not_there_is_refused(load: Load, share: Weights, said: str) -> None:
    kept = load.source == "old"
    recipe = Recipe(
        learn=[Remember(share), load] if kept else [load], share=[] if kept else [share]
    )
    assert said in str(learner_of(Recipe()).refuses(recipe))
    assert learner_of(Recipe()).refuses(Recipe(learn=[Load(of="@head")], share=[Weights()])) is None


def test_what_must_be_equal_is_the_architecture_of_the_part() -> None:
    part = Recipe(learn=[Load("b")], share=[Weights("b", of="@body")], absorb=[Load("b")])
    whole = Recipe(learn=[Load("b")], share=[Weights("b")])
    texts = [told(part, learner_of(part, deep), data_of(0)) for deep in (False, True)]
    assert texts[0] == texts[1]
    assert "body.weight [6, 4]" in str(texts[0])
    texts = [told(whole, learner_of(whole, deep), data_of(0)) for deep in (False, True)]
    assert texts[0] != texts[1]


def test_every_part_gets_its_own_of_the_first_weights() -> None:
    shares = [Weights("h", of="@head"), Weights("b", of="@body", but="norm.")]
    recipe = Recipe(share=shares)
    learner = learner_of(recipe)
    weights, texts = first_weights(learner, recipe, 0, -1), told(recipe, learner, data_of(0))
    about = {key.removeprefix("about: "): text for key, text in texts.items()}
    for share, names in zip(shares, ({"head.weight", "head.bias"}, {"body.weight", "body.bias"}),
                            strict=True):  # fmt: skip
        assert set(share.share_of(weights, about).tensors) == names
        shapes = {n: tuple(t.shape) for n, t in weights.tensors.items()}
        expected = share.expected(Asked(None, 3, (4,), shapes, None, about))
        assert expected.shapes is not None
        assert set(expected.shapes) == names
    short = Knowledge("weights", {"head.weight": weights.tensors["head.weight"]})
    with pytest.raises(ConfigError, match=r"have no 'head\.bias', which clients share as 'h'"):
        shares[0].share_of(short, about)


@pytest.mark.parametrize("mode", MODES)
def test_a_step_towards_weights_and_a_part_of_them(mode: str) -> None:
    learner = learner_of(Recipe())
    before = learner.weights().tensors
    fused = Knowledge("weights", {n: t + 1 for n, t in before.items()})
    model = CohortLearner(learner) if mode == "cohort" else learner
    model.load_state(learner.state())
    work = Work(data_of(0), {"w": fused}, OPTIONS, 0, 1, 0)
    Load("w", of="@head", rate=0.25).run(model, work, "learn/0")
    for name, tensor in model.weights().tensors.items():
        moved = 0.25 if name.startswith("head.") else 0.0
        assert torch.allclose(tensor, before[name] + moved), name
    Load("w").run(model, work, "learn/0")
    for name, tensor in model.weights().tensors.items():
        assert torch.equal(tensor, fused.tensors[name])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("part", ["@head", "@body", "body."])
def test_only_a_part_is_trained(mode: str, part: str) -> None:
    learner = learner_of(Recipe())
    terms = [CrossEntropy(), Proximal(0.1)]  # which alone would move every parameter
    weights = Knowledge("weights", {n: t + 1 for n, t in learner.weights().tensors.items()})
    work = Work(data_of(0), {"weights": weights}, OPTIONS, 0, 1, 0)
    state = learner.state()
    for step in (Train("private", terms), Train("private", terms, only=part)):
        before = state
        if mode == "loop":
            learner.load_state(before)
            learner.train(step, work, "learn/0")
            state = learner.state()
        else:
            rows = [Row(before, work)]
            cohort.train(learner, step, rows, "learn/0")
            state = rows[0].state
    inside = learner.names_in(part, learner.trained)
    for i, name in enumerate(learner.trained):
        same = torch.equal(state["model"][name], before["model"][name])
        assert same is (name not in inside), name
        moments = before["optimiser"][i], state["optimiser"][i]
        same = torch.equal(*(moment["momentum_buffer"] for moment in moments))
        assert same is (name not in inside), name


def test_the_executors_train_a_part_alike() -> None:
    learner, step = learner_of(Recipe()), Train("private", [CrossEntropy()], 2, only="@head")
    rows, looped = [], []
    for client in range(2):
        work = Work(data_of(client, 20), {}, OPTIONS, 0, 1, client)
        learner.reset(0, client)
        rows.append(Row(learner.state(), work))
        learner.train(step, work, "learn/0")
        looped.append(learner.state())
    cohort.train(learner, step, rows, "learn/0")
    for row, state in zip(rows, looped, strict=True):
        for name, tensor in state["model"].items():
            assert torch.allclose(row.state["model"][name], tensor, atol=1e-6), name


def test_a_loss_that_reaches_no_trained_parameter_is_refused() -> None:
    recipe = Recipe(heads=[Head("d", (2,))])
    learner = learner_of(recipe)
    step = Train("private", [CrossEntropy()], only="heads.d.")
    with pytest.raises(ConfigError, match="reaches none of the parameters that it trains"):
        learner.train(step, Work(data_of(0), {}, OPTIONS, 0, 1, 0), "learn/0")

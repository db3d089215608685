"""FedKA and its weight-free mode: limits, votes, the workspace and its bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fedkt.adaptation.alignment import ramp
from fedkt.adaptation.discrepancy import fourier_mean, gaussian_mmd
from fedkt.adaptation.workspaces import describe
from fedkt.clients import LearnerModels, TrainingOptions
from fedkt.errors import ConfigError
from fedkt.knowledge import Uploads
from fedkt.recipe import Recipe
from fedkt.strategies.domains.fedka import FedKA
from fedkt.strategies.domains.fedka_free import FedKAFree
from fedkt.strategies.weights.fedavg import FedAvg

P, D = 64 * 10 + 10, 64  # parameters and features of the linear model on 8 x 8 digits
HEAD = D * 100 + 100 + 2 * 100 + 100 * 2 + 2
OFF = {"disentangle": False, "match": False, "vote": False}


@pytest.fixture
def start(world: Any, with_options: Any, federation: Any) -> Callable[..., Any]:
    """Run a strategy with a server model whose samples are the public set."""

    def run(
        strategy: Any,
        rounds: int = 2,
        models: Any = ("linear",),
        schedule_rounds: int = 0,
        **training: Any,
    ) -> Any:
        there = world(models=models, **training)
        maker = LearnerModels(models[0], TrainingOptions(**training))
        given = with_options(strategy, models=maker, schedule_rounds=schedule_rounds)
        there.result = there.start(given, rounds)
        return there

    return run


def same(one: Any, other: Any) -> bool:
    return all(
        np.array_equal(one.result.arrays[n].numpy(), other.result.arrays[n].numpy())
        for n in other.result.arrays
    )


def test_without_its_three_parts_it_is_fedavg_to_the_bit(start) -> None:
    assert same(start(FedKA(**OFF)), start(FedAvg(local_epochs=1)))


@pytest.mark.parametrize("part", list(OFF))
def test_each_part_changes_the_outcome(part, start) -> None:
    one = start(FedKA(**{**OFF, part: True}), models=("mlp",))
    assert not same(one, start(FedAvg(local_epochs=1), models=("mlp",)))


def test_without_gamma_the_features_do_not_notice_the_alignment(start) -> None:
    """λ_p is 0: CE alone moves the model, although the domain classifier learns."""
    plain = start(FedAvg(local_epochs=1))
    aligned = start(FedKA(vote=False, gamma=0.0))
    assert same(aligned, plain)
    head = aligned.result.arrays["heads.domain.0.weight"].numpy()
    first = aligned.population.initial_arrays(3, FedKA().recipe())["heads.domain.0.weight"]
    assert not np.array_equal(head, first.numpy())


def test_the_vote_trains_at_lambda_times_the_rate(start) -> None:
    """With SGD one step on one batch moves the average by λ_p η times the gradient."""

    class Keeping(FedKA):
        def _voted(self, uploads: Uploads, average: Any) -> Any:
            fused, told = super()._voted(uploads, average)
            self.moved = fused.tensors["1.weight"] - average.tensors["1.weight"]
            self.told = told
            return fused, told

    sgd = {"optimiser": "sgd", "momentum": 0.0, "public_batch_size": 50, "learning_rate": 0.1}
    moves = {}
    for rounds, gamma in ((1, 5.0), (1, 50.0)):
        strategy = Keeping(disentangle=False, match=False, gamma=gamma, voting_samples=0)
        start(strategy, rounds, **sgd)
        moves[gamma] = strategy.moved
    assert torch.allclose(moves[5.0], ramp(1.0, 5.0) * moves[50.0], rtol=1e-3, atol=1e-8)
    assert 0.25 <= strategy.told["agreement"] <= 1


def test_with_a_schedule_a_run_is_the_beginning_of_a_longer_one(start) -> None:
    def told(run: Any) -> list[Any]:
        return [(r.diagnostics, r.per_client("loss")) for r in run.reports[:2]]

    five, begun = start(FedKA(), 5), start(FedKA(), 2, schedule_rounds=5)
    assert told(begun) == told(five)
    assert told(begun) != told(start(FedKA(), 2))


def test_a_quorum_leaves_out_what_few_agree_on(start) -> None:
    def told(quorum: float) -> dict[str, float]:
        run = start(FedKA(disentangle=False, match=False, voting_samples=0, quorum=quorum), 1)
        return dict(run.reports[0].diagnostics)

    shares = [told(quorum)["voted"] for quorum in (0.0, 0.25, 0.75, 1.0)]
    assert shares[0] == shares[1] == 1  # someone always votes for the most popular label
    assert 1 > shares[2] > shares[3] > 0


def test_more_votes_of_one_label_win(start, federation) -> None:
    seen = {}

    class Keeping(FedKAFree):
        def fuse(self, uploads: Uploads) -> Any:
            fused = super().fuse(uploads)
            seen["labels"], seen["votes"] = uploads["public"].values, fused.shared["public"]
            return fused

    start(Keeping(votes="majority"), 1)
    for column, row in zip(seen["labels"].T.tolist(), seen["votes"].values, strict=True):
        votes = Counter(column)
        assert votes[int(row.argmax())] == max(votes.values())


def test_a_confident_answer_is_worth_more(start) -> None:
    seen = {}

    class Keeping(FedKAFree):
        def fuse(self, uploads: Uploads) -> Any:
            fused = super().fuse(uploads)
            seen["answers"], seen["votes"] = uploads["public"].values, fused.shared["public"]
            return fused

    start(Keeping(), 1)
    answers = seen["answers"].double()
    weight = torch.exp(3 * (answers * answers.log()).sum(-1))  # e^(-3 H)
    expected = (weight[..., None] * answers).sum(0) / weight.sum(0)[:, None]
    assert torch.allclose(seen["votes"].values.double(), expected, atol=1e-5)
    assert not torch.allclose(expected, answers.mean(0), atol=1e-3)  # the weights tell


def test_features_are_the_global_model_s_in_evaluation_mode(start, federation) -> None:
    strategy = FedKA(vote=False, target_samples=20)
    run = start(strategy, 1, models=("mlp",))
    target = strategy.exchange.latest.shared["target"]
    learner = run.population.learner("mlp")
    learner.follow(strategy.recipe())
    learner.load_weights(strategy.exchange.latest.shared["weights"])
    x = federation.client(0).public.x[target.ids]
    assert target.kind == "features"
    assert len(target.ids) == 20
    assert torch.allclose(target.values, learner.features(x), atol=1e-6)


@pytest.mark.parametrize(
    ("workspace", "parts", "size"),
    [
        ("features", {}, 4 * 20 * D + 8 * 20),
        ("features", {"disentangle": False}, 4 * 20 * D + 8 * 20),
        ("fourier", {}, 4 * (128 + 1) + 8 * D),
        ("fourier", {"disentangle": False}, 4 * (128 + 1)),
        ("gaussian", {}, 8 * D),
        ("features", {"disentangle": False, "match": False}, 0),
    ],
)
def test_bytes_are_those_of_the_docstring(workspace, parts, size, start) -> None:
    strategy = FedKA(workspace=workspace, target_samples=20, fourier_features=128, **parts)
    run = start(strategy)
    weights = 4 * (P + (HEAD if parts.get("disentangle", True) else 0))
    assert [r.traffic.up for r in run.reports] == [4 * weights] * 2
    # In the first round the first weights go down as well, before those of the round.
    down = [r.traffic.down_broadcast for r in run.reports]
    assert down == [4 * (2 * weights + size), 4 * (weights + size)]
    assert not run.reports[0].failures


def test_bytes_of_the_weight_free_mode(start) -> None:
    run = start(FedKAFree(votes="majority", voting_samples=30))
    assert [r.traffic.up for r in run.reports] == [4 * 8 * 30] * 2
    run = start(FedKAFree(voting_samples=30))
    assert [r.traffic.up for r in run.reports] == [4 * 4 * 30 * 10] * 2
    assert [r.traffic.down_broadcast for r in run.reports] == [4 * 4 * 30 * 10] * 2
    silent = start(FedKAFree(feedback=False))
    assert [r.traffic.down for r in silent.reports] == [0, 0]


def test_the_weight_free_server_has_a_model_of_its_own(start) -> None:
    strategy = FedKAFree(disentangle=True)
    run = start(strategy, 3, models=("linear", "mlp"))
    assert not strategy.recipe().needs_one_architecture
    weights = strategy.server_weights()
    assert weights is not None
    assert set(weights.tensors) == {
        "1.weight",
        "1.bias",
        *(f"heads.domain.{n}" for n in ("0.weight", "0.bias", "1.weight", "1.bias")),
        "heads.domain.norm0.weight",
        "heads.domain.norm0.bias",
    }
    assert not run.reports[-1].failures


def test_the_fourier_workspace_tends_to_the_mmd() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(60, 5), torch.randn(80, 5) + 0.7
    told = describe(y, torch.arange(80), "fourier", fourier_features=40_000).tensors
    own = fourier_mean(x, 0, 40_000, told["sigma"])
    exact = gaussian_mmd(x, y, sigma=told["sigma"])
    assert float((own - told["mean_embedding"]).square().sum()) == pytest.approx(
        float(exact), rel=0.05
    )


def test_the_bandwidth_is_the_mean_squared_distance() -> None:
    y = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    sigma = describe(y, torch.arange(30), "fourier").tensors["sigma"]
    distances = torch.cdist(y, y).square()
    assert float(sigma) == pytest.approx(float(distances.sum() / (30 * 29)), rel=1e-5)


def test_moments() -> None:
    y = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    told = describe(y, torch.arange(30), "gaussian").tensors
    assert torch.allclose(told["mean"], y.mean(0))
    assert torch.allclose(told["variance"], y.var(0, correction=0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gamma": -1}, "gamma must be .* at least 0"),
        ({"target_samples": 1}, "target_samples must be .* at least 2"),
        ({"target_batch": 1}, "target_batch must be .* at least 2"),
        ({"voting_samples": -1}, "voting_samples must be .* at least 0"),
        ({"quorum": 1.5}, r"quorum must be .* in \[0, 1\]"),
        ({"workspace": "images"}, "workspace must be one of features, fourier, gaussian"),
    ],
)
def test_bad_options_are_one_line(options, said) -> None:
    with pytest.raises(ConfigError, match=said):
        FedKA(**options)


def test_a_server_without_a_model_is_refused(world, with_options) -> None:
    strategy = with_options(FedKA(), models=None)
    with pytest.raises(ConfigError, match=r"fedka works with a model at the server, and nothing"):
        world().start(strategy, 1)


def test_a_server_without_samples_is_refused(world, with_options) -> None:
    strategy = with_options(FedKA(), public=None)
    with pytest.raises(ConfigError, match=r"fedka works on public samples at the server: set"):
        world().start(strategy, 1)


def test_a_server_with_another_public_set_is_refused(world, with_options) -> None:
    strategy = with_options(FedKAFree(), public=torch.zeros(3, 1, 8, 8))
    with pytest.raises(ConfigError, match=r"the server has 3 public samples and the clients 50"):
        world().start(strategy, 1)


def test_the_recipe_travels() -> None:
    for strategy in (FedKA(), FedKA(workspace="fourier"), FedKA(workspace="gaussian"), FedKAFree()):
        recipe = strategy.recipe()
        assert Recipe.from_json(recipe.to_json()) == recipe

"""CCST: the bank of styles, and FedAvg where it changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedkt.adaptation.restyle import Restyle, styles_of
from fedkt.clients import Client
from fedkt.data import Samples
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge, Upload, Uploads
from fedkt.recipe import Recipe, Styles, Weights
from fedkt.strategies.domains.ccst import CCST
from fedkt.strategies.weights.fedavg import FedAvg

P, N = 64 * 10 + 10, 4


def upload(client: int, examples: int, style: float) -> Upload:
    statistics = {"mean": torch.full((1, 3), style), "std": torch.full((1, 3), style / 10)}
    weights = Knowledge("weights", {"w": torch.tensor([style])})
    return Upload(
        client, examples, {"weights": weights, "styles": Knowledge("statistics", statistics)}
    )


def test_recipe() -> None:
    recipe = CCST("single", images=4, probability=0.3, local_epochs=2).recipe()
    assert recipe.share == (Weights(), Styles("single", 4))
    assert recipe.learn[1].transforms == (Restyle("styles", 0.3),)
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_the_bank_holds_everyones_styles_by_client() -> None:
    strategy = CCST()
    fused = strategy.fuse(Uploads([upload(1, 30, 0.5), upload(0, 10, 0.1)])).shared
    assert torch.allclose(fused["styles"].tensors["mean"][:, 0], torch.tensor([0.1, 0.5]))
    assert torch.allclose(fused["styles"].tensors["std"][:, 2], torch.tensor([0.01, 0.05]))
    assert torch.allclose(fused["weights"].tensors["w"], torch.tensor([0.4]))
    fused = strategy.fuse(Uploads([upload(0, 10, 0.2), upload(3, 10, 0.9)])).shared
    means = fused["styles"].tensors["mean"][:, 0]
    assert torch.allclose(means, torch.tensor([0.2, 0.5, 0.9])), "those of absent clients stay"


@pytest.mark.parametrize(("options", "k"), [({}, 1), ({"styles": "single", "images": 3}, 3)])
def test_bytes_are_those_of_the_docstring(world, with_options, options, k) -> None:
    run = world()
    run.start(with_options(CCST(local_epochs=1, **options)), 3)
    assert [r.traffic.up for r in run.reports] == [N * (4 * P + 8 * k)] * 3
    later = N * (4 * P + 8 * N * k)
    assert [r.traffic.down_broadcast for r in run.reports] == [N * 8 * P, later, later]


def arrays_of(world, strategy, rounds: int) -> dict[str, np.ndarray]:
    return {n: a.numpy() for n, a in world().start(strategy, rounds).arrays.items()}


def test_probability_0_is_fedavg_to_the_bit(world, with_options) -> None:
    one = arrays_of(world, with_options(CCST(probability=0, local_epochs=1)), 3)
    two = arrays_of(world, with_options(FedAvg(local_epochs=1)), 3)
    assert all(np.array_equal(one[n], two[n]) for n in two)


def test_styles_are_used_from_the_second_round_on(world, with_options) -> None:
    for rounds, same in ((1, True), (2, False)):
        one = arrays_of(world, with_options(CCST(local_epochs=1)), rounds)
        two = arrays_of(world, with_options(FedAvg(local_epochs=1)), rounds)
        assert all(np.array_equal(one[n], two[n]) for n in two) is same


def test_clients_styles_reach_the_bank(world, with_options) -> None:
    class Keeping(CCST):
        def fuse(self, uploads: Uploads):
            self.bank = super().fuse(uploads)
            return self.bank

    strategy, run = Keeping(local_epochs=1), world()
    run.start(with_options(strategy), 1)
    told = strategy.bank.shared["styles"].tensors
    for client in range(N):
        x = run.population.client(client).data.train.x
        mean, std = styles_of(x.transpose(0, 1).flatten(1)[None])
        assert torch.equal(told["mean"][client], mean[0])
        assert torch.equal(told["std"][client], std[0])


def test_feature_vectors_are_refused_before_the_first_round(world, with_options) -> None:
    def flat(client: Client, heard: int) -> Client:
        def flattened(samples: Samples) -> Samples:
            return replace(samples, x=samples.x.flatten(1))

        data = client.data
        train, test = flattened(data.train), flattened(data.test)
        return replace(client, data=replace(data, train=train, test=test, input_shape=(64,)))

    run = world(adapt=flat)
    with pytest.raises(ConfigError, match=r"ccst cannot run on client 0: .* have shape \[64\]"):
        run.start(with_options(CCST()), 1)


def test_images_of_two_shapes_are_refused(world, with_options) -> None:
    def odd(client: Client, heard: int) -> Client:
        shape = (3, 8, 8) if client.id == 2 else (1, 8, 8)
        return replace(client, data=replace(client.data, input_shape=shape))

    with pytest.raises(ConfigError, match=r"client 2: input shape is '.3, 8, 8.' where the"):
        world(adapt=odd).start(with_options(CCST()), 1)


def test_a_wrong_number_of_styles_is_dropped(world, with_options) -> None:
    def odd(client: Client, heard: int) -> Client:
        if client.id != 2:
            return client
        wide = client.data.train.x.expand(-1, 3, -1, -1)
        # Its model sees one channel; its styles have three.
        client.learner.train = lambda *a: None
        return replace(client, data=replace(client.data, train=replace(client.data.train, x=wide)))

    run = world(adapt=odd)
    run.start(with_options(CCST(local_epochs=1)), 1)
    assert [f.client for f in run.reports[0].failures] == [2]
    assert "mean has shape [1, 3], not [1, 1]" in run.reports[0].failures[0].reason


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"styles": "vgg"}, "one of overall, single"),
        ({"images": 0}, "at least 1"),
        ({"probability": 2}, r"\[0, 1\]"),
    ],
)
def test_options_are_checked(options, said) -> None:
    with pytest.raises(ConfigError, match=said):
        CCST(**options)

"""Executors keep all of a step on the device of the model, and all else on the CPU.

Not every machine has a GPU. torch's meta device holds no numbers; what is fetched from it is
taken here for zeros (a single number for 1), and an operation that mixes it with the CPU, which
a GPU would refuse, is an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fedkt.adaptation.restyle import Restyle
from fedkt.clients import TorchLearner, TrainingOptions, Work
from fedkt.clients.cohorts import cohort
from fedkt.clients.cohorts.cohort import Row
from fedkt.clients.learners import devices
from fedkt.data import ClientData, Samples
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.objectives import AdjustedCrossEntropy, CrossEntropy, Distil, Proximal
from fedkt.objectives.heads import Head
from fedkt.optimisers import adam, sgd
from fedkt.recipe import Beside, Recipe, Train

pytestmark = pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")

SHAPE, ELSEWHERE = (1, 8, 8), torch.device("meta")
STEPS = {
    "private": Train("private", [AdjustedCrossEntropy(), Proximal(0.1)], epochs=2),
    "public": Train("public", [Distil()], rehearse=[CrossEntropy()]),
    "mixed": Train("private", [CrossEntropy()], mixup=1.0, transforms=[Restyle()]),
    "beside": Train("private", [CrossEntropy()], beside=Beside(batch_size=8)),
}


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of several devices, except those that move or look up."""

    ALLOWED = ("aten::_to_copy", "aten::copy_", "aten::index")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = pytree.tree_leaves((args, kwargs or {}))
        there = {t.device.type for t in given if isinstance(t, Tensor) and t.dim()}
        if len(there) > 1 and func._schema.name not in self.ALLOWED:
            raise RuntimeError(f"{func} mixes the devices {' and '.join(sorted(there))}")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Return a device that is not the CPU, from which only zeros come back."""
    to, cpu = Tensor.to, Tensor.cpu

    def plain(move: Callable[..., None], *given: Any, **options: Any) -> None:
        if "state_steps" in options:
            options["state_steps"] = [torch.zeros(()) for _ in options["state_steps"]]
        move(*given, **{**options, "fused": False})

    def fetched(tensor: Tensor, dtype: Any = None) -> Tensor:
        return torch.zeros(tensor.shape, dtype=dtype or tensor.dtype)

    def moved(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if tensor.is_meta and args[:1] in (("cpu",), (devices.CPU,)):
            return fetched(tensor, next((a for a in args[1:] if isinstance(a, torch.dtype)), None))
        return to(tensor, *args, **kwargs)

    monkeypatch.setattr(Tensor, "to", moved)
    monkeypatch.setattr(Tensor, "cpu", lambda t: fetched(t) if t.is_meta else cpu(t))
    monkeypatch.setattr(Tensor, "__float__", lambda t: 1.0 if t.is_meta else t.item())
    monkeypatch.setattr(sgd, "sgd", partial(plain, sgd.sgd))  # no fused kernels there
    monkeypatch.setattr(adam, "adam", partial(plain, adam.adam))
    with OneDevice():
        yield ELSEWHERE


def build() -> nn.Module:
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    return nn.Sequential(*layers)


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def works(optimiser: str, count: int = 3) -> list[Work]:
    torch.manual_seed(0)
    options = TrainingOptions(optimiser=optimiser, batch_size=8, public_batch_size=16)
    public = Samples(torch.randn(30, *SHAPE), None, torch.arange(30))
    bank = {"mean": torch.rand(4, 1), "std": torch.rand(4, 1)}
    found = []
    for k in range(count):
        n = 16 + 8 * k
        train = Samples(torch.randn(n, *SHAPE), torch.randint(10, (n,)), torch.arange(n))
        data = ClientData(train, train, train, public, None, 10, SHAPE)
        knowledge = {
            "public": Knowledge.rows("probabilities", torch.rand(30, 10).softmax(-1)),
            "styles": Knowledge("statistics", bank),
        }
        found.append(Work(data, knowledge, options, 0, 1, k, rounds=3))
    return found


def with_weights(work: Work, learner: TorchLearner) -> Work:
    knowledge = {**work.knowledge, "weights": learner.weights()}
    return Work(work.data, knowledge, work.options, 0, 1, work.client, rounds=3)


def places(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(itertools.chain.from_iterable(places(v) for v in value.values()))
    return {value.device.type} if isinstance(value, Tensor) else set()


@pytest.mark.parametrize("step", list(STEPS))
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_the_loop_keeps_a_step_on_one_device(
    elsewhere: torch.device, step: str, optimiser: str
) -> None:
    learner = TorchLearner(build, 10, "net", device=str(elsewhere))
    learner.follow(Recipe(heads=[Head("side", (0, 5))]))
    learner.reset(0, 0)
    for work in works(optimiser):
        own = with_weights(work, learner)
        assert learner.train(STEPS[step], own, "learn/0") == 1.0
        state = learner.state()
        learner.load_state(state)
        assert places(state) == {"cpu"}
        assert places({**learner.weights().tensors}) == {"cpu"}
    assert {p.device for p in learner.model.parameters()} == {elsewhere}
    x = works(optimiser)[0].data.train.x
    assert learner.predict(x).device == devices.CPU
    assert learner.features(x).device == devices.CPU
    learner.adapt_norms(x)


@pytest.mark.parametrize("step", ["private", "public"])
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("net", [build, dense])
def test_a_cohort_keeps_a_step_on_one_device(
    elsewhere: torch.device, step: str, optimiser: str, net: Any
) -> None:
    learner = TorchLearner(net, 10, "net", device=str(elsewhere))
    learner.follow(Recipe())
    learner.reset(0, 0)
    own = [with_weights(work, learner) for work in works(optimiser)]
    rows = [Row(learner.state(), work) for work in own]
    for _ in range(2):
        assert cohort.train(learner, STEPS[step], rows, "learn/0") == [0.0] * 3
    assert {place for row in rows for place in places(row.state)} == {"cpu"}
    x = own[0].data.public.x if own[0].data.public else torch.empty(0)
    answers = cohort.answer(learner, [row.state for row in rows], [x] * 3)
    assert [(a.device, a.shape) for a in answers] == [(devices.CPU, (30, 10))] * 3


def test_mixing_devices_is_noticed(elsewhere: torch.device) -> None:
    """What the tests above rely on."""
    weight = torch.ones(3, 2, device=elsewhere, requires_grad=True)
    with pytest.raises(RuntimeError, match="mixes the devices cpu and meta"):
        torch.func.vmap(lambda w, x: (w * x).sum(), (0, None))(weight, torch.ones(2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there() -> None:
    assert devices.resolve("auto") == "cpu"
    with pytest.raises(ConfigError, match=r"run\.device is cuda and torch finds no GPU here"):
        devices.resolve("cuda")

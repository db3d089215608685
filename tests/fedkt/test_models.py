from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedkt import registry
from fedkt.errors import ConfigError
from fedkt.models import build_model

ANY_SHAPE = ["linear", "mlp", "mlp-wide", "mlp-deep"]
IMAGES = ["cnn", "cnn-wide", "resnet8", "resnet8-bn"]
ESTIMATORS = ["boosting", "forest", "logistic"]
IMAGE_SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64)]

MODELS = """
import torch
from torch import nn

def narrow(input_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))

def flat(input_shape, num_classes):
    return nn.Linear(8, 10)

def pair(input_shape, num_classes):
    class Pair(nn.Module):
        def forward(self, x):
            return {"scores": x}
    return Pair()

def breaks(input_shape, num_classes):
    raise RuntimeError("no\\nway")

def unfit(input_shape, num_classes):
    return nn.Linear(3, 10)

def text(input_shape, num_classes):
    return "model"

class Net(nn.Module):
    def __init__(self, input_shape, num_classes):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm2d(1)
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.head(self.drop(self.norm(x)).flatten(1))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MODELS, encoding="utf-8")
    return path


def parameters(name: str, shape: tuple[int, ...], classes: int) -> int:
    return sum(p.numel() for p in build_model(name, shape, classes).parameters())


def test_the_names() -> None:
    assert set(ANY_SHAPE + IMAGES + ESTIMATORS) <= set(registry.names("models"))


@pytest.mark.parametrize("name", ANY_SHAPE + IMAGES)
@pytest.mark.parametrize("shape", IMAGE_SHAPES)
def test_networks_for_images(name: str, shape: tuple[int, ...]) -> None:
    model = build_model(name, shape, 10)
    logits = model(torch.rand(3, *shape))

    assert isinstance(model, nn.Module)
    assert model.training
    assert logits.shape == (3, 10)
    last = list(model.modules())[-1]
    assert isinstance(last, nn.Linear)
    assert last.out_features == 10


@pytest.mark.parametrize("name", ANY_SHAPE)
def test_networks_for_vectors(name: str) -> None:
    assert build_model(name, (13,), 2)(torch.rand(4, 13)).shape == (4, 2)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("shape", [(13,), (1, 3, 8)])
def test_image_networks_refuse_other_inputs(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' needs images"):
        build_model(name, shape, 10)


def test_sizes() -> None:
    def dense(*widths: int) -> int:
        return sum(a * b + b for a, b in itertools.pairwise(widths))

    assert parameters("linear", (1, 8, 8), 10) == dense(64, 10)
    assert parameters("mlp", (1, 8, 8), 10) == dense(64, 64, 10)
    assert parameters("mlp-wide", (1, 8, 8), 10) == dense(64, 128, 10)
    assert parameters("mlp-deep", (1, 8, 8), 10) == dense(64, 64, 64, 10)
    # 3 x 3 convolutions 1 -> 16 -> 32, then 7 x 7 x 32 inputs to the hidden layer
    convolutions = (9 + 1) * 16 + (9 * 16 + 1) * 32
    assert parameters("cnn", (1, 28, 28), 10) == convolutions + dense(7 * 7 * 32, 64, 10)
    # convolutions without bias: stem, blocks of two, two 1 x 1 shortcuts; 9 norms of 2 each
    weights = 9 * 3 * 16 + 9 * (16 * 16 * 2 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    shortcuts = 16 * 32 + 32 * 64
    norms = 2 * (16 * 3 + 32 * 3 + 64 * 3)
    expected = weights + shortcuts + norms + dense(64, 10)
    assert parameters("resnet8", (3, 32, 32), 10) == expected
    assert parameters("resnet8-bn", (3, 32, 32), 10) == expected


def test_normalisations() -> None:
    kinds = {type(m) for m in build_model("resnet8", (1, 8, 8), 10).modules()}
    assert nn.GroupNorm in kinds
    assert nn.BatchNorm2d not in kinds
    assert nn.BatchNorm2d in {type(m) for m in build_model("resnet8-bn", (1, 8, 8), 10).modules()}


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet8"])
def test_the_caller_seeds(name: str) -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build_model(name, (1, 8, 8), 10).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_networks_run_under_vmap(name: str) -> None:
    models = [build_model(name, (1, 8, 8), 10) for _ in range(3)]
    params, buffers = torch.func.stack_module_state(models)
    x = torch.rand(3, 4, 1, 8, 8)

    def forward(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(models[0], (p, b), (x,))
        return out

    together = torch.vmap(forward)(params, buffers, x)
    apart = torch.stack([m(batch) for m, batch in zip(models, x, strict=True)])
    assert torch.allclose(together, apart, atol=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_learn(name: str) -> None:
    model = build_model(name, (1, 2, 2), 2)
    x = np.random.default_rng(0).normal(size=(80, 4))
    y = (x[:, 0] > 0).astype(int)
    model.set_params(random_state=0)

    assert not isinstance(model, nn.Module)
    assert model.fit(x, y).predict_proba(x).shape == (80, 2)
    assert (model.predict(x) == y).mean() > 0.9


def test_the_forest_has_fifty_trees() -> None:
    assert build_model("forest", (4,), 2).n_estimators == 50


def test_a_model_in_a_file_is_checked_without_traces(file: Path) -> None:
    state = torch.random.get_rng_state()
    model = build_model(f"{file}:Net", (1, 8, 8), 10)
    torch.random.set_rng_state(state)
    again = registry.lookup("models", f"{file}:Net")((1, 8, 8), 10)

    assert model.training
    assert int(model.norm.num_batches_tracked) == 0
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("narrow", "gives outputs of width 7; the data has 10 classes"),
        ("flat", "[2, 1, 8, 10] for 2 samples; float logits [2, 10] are needed"),
        ("pair", "gives a dict with 'scores', not logits (a tensor, .logits, "),
        ("breaks", "cannot be built: RuntimeError: no way"),
        ("unfit", "cannot take samples of shape [1, 8, 8]: RuntimeError"),
    ],
)
def test_models_that_do_not_fit(file: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(f"{file}:{name}", (1, 8, 8), 10)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_model() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'cnn-wide'"):
        build_model("cnn-wid", (1, 8, 8), 10)


def test_pooling_before_the_relu_gives_the_bits_of_pooling_after_it() -> None:
    torch.manual_seed(0)
    quick = build_model("cnn", (1, 12, 12), 10)
    layers = list(quick)
    for place, layer in enumerate(layers[:-1]):
        if isinstance(layer, nn.MaxPool2d):
            layers[place], layers[place + 1] = layers[place + 1], layer
    usual = nn.Sequential(*layers)
    x = torch.randn(40, 1, 12, 12).mul(4).round().div(4)  # with many ties
    answers = []
    for model in (quick, usual):
        model.zero_grad()
        logits = model(x)
        logits.square().sum().backward()
        answers.append([logits.detach(), *(p.grad.clone() for p in model.parameters())])
    assert [type(m) for m in usual[:3]] == [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))

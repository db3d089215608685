"""Models as people have them: what they return, and functions, classes and objects of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from fedkt.errors import ConfigError
from fedkt.models.builder import builder_of
from fedkt.models.outputs import logits_of
from fedkt.rng import global_torch_stream

SHAPE, CLASSES = (5, 4), 3


class Series(nn.Module):
    """An LSTM over [B, T, D] that returns its logits and its state, as many people's do."""

    def __init__(self, wrap: Callable[[Tensor, Any], Any] = lambda logits, state: (logits, state)):
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.head = nn.Linear(6, CLASSES)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        out, state = self.lstm(x)
        return self.wrap(self.head(out[:, -1]), state)


class Lazy(nn.Module):
    """Widths that the first samples give."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.head = (
            nn.LazyLinear(7),
            nn.LazyBatchNorm1d(),
            nn.Linear(7, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x.flatten(1))))


class Plain(nn.Module):
    """A class that needs nothing."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(20, hidden), nn.Linear(hidden, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.flatten(1)).relu())


class Named(Plain):
    """A class that names what it takes, in an order of its own."""

    def __init__(self, num_classes: int = 1000, input_shape: tuple[int, ...] = (3, 32, 32)) -> None:
        super().__init__()
        self.body = nn.Linear(input_shape[0] * input_shape[1], 8)
        self.head = nn.Linear(8, num_classes)


def built(thing: Any, seed: int = 0) -> Any:
    build = builder_of(thing, "mine", SHAPE, CLASSES)
    with global_torch_stream(seed, "model"):
        return build()


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


WRAPS: dict[str, Callable[[Tensor, Any], Any]] = {
    "a tuple": lambda logits, state: (logits, state),
    "a list": lambda logits, state: [logits, state],
    ".logits": lambda logits, state: SimpleNamespace(logits=logits, hidden=state),
    "['logits']": lambda logits, state: {"hidden": state, "logits": logits},
    "a tuple of .logits": lambda logits, state: (SimpleNamespace(logits=logits), state),
}


@pytest.mark.parametrize("how", WRAPS)
def test_outputs_are_unwrapped_and_names_stay(how: str) -> None:
    user = Series(WRAPS[how])
    model = built(lambda shape, classes: Series(WRAPS[how]))
    x = torch.randn(6, *SHAPE)
    model.load_state_dict(user.state_dict())

    assert type(model) is Series
    assert list(model.state_dict()) == list(user.state_dict())
    assert torch.equal(model(x), logits_of(user(x)))
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    called = torch.func.functional_call(model, dict(user.named_parameters()), (x,))
    assert torch.equal(called, model(x))


def test_a_network_with_more_outputs_in_training_gives_logits_there_too() -> None:
    class Auxiliary(Plain):
        def forward(self, x: Tensor) -> Any:
            logits = super().forward(x)
            return (logits, 0 * logits) if self.training else logits

    assert isinstance(built(Auxiliary).train()(torch.randn(4, *SHAPE)), Tensor)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"scores": torch.zeros(2, 3)}, "a dict with 'scores'"),
        ((), "a tuple"),
        (None, "a NoneType"),
        (({},), "a dict with nothing"),
    ],
)
def test_outputs_without_logits(outputs: object, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{words}, not logits"):
        logits_of(outputs)


@pytest.mark.parametrize(
    "make",
    [
        Plain,
        Named,
        lambda: Plain(),
        lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(20, classes)),
        lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(20, num_classes)),
        partial(Named, num_classes=7),
        partial(lambda width, s, c: nn.Sequential(nn.Flatten(), nn.Linear(20, c)), 5),
    ],
)
def test_functions_and_classes_get_what_they_ask_for(make: Any) -> None:
    assert same(built(make), built(make))
    assert not same(built(make), built(make, seed=1)), "the caller seeds the weights"
    assert built(make)(torch.randn(4, 5, 4)).shape == (4, CLASSES)


def test_of_an_object_every_model_is_a_copy_with_its_weights() -> None:
    pretrained = Plain()
    before = copy.deepcopy(pretrained)
    first, second = built(pretrained), built(pretrained, seed=1)
    with torch.no_grad():
        first.head.weight.zero_()

    assert first is not pretrained
    assert same(second, before)
    assert same(pretrained, before)


def test_an_object_whose_copy_is_no_model_of_the_data_is_one_line() -> None:
    with pytest.raises(ConfigError, match="gives outputs of width 9; the data has 3 classes"):
        built(nn.Sequential(nn.Flatten(), nn.Linear(20, 9)))


def test_lazy_layers_get_their_widths_from_the_data_and_their_weights_from_the_seed() -> None:
    model, same_seed, other = built(Lazy), built(Lazy), built(Lazy, seed=1)

    assert model.body.weight.shape == (7, 20)
    assert type(model.body) is nn.Linear
    assert int(model.norm.num_batches_tracked) == 0
    assert same(model, same_seed)
    assert not same(model, other)
    assert built(Lazy()).body.weight.shape == (7, 20), "an object with lazy layers too"


def test_a_model_of_integers_is_built() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(11, 6), nn.LazyLinear(CLASSES)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.words(ids).mean(1))

    build = builder_of(Words, "words", (9,), CLASSES)
    assert build()(torch.randint(0, 11, (2, 9))).shape == (2, CLASSES)


@pytest.mark.parametrize("thing", [LogisticRegression(C=3.0), partial(LogisticRegression, C=3.0)])
def test_an_estimator_is_cloned(thing: Any) -> None:
    if isinstance(thing, LogisticRegression):
        thing.fit([[0.0], [1.0]], [0, 1])
    model = built(thing)

    assert model is not thing
    assert model.C == 3.0
    assert not hasattr(model, "classes_")


def test_a_class_of_estimators_is_called_without_arguments() -> None:
    assert isinstance(built(RandomForestClassifier), RandomForestClassifier)

"""Every option of every part says what it allows, and refuses all else from Python too."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from fedkt import registry
from fedkt.clients import TrainingOptions
from fedkt.data import FederationSpec
from fedkt.errors import ConfigError
from fedkt.objectives import KL, CrossEntropy
from fedkt.objectives.heads import Head
from fedkt.options import Count, Fraction, Positive, checked, given_options
from fedkt.readouts import Raw
from fedkt.recipe import (
    Beside,
    Load,
    Predict,
    Recipe,
    Styles,
    Train,
    Validation,
    Weighted,
    Weights,
)
from fedkt.schedules import Schedule
from fedkt.strategies import KnowledgeStrategy, ServerOptions
from fedkt.strategies.weights.fedbn import FedBN
from fedkt.strategies.weights.fedprox import FedProx

if TYPE_CHECKING:
    from pathlib import Path as Unknown

OTHERS = (Beside, FederationSpec, Head, Load, Predict, Recipe, ServerOptions, Styles, Train,
          TrainingOptions, Validation, Weighted, Weights)  # fmt: skip
# What must be given to make one; fields without a default are found here by their name.
NEEDED = {"on": "private", "terms": [CrossEntropy()], "term": CrossEntropy(), "factor": 1.0,
          "name": "own", "layers": (2,)}  # fmt: skip
NAMED = {"readout": Raw()}  # what a recipe keeps where a name is given
# Numbers without bounds: what their docstring says of those below 0.
NEGATIVE = {("Weighted", "factor"): "below 0 the term is maximised"}
NUMBERS = (math.nan, math.inf, -math.inf, -3, -3.0, True, "three", None, [1], np.float32(0.5), 1j)


def parts() -> Iterator[Any]:
    for kind in ("strategies", "objectives", "transforms", "trust-rules"):
        for name in registry.names(kind):
            part = registry.lookup(kind, name)
            if part.__module__.startswith("fedkt."):  # not those that other tests register
                yield part
    yield from OTHERS


PARTS = {f"{part.__module__.split('.')[1]}.{part.__name__}": part for part in parts()}


def hints_of(part: Any) -> dict[str, Any]:
    of = part if dataclasses.is_dataclass(part) else part.__init__
    options = inspect.signature(part).parameters
    return {n: h for n, h in get_type_hints(of, include_extras=True).items() if n in options}


def base(part: Any) -> dict[str, Any]:
    """Return the options without which there is no part."""
    options = inspect.signature(part).parameters.values()
    return {p.name: NEEDED[p.name] for p in options if p.default is p.empty}


def unpacked(hint: Any) -> tuple[Any, bool, bool]:
    """Return a hint without ``None``, schedules and tuple; whether it had None and tuple."""
    arms = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    optional = type(None) in arms
    plain = [a for a in arms if a not in (type(None), Schedule)]
    hint = plain[0] if len(plain) == 1 else hint
    several = get_origin(hint) is tuple
    return (get_args(hint)[0] if several else hint), optional, several


def numeric(part: Any) -> Iterator[tuple[str, Any, bool, bool]]:
    for option, hint in hints_of(part).items():
        plain, optional, several = unpacked(hint)
        kind = get_args(plain)[0] if get_origin(plain) is Annotated else plain
        if kind in (int, float):
            yield option, kind, optional, several


NUMERIC = {
    f"{name}.{option}": (part, option, *more)
    for name, part in PARTS.items()
    for option, *more in numeric(part)
}


def refused(part: Any, option: str, value: Any) -> str | None:
    try:
        part(**{**base(part), option: value})
    except ConfigError as error:
        return str(error)
    return None


def test_the_parts_are_there() -> None:
    assert len(PARTS) > 45
    assert len(NUMERIC) > 110
    assert len(OTHER) > 60
    assert {"strategies.FedProx.mu", "objectives.KL.temperature"} <= set(NUMERIC)
    assert {"adaptation.Restyle.source", "recipe.Recipe.world"} <= set(OTHER)


@pytest.mark.parametrize(
    ("part", "option", "kind", "optional", "several"), NUMERIC.values(), ids=NUMERIC
)
def test_numbers_are_finite_whole_and_within_bounds(
    part: Any, option: str, kind: type, optional: bool, several: bool
) -> None:
    for value in (*NUMBERS, *([1.5, 1.0] if kind is int else [])):
        if value is None and optional:
            continue
        given = [value] if several else value
        line = refused(part, option, given)
        if (part.__name__, option) in NEGATIVE and value == -3:
            assert line is None
            continue
        assert line is not None, f"{part.__name__}({option}={given!r}) is accepted"
        assert "\n" not in line
        assert option in line
        assert repr(given) in line
        of_class = hasattr(part, "part") and "name" not in hints_of(part)
        name = (of_class and vars(part).get("name")) or part.__name__
        assert line.startswith(f"{name}: ")


def test_numbers_declare_their_bounds() -> None:
    """A plain number is allowed where the docstring says what a negative one means."""
    unbounded = {
        (part.__name__, option): " ".join(part.__doc__.split())
        for part, option, *_ in NUMERIC.values()
        if unpacked(hints_of(part)[option])[0] in (int, float)
    }
    assert unbounded.keys() == NEGATIVE.keys()
    for which, docstring in unbounded.items():
        assert NEGATIVE[which] in docstring


def wrong_for(hint: Any) -> tuple[Any, ...]:
    """Return values that a hint of text, a switch or a choice does not allow."""
    if hint is bool:
        return (1, 0, "yes", None, math.nan)
    if hint is str:
        return (1, None, ["a"])
    return ("nonsense", 0, math.nan, ["a"]) if "Literal" in str(hint) else ()


OTHER = {
    f"{name}.{option}": (part, option, wrong_for(hint))
    for name, part in PARTS.items()
    for option, hint in hints_of(part).items()
    if wrong_for(hint)
}


@pytest.mark.parametrize(("part", "option", "wrong"), OTHER.values(), ids=OTHER)
def test_text_switches_and_choices(part: Any, option: str, wrong: tuple[Any, ...]) -> None:
    for value in wrong:
        line = refused(part, option, value)
        assert line is not None, f"{part.__name__}({option}={value!r}) is accepted"
        assert option in line
        assert repr(value) in line


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_defaults_are_allowed(part: Any) -> None:
    defaults = {
        p.name: p.default
        for p in inspect.signature(part).parameters.values()
        if isinstance(p.default, int | float | str)
    }
    made = part(**{**base(part), **defaults})
    assert isinstance(made, part)
    for option, value in defaults.items():
        assert getattr(made, option) in (value, NAMED.get(option))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda: FedProx(mu=math.nan),
            "fedprox: mu must be a finite number of at least 0, not nan.",
        ),
        (
            lambda: FedProx(local_epochs=-3),
            "fedprox: local_epochs must be a whole number of at least 0, not -3.",
        ),
        (
            lambda: KL(math.nan),
            "kl: temperature must be a finite number above 0, or a schedule of such values, "
            "not nan.",
        ),
        (
            lambda: TrainingOptions(momentum=1.0),
            "TrainingOptions: momentum must be a finite number in [0, 1), not 1.0.",
        ),
        (
            lambda: Predict(form="logit"),
            "Predict: form must be one of logits, probabilities, labels, not 'logit'. "
            "Did you mean 'logits'?",
        ),
        (
            lambda: Head("a", (3, -2)),
            "Head: layers must be a sequence, each a whole number of at least -1, not (3, -2).",
        ),
        (
            lambda: Train("private", [CrossEntropy()], batch_size=0),
            "Train: batch_size must be a whole number of at least 1 or None, not 0.",
        ),
    ],
)
def test_the_line_names_the_thing_the_value_and_what_is_allowed(make: Any, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == line


def test_what_others_write_is_checked_without_a_word_of_theirs() -> None:
    class Mine(FedProx):
        name = "my-own"

        def __init__(self, share: Fraction = 0.5, plain: float = -1.0, mu: float = 2.0) -> None:
            super().__init__(mu)
            self.share, self.plain = share, plain

    class Child(Mine):
        """Inherits all its options."""

    assert Mine(0.25, plain=-3).plain == -3
    assert inspect.signature(Mine).parameters["share"].default == 0.5
    for option, value in (("share", 2), ("plain", math.inf), ("mu", -1)):
        with pytest.raises(ConfigError, match=rf"my-own: {option} must be .*, not {value}\."):
            Mine(**{option: value})
        with pytest.raises(ConfigError, match=rf"Child: {option} must be"):
            Child(**{option: value})
    with pytest.raises(TypeError, match="unexpected"):
        Mine(shares=1)

    @registry.register
    @dataclasses.dataclass(frozen=True)
    class Sharper(KL):
        power: Positive = 1.0
        name = "sharper-here"

    for options in ({"power": 0.0}, {"temperature": math.nan}):
        with pytest.raises(ConfigError, match="sharper-here: "):
            Sharper(**options)
    assert dataclasses.replace(Sharper(), power=2).power == 2
    with pytest.raises(ConfigError, match="sharper-here: power"):
        dataclasses.replace(Sharper(), power=-2)


def test_hints_that_say_nothing_about_values_let_all_pass() -> None:
    @checked
    class Loose:
        def __init__(self, a, b: Any, c: Unknown, d: int | str, e: Count = None) -> None:
            self.e = e

    assert Loose(1, math.nan, math.nan, math.nan).e is None


def test_inherited_options_of_a_file_have_their_types() -> None:
    with pytest.raises(ConfigError, match=r"^strategy\.local_epochs = 1\.5 \(fedbn\): must be"):
        given_options("strategy", "fedbn", {"local_epochs": 1.5}, FedBN)


def test_a_strategy_without_options_can_be_made() -> None:
    class Plain(KnowledgeStrategy):
        def recipe(self) -> Recipe:
            return Recipe()

    assert Plain().title == "plain"

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from fedkt import registry
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.objectives import KL, MAE, MSE, Batch, CrossEntropy, Distil, Outputs, Proximal
from fedkt.recipe import (
    Gate,
    Load,
    Predict,
    Prior,
    Raw,
    Recipe,
    Remember,
    Train,
    Weighted,
    Weights,
    weighted,
)

OWN = Predict(on="private", name="own")
PRIVATE = Train(on="private", terms=[CrossEntropy()], epochs=2)


@pytest.fixture
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test register terms that are forgotten afterwards."""
    registry.names("objectives")
    known = {part: dict(of) for part, of in registry._known.items()}
    monkeypatch.setattr(registry, "_known", known)


# --- JSON ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(learn=[PRIVATE]),
        Recipe(learn=[PRIVATE], share=[Predict(form="logits", samples=7)]),
        Recipe(share=[Predict(form="labels", name="votes")]),
        Recipe(absorb=[PRIVATE], readout="gate"),
        Recipe(
            learn=[Load(), Train("private", [CrossEntropy(), Proximal(0.3)], 4, batch_size=5)],
            share=[Weights()],
            absorb=[Load("weights")],
        ),
        Recipe(
            start=[Train("public", [CrossEntropy()])],
            share=[Predict(temperature=2.5)],
            absorb=[
                Train("public", [Weighted(0.25, Distil(KL(4.0))), CrossEntropy()]),
                Train("public", [Distil(MSE()), Weighted(2.0, Distil(MAE()))], epochs=0),
            ],
        ),
        Recipe(share=[Predict()], absorb=[Train("public", [Distil()], mixup=2.0)]),
        Recipe(share=[Weights("w"), Predict()], learn=[Train("private", [Proximal(1, "w")])]),
    ],
)
def test_json_round_trip(recipe: Recipe) -> None:
    text = recipe.to_json()
    again = Recipe.from_json(text)
    assert again == recipe
    assert again.to_json() == text
    json.loads(text)


def test_nested_divergences_keep_their_type_and_parameters() -> None:
    recipe = Recipe(share=[Predict()], absorb=[Train("public", [Weighted(0.5, Distil(KL(3.0)))])])
    ((factor, term),) = weighted(Recipe.from_json(recipe.to_json()).absorb[0].terms)
    assert factor == 0.5
    assert isinstance(term, Distil)
    assert isinstance(term.divergence, KL)
    assert term.divergence.temperature == 3.0


def test_a_term_that_is_not_registered_here() -> None:
    text = Recipe(learn=[PRIVATE]).to_json().replace("cross-entropy", "cross-entropi")
    with pytest.raises(ConfigError, match="Did you mean 'cross-entropy'"):
        Recipe.from_json(text)


@dataclass(frozen=True)
class Ridge:
    """A user's own term."""

    strength: float = 1.0
    names: tuple[str, ...] = ()
    part: ClassVar[str] = "objectives"

    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> torch.Tensor:
        return self.strength * outputs.logits.square().mean()


@dataclass(frozen=True)
class Holder:
    """A term that holds what does not travel."""

    what: Any = field(default_factory=dict)
    part: ClassVar[str] = "objectives"

    def needs(self) -> tuple[str, ...]:
        return ()


@pytest.mark.usefixtures("clean_registry")
def test_a_users_term_travels() -> None:
    registry.register(Ridge)
    recipe = Recipe(learn=[Train("private", [Ridge(2.0, ("a", "b"))])])
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.usefixtures("clean_registry")
def test_a_term_registered_under_another_name_travels() -> None:
    registry.register(part="objectives", name="l2")(Ridge)
    recipe = Recipe(learn=[Train("private", [Ridge(2.0)])])
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize("what", [{}, torch.zeros(1), lambda: 0, b"x"])
def test_recipes_hold_plain_data_only(what: Any) -> None:
    with pytest.raises(ConfigError, match="numbers, strings and terms only"):
        Recipe(learn=[Train("private", [Holder(what)])]).to_json()


# --- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Train(on="test", terms=[CrossEntropy()]), "one of private, public, not 'test'"),
        (lambda: Train(on="private", terms=[CrossEntropy()], epochs=-1), "not -1"),
        (lambda: Train(on="private", terms=[]), "at least one term"),
        (lambda: Train("public", [Distil()], mixup=-0.5), "mixup must be .* at least 0.*-0.5"),
        (lambda: Train("public", [Distil()], mixup=float("nan")), "mixup must be .* at least 0"),
        (lambda: Predict(on="test"), "on must be one of public, private, not 'test'"),
        (lambda: Predict(on="private", samples=3), "samples and partial are for public data"),
        (lambda: Recipe(share=[Predict(on="private")]), "'public' is of private samples, which Re"),
        (
            lambda: Recipe(learn=[Remember(Predict())], share=[Predict()]),
            "one name: public, public",
        ),
        (
            lambda: Recipe(learn=[Remember(OWN), Train("public", [Distil(source="own")])]),
            "step on public data reads 'own', whose rows are private samples",
        ),
        (
            lambda: Recipe(learn=[Remember(OWN), Train("private", [Distil(source="on")])]),
            "reads knowledge 'on' but shares none and keeps own",
        ),
        (lambda: Remember("public"), "Remember holds a share such as Weights.., not 'public'"),
        (lambda: Predict(form="ranks"), "not 'ranks'"),
        (lambda: Predict(temperature=0), "temperature must be .* above 0"),
        (lambda: Predict(samples=-1), "samples must be .* at least 0"),
        (lambda: Recipe(share=[Predict(), Predict(form="logits")]), "one name: public, public"),
        (lambda: Recipe(absorb=[Train("public", [Distil()])]), "reads knowledge 'public'.*none"),
        (lambda: Recipe(learn=[Load()], share=[Predict()]), "'weights' but shares public"),
        (lambda: Recipe(start=[Load("w")]), "reads knowledge 'w'"),
        (lambda: KL(0), "above 0"),
        (lambda: KL(-1.0), "above 0"),
    ],
)
def test_what_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# --- questions -----------------------------------------------------------------------------


def test_needs_are_listed_once_in_order() -> None:
    step = Train("private", [Distil(source="b"), CrossEntropy(), Weighted(2, Distil(source="a"))])
    assert step.needs() == ("b", "a")
    recipe = Recipe(
        learn=[Load("w"), step, Train("private", [Proximal(source="w")])],
        share=[Weights("w"), Predict(name="a"), Predict(name="b")],
    )
    assert recipe.needs("learn") == ("w", "b", "a")
    assert recipe.needs("absorb") == ()
    assert recipe.needs("start") == ()


@pytest.mark.parametrize(
    "step", [{"on": "public", "pace": "public"}, {"on": "private", "pace": "x"}]
)
def test_only_private_steps_keep_the_public_pace(step) -> None:
    with pytest.raises(ConfigError, match="pace"):
        Train(terms=[CrossEntropy()], **step)


@pytest.mark.parametrize(
    ("recipe", "public", "one"),
    [
        (Recipe(learn=[PRIVATE]), False, False),
        (Recipe(share=[Predict()]), True, False),
        (Recipe(start=[Train("public", [CrossEntropy()])]), True, False),
        (Recipe(share=[Weights()]), False, True),
        (Recipe(learn=[Load()], share=[Weights(), Predict()]), True, True),
    ],
)
def test_what_a_recipe_asks_of_the_federation(recipe: Recipe, public: bool, one: bool) -> None:
    assert recipe.needs_public is public
    assert recipe.needs_one_architecture is one


def test_what_start_alone_reads_is_sent_once() -> None:
    recipe = Recipe(
        start=[Load("base"), Load("part")],
        learn=[Load("part")],
        share=[Weights("part")],
        given=["base"],
    )
    assert recipe.once == {"base"}
    assert not Recipe(start=[PRIVATE], learn=[Load()], share=[Weights()]).once


def test_weighted_terms() -> None:
    step = Train("private", [CrossEntropy(), Weighted(0.5, Proximal())])
    assert weighted(step.terms) == [(1.0, CrossEntropy()), (0.5, Proximal())]


def test_steps_are_values() -> None:
    assert Train("private", [CrossEntropy()]) == Train("private", (CrossEntropy(),))
    assert hash(Recipe(learn=[PRIVATE])) == hash(Recipe(learn=[PRIVATE]))


# --- read-outs -----------------------------------------------------------------------------


def test_a_read_out_is_named_or_made() -> None:
    assert Recipe(readout="gate").readout == Recipe(readout=Gate()).readout == Gate()
    assert Recipe().personal == Raw()
    recipe = Recipe(absorb=[PRIVATE], readout=Prior())
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_a_read_out_brings_its_shares_once() -> None:
    recipe = Recipe(share=[Predict()], absorb=[PRIVATE], readout="gate")
    assert [share.name for share in recipe.share] == ["public", "gate"]
    assert recipe.needs("absorb") == ("gate",)
    assert recipe.needs("learn") == ()
    assert not recipe.needs_one_architecture
    again = Recipe.from_json(recipe.to_json())
    assert again == replace(recipe) == recipe


def test_a_read_out_that_waits_for_knowledge_is_an_absorb_phase() -> None:
    assert Recipe(readout="gate").absorbs
    assert Recipe(absorb=[PRIVATE]).absorbs
    assert not Recipe(readout="prior").absorbs


def test_another_share_of_its_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="one name: gate, gate"):
        Recipe(share=[Predict(name="gate")], readout="gate")


@pytest.mark.parametrize(
    ("readout", "words"),
    [("loud", "read-out 'loud'"), ("prior(x=1)", "'x'"), (3, "no read-out"), (Raw, "no read-out")],
)
def test_unknown_read_outs_are_named(readout: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Recipe(readout=readout)


@pytest.mark.parametrize(
    ("readout", "words"),
    [
        *((name, "names no read-out") for name in ("raw", "evil.py:ReadOut", None)),
        ({"@readouts": "evil.py:R"}, r"Unknown read-out .*evil\.py:R"),
    ],
)
def test_a_recipe_that_arrives_names_no_file_to_execute(
    tmp_path: Path, readout: Any, words: str
) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "evil.py").write_text(f"open({str(trace)!r}, 'w')", encoding="utf-8")
    fields = {**json.loads(Recipe().to_json()), "readout": readout}
    text = json.dumps(fields).replace("evil.py", str(tmp_path / "evil.py"))
    with pytest.raises(ConfigError, match=words):
        Recipe.from_json(text)
    assert not trace.exists()

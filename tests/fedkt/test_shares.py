"""The share steps of statistics: plain data, checked."""

from __future__ import annotations

import pytest

from fedkt.adaptation.restyle import Restyle
from fedkt.errors import ConfigError
from fedkt.objectives import CrossEntropy
from fedkt.recipe import Load, Recipe, Styles, Train, Validation, Weights

LEARN = [Load(), Train("private", [CrossEntropy()])]


def test_they_travel() -> None:
    recipe = Recipe(learn=LEARN, share=[Weights(), Styles("single", 3), Validation()])
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe
    assert [share.kind for share in again.share] == ["weights", "statistics", "statistics"]


def test_a_recipe_may_read_the_styles_it_shares() -> None:
    train = Train("private", [CrossEntropy()], transforms=[Restyle()])
    recipe = Recipe(learn=[train], share=[Styles()])
    assert recipe.needs("learn") == ("styles",)
    assert [share.name for share in recipe.share] == ["styles"]
    assert not recipe.needs_one_architecture
    with pytest.raises(ConfigError, match="reads knowledge 'styles'"):
        Recipe(learn=[train])


def test_how_many_styles() -> None:
    assert Styles().count == 1
    assert Styles("single", 7).count == 7


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Styles("mean"), "one of overall, single, not 'mean'"),
        (lambda: Styles("single", 0), "at least 1, not 0"),
        (lambda: Recipe(share=[Validation()]), "reads knowledge 'weights'"),
    ],
)
def test_what_cannot_be(make, said) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_what_a_share_reads_is_sent_before_it_shares() -> None:
    assert Recipe(share=[Weights(), Validation()]).needs("learn") == ("weights",)

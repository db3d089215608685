from __future__ import annotations

import statistics

import pytest

from fedkt.evaluation.transfer import group_effect, negative_transfer, over_clients, transfer


def test_over_clients() -> None:
    figure = over_clients([0.5, 0.7, 0.9])
    assert figure["mean"] == pytest.approx(0.7)
    assert figure["std"] == pytest.approx(statistics.pstdev([0.5, 0.7, 0.9]))
    assert figure["per_client"] == [0.5, 0.7, 0.9]


def test_clients_without_a_figure_are_left_out_of_the_mean_only() -> None:
    figure = over_clients([None, 0.4, None, 0.8])
    assert figure["mean"] == pytest.approx(0.6)
    assert figure["std"] == pytest.approx(0.2)
    assert figure["per_client"] == [None, 0.4, None, 0.8]


@pytest.mark.parametrize("values", [[], [None], [None, None]])
def test_no_figure_at_all(values: list[None]) -> None:
    assert over_clients(values) == {"mean": None, "std": None, "per_client": values}


def test_zero_is_a_figure() -> None:
    assert over_clients([0.0, None]) == {"mean": 0.0, "std": 0.0, "per_client": [0.0, None]}


def test_one_client_has_no_spread() -> None:
    assert over_clients([0.3])["std"] == 0.0


def test_negative_transfer_by_hand() -> None:
    # worse by .2 and .1, equal, better: 2 of 4, mean loss .15
    rate, loss = negative_transfer([0.5, 0.6, 0.7, 0.9], [0.7, 0.7, 0.7, 0.8])
    assert rate == pytest.approx(0.5)
    assert loss == pytest.approx(0.15)


def test_nobody_is_worse_off() -> None:
    assert negative_transfer([0.5, 0.6], [0.5, 0.1]) == (0.0, 0.0)


def test_only_clients_with_both_figures_count() -> None:
    rate, loss = negative_transfer([None, 0.0, 0.2, 0.9], [0.9, 0.5, None, 0.1])
    assert rate == pytest.approx(0.5)
    assert loss == pytest.approx(0.5)


@pytest.mark.parametrize(("a", "b"), [([], []), ([None], [0.5]), ([0.5], [None])])
def test_nothing_to_compare(a: list[float | None], b: list[float | None]) -> None:
    assert negative_transfer(a, b) == (None, None)


def test_the_same_clients_are_needed() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        negative_transfer([0.1], [0.1, 0.2])


def test_transfer_is_the_difference_of_each_client() -> None:
    gained = transfer([0.5, None, 0.75, 0.5], [0.25, 0.5, None, 0.75])
    assert gained == [0.25, None, None, -0.25]


@pytest.mark.parametrize("clients", [1, 3, 7, 10, 49])
@pytest.mark.parametrize("accuracy", [0.1, 1 / 3, 0.7, 0.0])
def test_group_effect_of_equal_models_is_exactly_nil(clients: int, accuracy: float) -> None:
    assert group_effect([accuracy] * clients, accuracy) == 0.0
    assert group_effect([accuracy] * clients, [accuracy] * clients) == 0.0


def test_group_effect_is_positive_where_fusing_destroys() -> None:
    assert group_effect([0.6, 0.8], 0.5) == pytest.approx(0.2)
    assert group_effect([0.6, 0.8], 0.9) == pytest.approx(-0.2)
    assert group_effect([0.6, 0.8], [0.5, 0.8]) == pytest.approx(0.05)


def test_group_effect_is_over_the_clients_that_have_both() -> None:
    assert group_effect([0.6, None, 0.9], [0.5, 0.1, None]) == pytest.approx(0.1)
    assert group_effect([0.6, None, 0.8], 0.5) == pytest.approx(0.2)
    for learnt, fused in (([], 0.5), ([None], 0.5), ([0.5], None), ([0.5], [None])):
        assert group_effect(learnt, fused) is None

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt.evaluation.leakage import histogram_leakage, mean_prediction
from fedkt.knowledge import Knowledge

COUNTS = [[8, 2, 0, 0], [1, 1, 1, 1], [0, 0, 5, 15]]
IDS = torch.arange(3)


def shares(client: int) -> torch.Tensor:
    counts = torch.tensor(COUNTS[client], dtype=torch.float64)
    return counts / counts.sum()


def test_who_uploads_its_histogram_gives_it_away_wholly() -> None:
    found = histogram_leakage({c: shares(c) for c in range(3)}, COUNTS)
    assert found is not None
    assert found["total_variation"]["per_client"] == pytest.approx([0, 0, 0])
    correlations = found["correlation"]["per_client"]
    assert correlations[0] == pytest.approx(1)
    assert correlations[1] is None, "a constant histogram correlates with nothing"
    assert found["correlation"]["mean"] == pytest.approx(1)


def test_a_uniform_upload_is_as_far_as_the_uniform_guess() -> None:
    uniform = torch.full((4,), 0.25)
    found = histogram_leakage({0: uniform, 2: uniform}, COUNTS)
    assert found is not None
    assert found["total_variation"]["mean"] == pytest.approx(found["total_variation_uniform"])
    assert found["correlation"]["per_client"] == [None, None, None]
    assert found["total_variation"]["per_client"][1] is None, "client 1 did not answer"


def test_numbers_against_numpy() -> None:
    guess = torch.tensor([0.4, 0.3, 0.2, 0.1])
    found = histogram_leakage({0: guess}, COUNTS)
    assert found is not None
    truth = np.array([0.8, 0.2, 0, 0])
    assert found["total_variation"]["mean"] == pytest.approx(0.5 * (0.4 + 0.1 + 0.2 + 0.1))
    expected = np.corrcoef(guess.numpy(), truth)[0, 1]
    assert found["correlation"]["mean"] == pytest.approx(expected)
    assert found["total_variation_uniform"] == pytest.approx(0.55)


def test_nobody_answered() -> None:
    assert histogram_leakage({}, COUNTS) is None


def test_all_forms_of_one_answer_agree() -> None:
    labels = torch.tensor([0, 3, 3])
    one_hot = torch.eye(4)[labels]
    forms = [
        Knowledge.rows("labels", labels, IDS),
        Knowledge.rows("probabilities", one_hot, IDS),
        Knowledge.rows("logits", 100 * one_hot, IDS),
    ]
    for form in forms:
        assert torch.allclose(mean_prediction(form, 4), torch.tensor([1, 0, 0, 2]) / 3)


@pytest.mark.parametrize("classes", [2, 7, 10, 100])
def test_rounding_is_no_correlation(classes: int) -> None:
    """Answers that are alike for all classes on average say nothing, whatever their last bits."""
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(classes, generator=generator)
    every_turn = torch.stack([one.roll(i) for i in range(classes)])
    indifferent = torch.randn(300, 1, generator=generator).expand(-1, classes).contiguous()
    counts = [[50, *[3] * (classes - 1)]]
    for logits in (every_turn, indifferent):
        guess = mean_prediction(Knowledge.rows("logits", logits), classes)
        found = histogram_leakage({0: guess}, counts)
        assert found is not None
        assert found["correlation"]["per_client"] == [None]
        assert found["total_variation"]["mean"] == pytest.approx(found["total_variation_uniform"])


def test_a_slight_lean_is_still_seen() -> None:
    lean = torch.tensor([0.25 + 3e-5, 0.25 - 1e-5, 0.25 - 1e-5, 0.25 - 1e-5])
    found = histogram_leakage({0: lean}, [[7, 1, 1, 1]])
    assert found is not None
    assert found["correlation"]["mean"] == pytest.approx(1, abs=1e-3)


def test_who_holds_nothing_has_nothing_to_give_away() -> None:
    guess = torch.tensor([0.7, 0.3])
    found = histogram_leakage({0: guess, 1: guess}, [[0, 0], [7, 3]])
    assert found is not None
    assert found["total_variation"]["per_client"] == [None, pytest.approx(0, abs=1e-7)]
    assert found["total_variation_uniform"] == pytest.approx(0.2)
    assert histogram_leakage({0: guess}, [[0, 0]]) == {
        "correlation": {"mean": None, "std": None, "per_client": [None]},
        "total_variation": {"mean": None, "std": None, "per_client": [None]},
        "total_variation_uniform": None,
    }


def test_classes_may_change_places() -> None:
    guess, order = torch.tensor([0.4, 0.3, 0.2, 0.1]), [2, 0, 3, 1]
    plain = histogram_leakage({0: guess}, COUNTS[:1])
    moved = histogram_leakage({0: guess[order]}, [[COUNTS[0][i] for i in order]])
    assert plain is not None
    assert moved is not None
    for key in ("correlation", "total_variation"):
        assert moved[key]["mean"] == pytest.approx(plain[key]["mean"])

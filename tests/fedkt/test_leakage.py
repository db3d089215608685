from __future__ import annotations

import numpy as np
import pytest
import torch

from fedkt.knowledge import Knowledge
from fedkt.leakage import histogram_leakage, mean_prediction

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

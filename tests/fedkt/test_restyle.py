"""Styles of images: exactly those that are asked for, and only where a coin says so."""

from __future__ import annotations

import pytest
import torch

from fedkt.adaptation.restyle import Restyle, restyled, styles_of
from fedkt.errors import ConfigError, KnowledgeError
from fedkt.knowledge import Knowledge


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 3, 7, 5, generator=torch.Generator().manual_seed(0))


def bank(*styles: tuple[float, float], channels: int = 3) -> dict[str, Knowledge]:
    mean, std = (torch.tensor(v)[:, None].expand(-1, channels) for v in zip(*styles, strict=True))
    return {"styles": Knowledge("statistics", {"mean": mean, "std": std})}


def test_styles_are_means_and_deviations_of_pixels(images) -> None:
    mean, std = styles_of(images)
    assert torch.allclose(mean, images.mean((2, 3)))
    assert torch.allclose(std, images.flatten(2).std(-1, correction=0))


def test_restyled_images_have_the_style(images) -> None:
    wanted = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(1))
    mean, std = styles_of(restyled(images, *wanted))
    assert torch.allclose(mean, wanted[0], atol=1e-5)
    assert torch.allclose(std, wanted[1], atol=1e-5)


def test_the_own_style_changes_nothing(images) -> None:
    assert torch.allclose(restyled(images, *styles_of(images)), images, atol=1e-6)


def test_there_and_back(images) -> None:
    there = restyled(images, torch.full((6, 3), 0.3), torch.full((6, 3), 0.05))
    assert torch.allclose(restyled(there, *styles_of(images)), images, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_an_image_of_one_value_takes_the_mean(value) -> None:
    flat = torch.full((1, 1, 28, 28), value)
    changed = restyled(flat, torch.tensor([[0.4]]), torch.tensor([[0.2]]))
    assert torch.allclose(changed, torch.tensor(0.4), atol=0.01)


def test_a_style_without_contrast(images) -> None:
    changed = Restyle(probability=1)(images, bank((0.25, 0.0)))
    assert torch.allclose(changed, torch.tensor(0.25))


def test_probability_0_leaves_the_bits(images) -> None:
    assert torch.equal(Restyle(probability=0)(images, bank((0.9, 0.9))), images)


def test_some_images_change_and_stay_in_range() -> None:
    x = torch.rand(400, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    changed = Restyle(probability=0.25)(x, bank((0.9, 0.5), (0.1, 0.5), channels=1))
    different = (changed != x).flatten(1).any(1)
    assert 70 < int(different.sum()) < 130
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    bright = changed[different].mean((1, 2, 3)) > 0.5
    assert 0.35 < float(bright.float().mean()) < 0.65, "every style is as likely"


def test_the_global_generator_decides(images) -> None:
    def once(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return Restyle()(images, bank((0.2, 0.1), (0.8, 0.1)))

    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))


@pytest.mark.parametrize("shape", [(6, 12), (6, 1, 4, 4)])
def test_other_inputs_are_refused(shape) -> None:
    with pytest.raises(KnowledgeError, match="images of 3 channels, not"):
        Restyle()(torch.zeros(shape), bank((0.5, 0.1)))


@pytest.mark.parametrize("probability", [-0.1, 1.5])
def test_probability_is_checked(probability) -> None:
    with pytest.raises(ConfigError, match=r"must be .* in \[0, 1\]"):
        Restyle(probability=probability)

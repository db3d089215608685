"""The softmax of ours is torch's, in values and in gradients."""

from __future__ import annotations

import pytest
import torch

from fedkt.softmax import log_softmax, softmax


@pytest.mark.parametrize("shape", [(7, 10), (7, 15), (7, 16), (7, 100), (3, 7, 10), (10,), (0, 10)])
def test_it_is_torchs(shape: tuple[int, ...]) -> None:
    z = 10 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
    assert torch.allclose(log_softmax(ours), theirs.log_softmax(-1), rtol=0, atol=1e-13)
    assert torch.allclose(softmax(ours), theirs.softmax(-1), rtol=0, atol=1e-13)
    weight = torch.linspace(0, 1, shape[-1], dtype=torch.float64)
    (log_softmax(ours) * weight).sum().backward()
    (theirs.log_softmax(-1) * weight).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, rtol=0, atol=1e-12)


def test_large_logits_do_not_overflow() -> None:
    z = torch.tensor([[1000.0, 0.0, -1000.0]])
    assert softmax(z).tolist() == [[1.0, 0.0, 0.0]]
    assert log_softmax(z).tolist() == [[0.0, -1000.0, -2000.0]]


def test_under_vmap() -> None:
    z = torch.randn(4, 7, 10, dtype=torch.float64)
    assert torch.allclose(torch.func.vmap(log_softmax)(z), z.log_softmax(-1), atol=1e-13)

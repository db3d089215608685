"""The floor: the time that the arithmetic of a round takes at this machine's GEMM rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from workloads import BATCH, CLASSES, Case, model_of

SIZE = 1024  # of the square matrices


def gemm_rate(repeats: int = 20) -> float:
    """Return the best rate of float32 matrix products in one thread, in FLOP per CPU second."""
    torch.set_num_threads(1)
    a, b = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    out, best = torch.empty(SIZE, SIZE), float("inf")
    for _ in range(repeats):
        began = time.process_time()
        torch.mm(a, b, out=out)
        best = min(best, time.process_time() - began)
    return 2 * SIZE**3 / best


def rate_now(seconds: float = 2.0) -> float:
    """Return the mean rate of the same products over some CPU seconds.

    On a machine that is shared the best rate is not to be had all the time: what takes long is
    compared with what products come to right before and after it.
    """
    torch.set_num_threads(1)
    a, b = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    out, count, began = torch.empty(SIZE, SIZE), 0, time.process_time()
    while (spent := time.process_time() - began) < seconds:
        torch.mm(a, b, out=out)
        count += 1
    return 2 * SIZE**3 * count / spent


def flops(case: Case) -> dict[str, float]:
    """Return the FLOPs of a round: training and distillation, answers, fusion, and all."""
    model, shape = model_of(case.kind), case.kind.input_shape
    count = sum(p.numel() for p in model.parameters())
    if count != case.kind.parameters:
        raise RuntimeError(f"{case.workload} has {count} parameters, not {case.kind.parameters}.")
    x, y = torch.randn(BATCH, *shape), torch.randint(0, CLASSES, (BATCH,))
    step = _counted(lambda: torch.autograd.backward(F.cross_entropy(model(x), y)), model)
    forward = _counted(lambda: model(x), model)
    trained = case.clients * (case.private + case.public)
    parts = {
        "training": step / BATCH * trained,
        "answers": forward / BATCH * case.clients * case.public,
        "fusion": 2.0 * case.clients**2 * case.public * CLASSES,
    }
    return {**parts, "all": sum(parts.values())}


def run_floor(case: Case) -> dict[str, Any]:
    """Return the floor of a round in CPU seconds of one core, in all and of the training alone."""
    work, rate = flops(case), gemm_rate()
    return {
        "cpu": work["all"] / rate,
        "training": work["training"] / rate,
        "gflop": {name: value / 1e9 for name, value in work.items()},
        "gemm_gflops": rate / 1e9,
    }


def _counted(act: Callable[[], Any], model: nn.Module) -> float:
    model.zero_grad()
    with FlopCounterMode(display=False) as counter:
        act()
    return float(counter.get_total_flops())

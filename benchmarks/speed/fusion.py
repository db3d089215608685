"""Personalised fusion of many clients: rate and memory.

``python fusion.py CLIENTS SAMPLES CLASSES RESULT.json``
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from floor import rate_now
from meters import MB, forget_peak, own_peak_mb, resident_mb

from fedkt.fusion import personalised_mean
from fedkt.knowledge import Stack
from fedkt.machine import empty

FULL, QUICK = (1000, 10_000, 100), (200, 500, 100)
REPEATS = 3  # after one in which a virtual machine has to find the memory of the result


def run_fusion(clients: int, samples: int, classes: int) -> dict[str, Any]:
    """Fuse the answers of K clients on N samples of C classes for each of the K.

    Returns
    -------
    dict
        Of the repeat with the median ``share``: ``gflops`` of CPU time, ``gemm_gflops`` of
        products right before and after it, and ``share``, their ratio; all ``shares``;
        ``extra_mb`` beyond the input at the peak, ``result_mb`` (the fused answers of all
        clients, float32), and ``work_mb``, which is the first without the second.
    """
    answers = empty((clients, samples, classes), torch.float32).uniform_()  # as uploads are stacked
    weights = torch.rand(clients, clients).softmax(1)
    ids, examples = torch.arange(samples), torch.ones(clients)
    stack = Stack(
        "public", "probabilities", {"values": answers}, ids, tuple(range(clients)), examples
    )
    flops = 2.0 * clients**2 * samples * classes
    rate_now(0.1)  # what the library makes for its first product is not of the fusion
    forget_peak()
    before, found = resident_mb(), []
    for _ in range(1 + REPEATS):
        rates = [rate_now()]
        cpu, wall = _fuse(stack, weights)
        rates.append(rate_now())
        rate = sum(rates) / 2
        found.append(
            {"share": flops / cpu / rate, "cpu": cpu, "wall": wall, "gemm_gflops": rate / 1e9}
        )
    extra, result = own_peak_mb() - before, answers.numel() * 4 / MB
    ordered = sorted(found[1:], key=lambda one: one["share"])
    median = ordered[len(ordered) // 2]
    return {
        "clients": clients,
        "samples": samples,
        "classes": classes,
        **median,
        "gflops": flops / median["cpu"] / 1e9,
        "shares": [one["share"] for one in ordered],
        "extra_mb": extra,
        "result_mb": result,
        "work_mb": max(0.0, extra - result),
    }


def _fuse(stack: Stack, weights: torch.Tensor) -> tuple[float, float]:
    """Return the CPU and wall seconds of a fusion."""
    began, wall = time.process_time(), time.perf_counter()
    fused = personalised_mean(stack, weights)
    for client in stack.clients:  # whoever fuses only when asked does it now
        float(fused.for_client(client)["public"].values[0, 0])
    return time.process_time() - began, time.perf_counter() - wall


def table(found: dict[str, Any]) -> list[list[str]]:
    """Return the rows of a table."""
    size = f"K = {found['clients']:,}, N = {found['samples']:,}, C = {found['classes']}"
    memory = f"{found['extra_mb']:.0f} MB ({found['result_mb']:.0f} MB of it the result)"
    return [
        ["Fusion", "CPU s", "GFLOP/s", "of the GEMM rate", "memory beyond the input"],
        [size, f"{found['cpu']:.2f}", f"{found['gflops']:.1f}", f"{found['share']:.0%}", memory],
    ]


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:4]]
    Path(sys.argv[4]).write_text(json.dumps(run_fusion(*numbers)), encoding="utf-8")

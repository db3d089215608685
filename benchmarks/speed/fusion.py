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
from floor import gemm_rate
from meters import MB, forget_peak, own_peak_mb, resident_mb

from fedkt.fusion import personalised_mean
from fedkt.knowledge import Stack
from fedkt.memory import empty

FULL, QUICK = (1000, 10_000, 100), (200, 500, 100)


def run_fusion(clients: int, samples: int, classes: int) -> dict[str, Any]:
    """Fuse the answers of K clients on N samples of C classes for each of the K.

    Returns
    -------
    dict
        ``gflops`` of CPU time and the machine's ``gemm_gflops``, their ratio ``share``;
        ``extra_mb`` beyond the input at the peak, ``result_mb`` (the fused answers of all
        clients, float32), and ``work_mb``, which is the first without the second.
    """
    rate = gemm_rate()
    answers = empty((clients, samples, classes), torch.float32).uniform_()  # as uploads are stacked
    weights = torch.rand(clients, clients).softmax(1)
    ids, examples = torch.arange(samples), torch.ones(clients)
    stack = Stack(
        "public", "probabilities", {"values": answers}, ids, tuple(range(clients)), examples
    )
    forget_peak()
    before, seconds, elapsed = resident_mb(), float("inf"), float("inf")
    for _ in range(2):  # at first a virtual machine has to find the memory of the result
        began, wall = time.process_time(), time.perf_counter()
        fused = personalised_mean(stack, weights)
        for client in stack.clients:  # whoever fuses only when asked does it now
            float(fused.for_client(client)["public"].values[0, 0])
        seconds = min(seconds, time.process_time() - began)
        elapsed = min(elapsed, time.perf_counter() - wall)
        del fused
    extra, result = own_peak_mb() - before, answers.numel() * 4 / MB
    achieved = 2.0 * clients**2 * samples * classes / seconds
    return {
        "clients": clients,
        "samples": samples,
        "classes": classes,
        "cpu": seconds,
        "wall": elapsed,
        "gflops": achieved / 1e9,
        "gemm_gflops": rate / 1e9,
        "share": achieved / rate,
        "extra_mb": extra,
        "result_mb": result,
        "work_mb": max(0.0, extra - result),
    }


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
    Path(sys.argv[4]).write_text(json.dumps(run_fusion(*numbers)))

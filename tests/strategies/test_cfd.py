"""CFD: a round in NumPy, its limits, and its bytes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fedkt.clients import LearnerModels, TrainingOptions
from fedkt.errors import ConfigError
from fedkt.strategies.answers.cfd import CFD
from fedkt.strategies.answers.fedmd import FedMD

from .by_hand import assert_equal_runs

SGD = {"optimiser": "sgd", "learning_rate": 2.0, "momentum": 0.0, "public_batch_size": 50}


def softmax(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z - z.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def nearest(rows: np.ndarray, bits: int) -> np.ndarray:
    """Return the nearest of all multiples of 1/L that sum to 1, by trying each of them."""
    levels, classes = 2**bits - 1, rows.shape[1]
    bars = itertools.combinations(range(levels + classes - 1), classes - 1)
    ends = np.array([(-1, *bar, levels + classes - 1) for bar in bars])
    points = (np.diff(ends) - 1) / levels
    return points[((rows[:, None] - points) ** 2).sum(-1).argmin(1)]


def weights_of(tensors) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix and the bias of a linear model."""
    by_size = sorted((t.double().numpy() for t in tensors.values()), key=np.size)
    return by_size[1], by_size[0]


def step(model, x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a model after one step down the mean of KL(target ‖ softmax(W x + b))."""
    matrix, bias = model
    slope = (softmax(x @ matrix.T + bias) - target) / len(x)
    return matrix - 2.0 * slope.T @ x, bias - 2.0 * slope.sum(0)


def run_of(world, with_options, rounds=1, **options):
    """Run a method without private training, in batches of all public samples."""
    run, maker = world(**SGD), LearnerModels("linear", TrainingOptions(**SGD))
    strategy = with_options(CFD(local_epochs=0, **options), models=maker)
    seen, fuse = [], strategy.fuse

    def watched(uploads):
        seen.append((uploads["public"], fuse(uploads)))
        return seen[-1][1]

    strategy.fuse = watched
    run.start(strategy, rounds)
    assert not any(report.failures for report in run.reports)
    return run, strategy, seen


@pytest.mark.parametrize(("bits_up", "bits_down"), [(1, 2), (2, 1)])
def test_a_round_by_numpy(world, with_options, federation, bits_up, bits_down) -> None:
    """Quantised answers, their mean, a step of the student, its quantised answers, a step each."""
    untrained, begun, _ = run_of(world, with_options, distil_epochs=0)
    clients = [weights_of(untrained.model_of(client)) for client in range(4)]
    student = weights_of(begun.server_weights().tensors)
    x = federation.client(0).public.x.flatten(1).double().numpy()

    options = {"bits_up": bits_up, "bits_down": bits_down, "distil_epochs": 1}
    run, strategy, seen = run_of(world, with_options, **options)
    told = [nearest(softmax(x @ w.T + b), bits_up) for w, b in clients]
    assert np.allclose(seen[0][0].values, told, atol=1e-6)
    student = step(student, x, np.mean(told, 0))
    for ours, by_hand in zip(weights_of(strategy.server_weights().tensors), student, strict=True):
        assert np.allclose(ours, by_hand, atol=1e-4)
    target = nearest(softmax(x @ student[0].T + student[1]), bits_down)
    for client, model in enumerate(clients):
        after, by_hand = weights_of(run.model_of(client)), step(model, x, target)
        assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(after, by_hand, strict=True))


def test_whole_and_without_a_student_it_is_fedmd(world, with_options) -> None:
    ours = CFD(bits_up=32, bits_down=32, distil_epochs=3, student=False)
    theirs = FedMD(form="probabilities", distil_steps=0)
    assert ours.recipe() == theirs.recipe()
    assert_equal_runs(world, with_options(ours), with_options(theirs))


def test_the_coder_changes_no_bit(world, with_options) -> None:
    options = {"bits_up": 2, "bits_down": 3, "local_epochs": 1, "distil_epochs": 1}
    pair = [with_options(CFD(delta=delta, **options)) for delta in (True, False)]
    assert_equal_runs(world, *pair, rounds=3)


def packed(labels: np.ndarray) -> np.ndarray:
    """Return labels of ten classes in four bits each, as bytes."""
    text = "".join(f"{label:04b}" for label in labels)
    return np.array([int(text[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(text), 8)])


def bytes_of(now: np.ndarray, before: np.ndarray | None) -> int:
    """Return the formula of the docstring."""
    if before is None:
        return len(now) + 8
    changed = int((now != before).sum())
    return len(now) + 1 if changed == len(now) else -(-len(now) // 8) + changed + 1


def test_bytes_are_the_formula(world, with_options) -> None:
    run, _, seen = run_of(world, with_options, rounds=5, bits_down=1)
    up: dict[int, np.ndarray] = {}
    down, due = None, []
    for stack, fused in seen:
        total = 0
        for client, values in zip(stack.clients, stack.values, strict=True):
            now = packed(values.argmax(-1).numpy())
            total += bytes_of(now, up.get(client))
            up[client] = now
        now = packed(fused.shared["public"].values.argmax(-1).numpy())
        due.append((total, 4 * bytes_of(now, down), 0))
        down = now
    told = [(r.traffic.up, r.traffic.down_broadcast, r.traffic.down_unicast) for r in run.reports]
    assert told == due
    assert due[0] == (4 * 33, 4 * 33, 0)
    assert len(set(due)) > 2, "what changes from round to round decides"


@pytest.mark.parametrize(("bits", "each"), [(3, 169 + 8), (32, 2000)])
def test_bytes_of_the_first_round(world, with_options, bits, each) -> None:
    """50 samples with 9 numbers of 3 bits, 1350 bits, or with 10 floats."""
    run, _, _ = run_of(world, with_options, bits_up=bits, bits_down=bits)
    traffic = run.reports[0].traffic
    assert (traffic.up, traffic.down_broadcast) == (4 * each, 4 * each)


@pytest.mark.parametrize("options", [{"bits_up": 0}, {"bits_down": 33}])
def test_bits_out_of_bounds_are_refused(options) -> None:
    with pytest.raises(ConfigError, match=r"bits_\w+ must be .*, not (0|33)"):
        CFD(**options)

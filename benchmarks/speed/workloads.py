"""The workloads, as data: who trains what on how many samples.

Nothing but NumPy, torch and fedkt is imported here, because fedkt loads this file by its path
for the models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from fedkt.models import build_model
from fedkt.models.residual import Residual

HERE = Path(__file__).resolve().parent
CLASSES = 10
TEST_SAMPLES = 50  # a tiny common test set: its cost is in every variant and hardly counts
BATCH, MOMENTUM, SEED = 32, 0.9, 0
ANSWERING = 64  # samples a model answers for at a time
DATASET = "samples"  # the .npz file in a case's folder


@dataclass(frozen=True)
class Workload:
    """One kind of client.

    Parameters
    ----------
    title : str
        For tables.
    model : str
        A function of this file.
    image : tuple[int, ...]
        Of one stored sample: ``(H, W)`` or ``(H, W, 3)``, bytes.
    clients, private, public : int
        How many clients, private samples of each, and public samples; full size.
    quick : tuple[int, int, int]
        The same at reduced size.
    rate : float
        Learning rate of SGD with momentum.
    parameters : int
        Of the model.
    """

    title: str
    model: str
    image: tuple[int, ...]
    clients: int
    private: int
    public: int
    quick: tuple[int, int, int]
    rate: float
    parameters: int

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width, as models see a sample."""
        height, width, *channels = self.image
        return (channels[0] if channels else 1), height, width


WORKLOADS: Mapping[str, Workload] = {
    "W1": Workload("CNN", "cnn", (28, 28), 100, 500, 2000, (6, 128, 384), 0.02, 80_202),
    "W2": Workload("MLP", "mlp", (8, 8), 1000, 60, 2000, (100, 60, 512), 0.05, 2_410),
    "W3": Workload("ResNet-8", "residual", (32, 32, 3), 10, 5000, 2000, (2, 96, 96), 0.02, 77_850),
}


@dataclass(frozen=True)
class Case:
    """What one measurement is about; plain values, so that it travels as JSON.

    Parameters
    ----------
    workload : str
        A key of ``WORKLOADS``.
    clients, private, public : int
        How many clients, private samples of each, and public samples.
    folder : str
        Where the data are.
    rounds : int
        At least 2. The first one is not measured: it holds what happens once.
    workers : int
        Worker processes of the variants that have any.
    batch : int
        Samples of a step.
    """

    workload: str
    clients: int
    private: int
    public: int
    folder: str
    rounds: int = 3
    workers: int = 2
    batch: int = BATCH

    @property
    def kind(self) -> Workload:
        """The workload."""
        return WORKLOADS[self.workload]

    @property
    def steps(self) -> int:
        """Steps of gradient descent a client and round."""
        return -(-self.private // self.batch) - (-self.public // self.batch)

    def as_json(self) -> dict[str, Any]:
        """Return plain values; ``Case(**values)`` undoes it."""
        return asdict(self)


def model_of(workload: Workload) -> nn.Module:
    """Return a new, untrained model; it draws from torch's global generator."""
    built: nn.Module = globals()[workload.model](workload.input_shape, CLASSES)
    return built


def mlp(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Build W2's network: 64 inputs, one hidden layer of 32 units; 2,410 parameters."""
    inputs = int(np.prod(input_shape))
    layers = nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, num_classes)
    return nn.Sequential(nn.Flatten(), *layers)


def cnn(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Build W1's network: unpadded 5 x 5 convolutions (16, 32), 128 units; 80,202 parameters."""
    channels, height, width = input_shape
    places = ((height - 4) // 2 - 4) // 2 * (((width - 4) // 2 - 4) // 2)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * places, 128),
        nn.ReLU(),
        nn.Linear(128, num_classes),
    )


def residual(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Build W3's network: fedkt's resnet8 with bare shortcuts; 77,850 parameters."""
    model: nn.Module = build_model("resnet8", input_shape, num_classes)
    for block in model.modules():
        if isinstance(block, Residual) and isinstance(block.shortcut, nn.Sequential):
            block.shortcut = block.shortcut[0]
    return model


def write_samples(case: Case) -> None:
    """Write the data set of a case, ``samples.npz``, into its folder.

    Every class has a pattern of 4 x 4 patches; a sample is its class's pattern with noise. One
    label in ten is drawn at random, so that no loss goes to zero: the denormal numbers of a
    finished training would slow the arithmetic down.
    """
    rng = np.random.default_rng(SEED)
    height, width, *channels = case.kind.image
    patterns = rng.uniform(-0.15, 0.15, (CLASSES, 4, 4, *channels)).astype(np.float32)
    patterns = patterns.repeat(height // 4, axis=1).repeat(width // 4, axis=2)
    arrays = {}
    for part, count in (
        ("train", case.clients * case.private + case.public),
        ("test", TEST_SAMPLES),
    ):
        truth = np.arange(count) % CLASSES
        arrays[f"x_{part}"] = _noisy(patterns, truth, rng)
        guess = rng.integers(0, CLASSES, count)
        arrays[f"y_{part}"] = np.where(rng.random(count) < 0.1, guess, truth)
    arrays["classes"] = np.array([str(k) for k in range(CLASSES)])
    np.savez(Path(case.folder) / f"{DATASET}.npz", **arrays)


def _noisy(patterns: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    images = np.empty((len(truth), *patterns.shape[1:]), dtype=np.uint8)
    for start in range(0, len(truth), 10_000):  # a million images are too many at once
        rows = truth[start : start + 10_000]
        x = 0.5 + patterns[rows]
        x += 0.2 * rng.standard_normal(x.shape, dtype=np.float32)
        images[start : start + 10_000] = (255 * x.clip(0, 1)).astype(np.uint8)
    return images


def experiment_of(case: Case, strategy: str, **run: Any) -> dict[str, Any]:
    """Return the experiment that fedkt runs for a case.

    Parameters
    ----------
    case : Case
        The case.
    strategy : str
        A class of ``methods.py``.
    **run
        Of the experiment's section ``run``.
    """
    return {
        "seed": SEED,
        "rounds": case.rounds,
        "models": [f"{HERE / 'workloads.py'}:{case.kind.model}"],
        "strategy": {"name": f"{HERE / 'methods.py'}:{strategy}"},
        "data": {
            "dataset": DATASET,
            "data_dir": case.folder,
            "clients": case.clients,
            "partition": "iid",
            "samples_per_client": case.private,
            "public_samples": case.public,
            "validation_fraction": 0.0,
            "test_fraction": 0.0,
        },
        "training": {
            "optimiser": "sgd",
            "learning_rate": case.kind.rate,
            "momentum": MOMENTUM,
            "batch_size": case.batch,
            "public_batch_size": case.batch,
            "optimiser_state": "keep",
        },
        "run": {"workers": case.workers, **run},
    }

"""A folder of one's own images, with a small CNN and a frozen backbone beside it."""

import sys
from pathlib import Path
from tempfile import mkdtemp

import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import fedkt

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 10
FOLDER = Path(mkdtemp())


def write_images() -> Path:
    for number, (image, digit) in enumerate(zip(*load_digits(return_X_y=True))):
        file = FOLDER / "digits" / f"digit-{digit}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image.reshape(8, 8) * 15).astype("uint8")).save(file)
    return FOLDER / "digits"


def on_a_backbone(shape: tuple[int, ...], classes: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # features that are not trained, the same at every client
        backbone = nn.Sequential(nn.Conv2d(shape[0], 32, 3), nn.ReLU(), nn.Flatten())
    backbone.requires_grad_(False)
    return nn.Sequential(backbone, nn.LazyLinear(classes))


if __name__ == "__main__":
    own = {"data": write_images(), "models": ["cnn", on_a_backbone], "grid": "in-process"}
    study = fedkt.Experiment(**own, clients=6, rounds=ROUNDS)
    run = fedkt.simulate(study, "fedmd", out=FOLDER / "run")
    print(run)
    print(run.client(1).save(FOLDER / "client-1.safetensors"))

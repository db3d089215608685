"""Runs on token ids: they reach an embedding as int64, under loop and cohort alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedkt import Experiment, pack_tokens, simulate, unpack_tokens
from fedkt.errors import ConfigError
from fedkt.simulations.results.rounds import read_rounds

NETS = """
import torch
from torch import nn
from fedkt import unpack_tokens

class Bag(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.embed, self.out = nn.Embedding(40, 8), nn.Linear(8, classes)

    def forward(self, x):
        assert x.dtype == torch.int64
        ids, mask = unpack_tokens(x)
        summed = (self.embed(ids) * mask[..., None]).sum(1)
        return self.out(summed / mask.sum(1, keepdim=True).clamp(min=1))

class Reader(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(40, 8), nn.LSTM(8, 8, batch_first=True)
        self.out = nn.Linear(8, classes)

    def forward(self, x):
        return self.out(self.lstm(self.embed(unpack_tokens(x)[0]))[0].mean(1))

def bag(input_shape, num_classes):
    return Bag(num_classes)

def lstm(input_shape, num_classes):
    return Reader(num_classes)
"""


def test_packed_tokens_are_unpacked() -> None:
    ids = np.array([[5, 0, 3], [7, 8, 0]])
    mask = np.array([[1, 1, 1], [1, 1, 0]])
    packed = pack_tokens(ids, mask)
    assert packed.tolist() == [[5, 0, 3], [7, 8, -1]]
    again = unpack_tokens(torch.from_numpy(packed))
    assert (again[0].tolist(), again[1].tolist()) == (ids.tolist(), mask.tolist())
    assert pack_tokens(ids).tolist() == ids.tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with models and sentences of three topics, of several lengths."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 240)
    told = rng.random((240, 9)) < 0.5
    ids = np.where(told, 10 * y[:, None] + rng.integers(0, 9, (240, 9)), rng.integers(0, 40, 9))
    x = pack_tokens(ids, np.arange(9) < rng.integers(3, 10, 240)[:, None])
    np.savez(tmp_path / "sentences.npz", x=x, y=np.array(["sport", "art", "law"])[y])
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    return tmp_path


def study(folder: Path, executor: str, *models: str) -> Experiment:
    return Experiment(
        data=folder / "sentences.npz",
        models=[f"{folder}/nets.py:{model}" for model in models],
        clients=4,
        rounds=2,
        grid="in-process",
        executor=executor,
    )


@pytest.mark.parametrize("strategy", ["knfu", "fedpf"])
def test_loop_and_cohort_agree(folder: Path, strategy: str) -> None:
    rows = {}
    for executor in ("loop", "cohort"):
        run = folder / executor
        simulate(study(folder, executor, "bag"), strategy, out=run)
        settled = (run / "config.toml").read_text(encoding="utf-8")
        assert f'nets.py:bag" = "{executor}' in settled
        rows[executor] = [row["personalised_accuracy"]["per_client"] for row in read_rounds(run)]
    assert np.allclose(rows["loop"], rows["cohort"])


def test_two_kinds_of_networks(folder: Path) -> None:
    simulate(study(folder, "auto", "bag", "lstm"), "fedmd", out=folder / "run")
    assert len(read_rounds(folder / "run")) == 2


def test_what_cannot_take_token_ids_is_refused(folder: Path) -> None:
    mlp = study(folder, "auto", "bag").with_values(models=["mlp"])
    with pytest.raises(ConfigError, match=r"shape \[9\]: .* unless data.layout is \"vector\""):
        simulate(mlp, "knfu", out=folder / "run")
    scaled = study(folder, "auto", "bag").model_copy()
    data = {**scaled.model_dump()["data"], "scale": "standardise"}
    with pytest.raises(ConfigError, match="holds token ids; they have no scale"):
        simulate(scaled.with_values(data=data), "knfu", out=folder / "run")

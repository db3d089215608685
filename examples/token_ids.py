"""Texts as token ids: a tiny BERT from a configuration beside an LSTM."""

import sys
from tempfile import mkdtemp

import numpy as np
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import fedkt

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 10
WORDS, LENGTH = 50, 12


def bert(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a tiny BERT: vocabulary, width, layers, heads, inner width."""
    return BertForSequenceClassification(BertConfig(WORDS, 32, 1, 2, 64, num_labels=classes))


class Lstm(nn.Module):
    """An LSTM over embedded words."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.words, self.lstm = nn.Embedding(WORDS, 16), nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, classes)

    def forward(self, ids):
        return self.head(self.lstm(self.words(ids))[0][:, -1])


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    ids = rng.integers(1, WORDS, (1200, LENGTH))
    topic = np.where((ids < 15).sum(1) > (ids > 35).sum(1), "sport", "law")
    own = {"data": (ids, topic), "models": [bert, Lstm]}
    study = fedkt.Experiment(**own, clients=4, rounds=ROUNDS, learning_rate=0.005)
    print(fedkt.simulate(study, "fedmd", out=f"{mkdtemp()}/run"))

"""Texts as token ids: a tiny BERT from a configuration beside an LSTM."""

import sys
from tempfile import mkdtemp

import numpy as np
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import fedkt

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 10
WORDS, SMALL = 50, {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def bert(shape: tuple[int, ...], classes: int) -> nn.Module:
    return BertForSequenceClassification(BertConfig(vocab_size=WORDS, num_labels=classes, **SMALL))


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
    topic, some = rng.integers(0, 3, (1200, 1)), rng.random((1200, 8)) < 0.3
    ids = rng.integers(1, WORDS, some.shape) * ~some + (16 * topic + 8) * some
    labels = np.array(["law", "music", "sport"])[topic[:, 0]]
    own = {"data": (ids, labels), "models": [bert, Lstm], "grid": "in-process"}
    study = fedkt.Experiment(**own, clients=4, rounds=ROUNDS, learning_rate=0.005)
    print(fedkt.simulate(study, "fedmd", out=f"{mkdtemp()}/run"))

"""Models of transformers: from a config, from a folder, and what is said where there is neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedkt.clients.learners.making import make_learner
from fedkt.data import hub
from fedkt.data.tokens import pack_tokens
from fedkt.errors import ConfigError
from fedkt.models import build_model, builder
from fedkt.rng import global_torch_stream

transformers = pytest.importorskip("transformers")

TINY = (
    "hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, "
    "vocab_size=50"
)
BERT = f"transformers:bert({TINY})"
VIT = (
    "transformers:vit(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, "
    "intermediate_size=32, patch_size=4)"
)


def test_a_tiny_bert_takes_packed_tokens_and_heeds_their_mask() -> None:
    model = build_model(BERT, (6,), 3).eval()
    ids = np.array([[5, 6, 7, 0, 0, 0], [8, 9, 0, 0, 0, 0]])
    mask = (ids > 0).astype(int)
    x = torch.from_numpy(pack_tokens(ids, mask))
    by_name = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))

    assert type(model).__name__ == "BertForSequenceClassification"
    assert torch.allclose(model(x), by_name)
    assert torch.allclose(model(x[:, :4]), model(x), atol=1e-6), "padding is not looked at"
    assert not torch.allclose(model(torch.from_numpy(ids)), model(x), atol=1e-6)
    assert "classifier.weight" in model.state_dict()


def test_a_tiny_vit_gets_the_size_of_the_images() -> None:
    model = build_model(VIT, (1, 8, 8), 10)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert model.config.num_channels == 1


@pytest.mark.parametrize(("reference", "shape"), [(BERT, (6,)), (VIT, (1, 8, 8))])
def test_weights_come_from_the_seed_and_a_learner_can_train_them(
    reference: str, shape: Any
) -> None:
    x = torch.randint(1, 50, (8, 6)) if len(shape) == 1 else torch.rand(8, *shape)
    learner = make_learner(reference, shape, 3).as_network()
    learner.reset(0, 1)
    first = learner.predict(x)
    learner.reset(0, 2)
    assert not torch.equal(learner.predict(x), first)
    learner.reset(0, 1)
    assert torch.equal(learner.predict(x), first)
    assert learner.nature(x).refusal in (
        None,
        "it draws random numbers, which come from one stream for all",
    )
    assert learner.features(x).shape == (8, 16)
    assert builder(reference, shape, 3) is builder(reference, shape, 3)


def test_freezing_leaves_the_last_layer() -> None:
    model = build_model(f"transformers:bert({TINY}, freeze=true)", (6,), 3)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        "classifier.weight",
        "classifier.bias",
    }
    learner = make_learner(f"transformers:bert({TINY}, freeze=true)", (6,), 3).as_network()
    assert learner.weights().tensors.keys() == {"classifier.weight", "classifier.bias"}


def test_the_weights_of_a_folder_are_kept(tmp_path: Path) -> None:
    with global_torch_stream(0, "pretrained"):
        model = build_model(BERT, (6,), 7)
    model.save_pretrained(tmp_path / "mine")
    loaded = build_model(f"transformers:{tmp_path / 'mine'}", (6,), 3)
    key = "bert.encoder.layer.0.output.dense.weight"

    assert torch.equal(loaded.state_dict()[key], model.state_dict()[key])
    assert loaded.classifier.out_features == 3


@pytest.mark.parametrize(
    ("reference", "shape", "words"),
    [
        ("transformers", (6,), "write transformers:NAME, or transformers:bert(hidden_size=64"),
        ("transformers:", (6,), "write transformers:NAME"),
        (BERT, (1, 8, 8), r"takes token ids (L,); the data has samples of shape [1, 8, 8]"),
        (VIT, (6,), r"takes images (C, H, W); the data has samples of shape [6]"),
        ("transformers:vit", (1, 8, 8), "patches of 16 pixels are larger than images of [8, 8]"),
        ("transformers:owner/absent", (6,), "cannot be loaded: "),
        ("transformers:owner/absent", (6,), "A config needs no network: transformers:bert("),
        ("transformers:bert(hidden_size=15)", (6,), "cannot be loaded: The hidden size (15)"),
    ],
)
def test_what_cannot_be_made_is_one_line(
    reference: str, shape: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "reachable", lambda: False)
    with pytest.raises(ConfigError) as caught:
        build_model(reference, shape, 3)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_vectors_are_no_tokens() -> None:
    learner = make_learner(BERT, (6,), 3).as_network()
    with pytest.raises(ConfigError, match="token ids are needed, integers"):
        learner.nature(torch.rand(8, 6))


def test_nothing_is_loaded_for_a_reference_from_the_wire() -> None:
    with pytest.raises(ConfigError, match="Unknown model"):
        build_model(BERT, (6,), 3, files=False)

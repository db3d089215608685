"""FedCache (Wu et al., IEEE TMC 2024, arXiv:2308.07816)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt import about
from fedkt.about import Model
from fedkt.data.samples import ClientData, Samples
from fedkt.knowledge import Fused, Kind, Knowledge, Upload, Uploads
from fedkt.objectives import KL, Batch, CrossEntropy, Divergence, Outputs, weighted_mean
from fedkt.options import AtLeastOne, Count, Factor, Positive
from fedkt.recipe import Predict, Recipe, Train, Weighted
from fedkt.registry import register
from fedkt.rng import torch_rng
from fedkt.shares.cached import newest, rows_at
from fedkt.shares.public_features import features_of
from fedkt.shares.share import Asked, Question, Share, ShareWork
from fedkt.shares.sizes import INT64, Sizes
from fedkt.strategies.server.strategy import KnowledgeStrategy
from fedkt.upload_check import Expected

LOGITS, HASHES, LABELS = "logits", "hashes", "labels"
CHUNK = 256  # samples that are compared with all others of their class at a time
_ALL = Predict(on="private", form="logits")


def nearest(hashes: Tensor, labels: Tensor, most: int) -> Tensor:
    """Return for each sample the most similar others with its label, int64 ``[N, most]``.

    The similarity is the cosine, and of equal ones the first counts as larger. N stands where there
    are not so many.

    Parameters
    ----------
    hashes : Tensor
        ``[N, h]``.
    labels : Tensor
        int64 ``[N]``.
    most : int
        R.
    """
    rows = F.normalize(hashes.double())
    found = torch.full((len(rows), most), len(rows))
    for label in torch.unique(labels):
        places = (labels == label).nonzero()[:, 0]
        for some in torch.split(places, CHUNK):
            cosine = rows[some] @ rows[places].T
            cosine[some[:, None] == places] = -torch.inf  # itself
            order = cosine.argsort(dim=1, descending=True, stable=True)
            order = order[:, : min(most, len(places) - 1)]
            found[some, : order.shape[1]] = places[order]
    return found


class OfSamples(Share):
    """Base of shares with a row for each of the client's training samples, by its id.

    A client that has been sent logits knows by it that the server has its samples.
    """

    def needs(self) -> tuple[str, ...]:
        """Return the name of the logits that come from the server."""
        return (LOGITS,)

    def row(self, classes: int) -> tuple[int | None, ...]:
        """Return the shape of a row; None is the width of features."""
        return ()

    def expected(self, asked: Asked) -> Expected:
        """Return ``values [n, ...]``; n is open until the server has the samples."""
        rows = None if asked.ids is None else len(asked.ids)
        return Expected(self.kind, asked.ids, {"values": (rows, *self.row(asked.num_classes))})

    def upload_bytes(self, sizes: Sizes) -> tuple[int, int]:
        """Return the bytes of no sample, and of n rows with their ids."""
        numbers = math.prod(sizes.features if n is None else n for n in self.row(sizes.classes))
        each = INT64 if self.kind == "labels" else sizes.floats
        return 0, sizes.private * (each * numbers + INT64)


class SentOnce(OfSamples):
    """Base of such shares whose rows are sent once."""

    def ids(
        self, size: int, seed: int, round: int, asked: Mapping[str, Knowledge] | None = None
    ) -> Tensor | None:
        """Return no ids where the server has the samples; None before: all ids travel."""
        return torch.arange(0) if asked and LOGITS in asked else None

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the rows of all samples, or none where the server has them."""
        ids = torch.unique(work.data.train.ids)[: 0 if LOGITS in work.knowledge else None]
        samples = work.data.train.at_ids(ids)
        return Knowledge.rows(self.kind, self.rows(model, samples, work.seed), ids)

    @abstractmethod
    def rows(self, model: Model, samples: Samples, seed: int) -> Tensor:
        """Return a row for each sample."""


@register(name="sample-logits")
@dataclass(frozen=True)
class SampleLogits(OfSamples):
    """The model's logits of the client's training samples, ``[n, C]``, in every round.

    Once the server has sent logits, they are of the samples that those are of.
    """

    name: str = LOGITS
    kind: ClassVar[Kind] = "logits"

    def ids(
        self, size: int, seed: int, round: int, asked: Mapping[str, Knowledge] | None = None
    ) -> Tensor | None:
        """Return the ids of the logits that the server has sent; None before: all ids travel."""
        return asked[LOGITS].ids if asked and LOGITS in asked else None

    def questions(self, work: ShareWork) -> Sequence[Question]:
        """Return the training samples."""
        return _ALL.questions(work)

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the logits."""
        answers, sent = _ALL.make(model, work), work.knowledge.get(LOGITS)
        return answers if sent is None or sent.ids is None else rows_at(answers, sent.ids)

    def row(self, classes: int) -> tuple[int | None, ...]:
        """Return the number of classes."""
        return (classes,)


@register(name="sample-labels")
@dataclass(frozen=True)
class SampleLabels(SentOnce):
    """The labels of the client's training samples, ``[n]``."""

    name: str = LABELS
    kind: ClassVar[Kind] = "labels"

    def rows(self, model: Model, samples: Samples, seed: int) -> Tensor:
        """Return the labels."""
        assert samples.y is not None
        return samples.y


@register(name="sample-hashes")
@dataclass(frozen=True)
class SampleHashes(SentOnce):
    """Hashes of the client's training samples, ``[n, h]``, each of length 1.

    Parameters
    ----------
    encoder : {"inputs", "features"}
        What is hashed: the inputs, or their features in the client's model.
    width : int
        h: the numbers of a random linear projection, which is the same for all clients; 0 for
        features that are sent as they are.
    """

    encoder: Literal["inputs", "features"] = "inputs"
    width: Count = 16
    name: str = HASHES
    kind: ClassVar[Kind] = "features"

    @property
    def _asks(self) -> bool:
        return self.encoder == "features"

    def about(self, model: Model, data: ClientData) -> Mapping[str, str]:
        """Return the form of what is hashed."""
        return about.of_features(model, data) if self._asks else about.of_inputs(data)

    def refuses(self, model: Model, data: ClientData) -> str | None:
        """Refuse hashes that cannot be compared, or from which inputs can be computed."""
        numbers, x = math.prod(data.input_shape), data.train.x
        if self._asks:
            lacking = about.no_features(model, data)
            trained = () if lacking else model.weights(local_norms=True, of="@body").tensors
            frozen = "hashes of features need a body that is frozen, and the same for all clients"
            return lacking or (frozen if trained else None)
        if not x.is_floating_point():
            return "token ids have no hashes of inputs: take those of features"
        if bool(x.isnan().any()):
            return "samples with missing values have no hashes of inputs"
        if not 0 < self.width < numbers:
            return f"hashes of {self.width or numbers} numbers give away samples of {numbers}"
        return None

    def questions(self, work: ShareWork) -> Sequence[Question]:
        """Return the training samples whose features are asked for, the first time."""
        ids = torch.unique(work.data.train.ids)
        asks = self._asks and LOGITS not in work.knowledge and len(ids)
        return (Question(work.data.train.at_ids(ids).x, features=True),) if asks else ()

    def rows(self, model: Model, samples: Samples, seed: int) -> Tensor:
        """Return the hashes."""
        if not len(samples):
            return torch.zeros(0, self.width)
        x = features_of(model, samples.x) if self._asks else samples.x
        x = x.flatten(1).to(torch.float32)
        if self.width:
            x = x @ torch.randn(x.shape[1], self.width, generator=torch_rng(seed, HASHES))
        return F.normalize(x)

    def row(self, classes: int) -> tuple[int | None, ...]:
        """Return h."""
        return (self.width or None,)


@register
@dataclass(frozen=True)
class SampleTeacher:
    """Divergence from the answer that came for the sample itself, where there is one."""

    divergence: Divergence = field(default_factory=KL)
    source: str = LOGITS
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "sample-teacher"
    per_sample: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return the name of the answers, ``source``."""
        return (self.source,)

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        teacher, known = knowledge[self.source].known_at(batch.ids)
        losses = self.divergence(outputs.logits, teacher, knowledge[self.source].kind)
        return weighted_mean(torch.where(known, losses, 0.0), batch.weight)


@register
class FedCache(KnowledgeStrategy):
    """Teach each private sample what is answered for similar samples of its class; no public set.

    Wu, Sun, Wang, Liu, Xu, Wang, Jiang, Gao and Lu, "FedCache: A Knowledge Cache-driven Federated
    Learning Architecture for Personalized Edge Intelligence", IEEE TMC 2024, arXiv:2308.07816. A
    client tells once a hash of each training sample and its label. The server finds for each sample
    the R with the same label, of any client, whose hashes have the largest cosine with its own; the
    sample itself is none of them. It keeps the newest logits of all samples. Clients minimise
    CE + α KL(softmax(z̄ / T) ‖ softmax(z / T)) T², with the mean z̄ of the R samples' logits. A
    sample that is alone in its class has no second term, nor has any in a client's first round.

    What it reveals: the server knows the label and a hash of every private sample, and each round
    the model's logits of it. The default hash is a linear projection of the inputs on h directions
    that the server knows: h equations about the sample, up to its length. With as many as inputs
    the sample could be computed, which is refused. A client's policy must allow the three shares.

    Bytes a round and client, n training samples, C classes: up n (4C + 4h + 32) in its first round.
    Later n', the samples that are not alone in their class: up 4C n', down (unicast) n' (4C + 8).

    Differences: the paper hashes images by a MobileNetV3 that was trained on ImageNet. For such
    hashes take clients' models with a frozen pre-trained body, ``encoder="features"`` and
    ``width=0``; the default needs no download. The search is exact, where the paper's is by HNSW.
    Logits are those of the trained model, and come a round later; in the authors' program they are
    sent batch by batch while the model trains, and of samples without an answer they are 0.

    Parameters
    ----------
    alpha : float
        α ≥ 0.
    temperature : float
        T; the authors' program has 3.
    neighbours : int
        R.
    encoder, width
        The hash; see :class:`SampleHashes`.
    local_epochs : int
        Passes over the private data a round.
    """

    name = "fedcache"

    def __init__(
        self,
        alpha: Factor = 1.5,
        temperature: Positive = 3.0,
        neighbours: AtLeastOne = 16,
        encoder: Literal["inputs", "features"] = "inputs",
        width: Count = SampleHashes.width,
        local_epochs: Count = 1,
    ) -> None:
        self.alpha, self.temperature, self.neighbours = alpha, temperature, neighbours
        self.encoder, self.width, self.local_epochs = encoder, width, local_epochs

    def recipe(self) -> Recipe:
        """Return the recipe: train towards what came, share logits; hashes and labels once."""
        teacher = Weighted(self.alpha, SampleTeacher(KL(self.temperature)))
        return Recipe(
            learn=[Train("private", [CrossEntropy(), teacher], epochs=self.local_epochs)],
            share=[SampleLogits(), SampleHashes(self.encoder, self.width), SampleLabels()],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return for each client, present or not, the means for its samples; unicast."""
        cache: dict[int, Knowledge] = self.memory.setdefault("cache", {})
        before = len(cache)
        for upload in uploads:
            if upload.client in cache:
                answers = upload.knowledge[LOGITS]
                cache[upload.client] = newest(cache[upload.client], answers)
            else:
                self._enter(upload)
        clients = sorted(cache)
        if len(cache) > before:
            told = (self.memory[name] for name in (HASHES, LABELS))
            hashes, labels = (torch.cat([of[client] for client in clients]) for of in told)
            self.memory["nearest"] = nearest(hashes, labels, self.neighbours)
        rows, places = torch.cat([cache[c].values for c in clients]), self.memory["nearest"]
        padded = F.pad(rows, (0, 0, 0, 1))
        means = F.embedding_bag(places, padded, mode="mean", padding_idx=len(rows))
        sizes, personal = [len(cache[client].values) for client in clients], {}
        parts = torch.split(means, sizes), torch.split(places[:, 0] < len(rows), sizes)
        for client, values, some in zip(clients, *parts, strict=True):
            ids = _ids(cache[client])[some]
            personal[client] = {LOGITS: Knowledge.rows("logits", values[some], ids)}
        return Fused(personal=personal).with_diagnostics(cached=len(rows))

    def _enter(self, upload: Upload) -> None:
        """Note the samples of a client that has told hash, label and logits of each."""
        told = upload.knowledge
        ids = _ids(told[LOGITS]).sort().values
        for name in (HASHES, LABELS):
            ids = ids[torch.isin(ids, _ids(told[name]))]
        for name in (HASHES, LABELS):
            self.memory.setdefault(name, {})[upload.client] = told[name].at(ids)
        answers = Knowledge.rows("logits", told[LOGITS].at(ids), ids)
        self.memory["cache"][upload.client] = answers


def _ids(knowledge: Knowledge) -> Tensor:
    assert knowledge.ids is not None
    return knowledge.ids

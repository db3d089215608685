"""FedGKT (He, Annavaram and Avestimehr, NeurIPS 2020, arXiv:2007.14513)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fedkt import about
from fedkt.about import Model
from fedkt.answers import finite
from fedkt.context import ServerNet
from fedkt.data.samples import ClientData, Samples
from fedkt.errors import ConfigError
from fedkt.knowledge import Fused, Kind, Knowledge, Upload, Uploads
from fedkt.models import build_model
from fedkt.objectives import KL, CrossEntropy, Distil, Term
from fedkt.options import Count, Factor, Positive
from fedkt.readouts import ReadOut
from fedkt.readouts.readout import Ask, SettleWork
from fedkt.recipe import Load, Recipe, Share, Step, Train, Weighted
from fedkt.registry import register
from fedkt.rng import global_torch_stream
from fedkt.shares.public_features import features_of
from fedkt.shares.share import Asked, Question, ShareWork
from fedkt.shares.sizes import INT64, Sizes
from fedkt.steps.train import StepWork, Trainee
from fedkt.strategies.prototypes.class_pairs import feature_width
from fedkt.strategies.server.common_start import START, starting_nets, starts
from fedkt.strategies.server.strategy import KnowledgeStrategy
from fedkt.upload_check import Expected

FEATURES: Final = "features"
LABELS: Final = "labels"
LOGITS: Final = "logits"
SERVER = "server"
MODEL = "mlp-wide"
KEPT = "joint-answer.server"


@register(name="private-rows")
@dataclass(frozen=True)
class PrivateRows(Share):
    """Features, logits or labels of the client's training samples, a row each, by sample id.

    The ids travel until the server has sent logits: from then on the rows are of those samples, in
    their order.

    Parameters
    ----------
    name : {"features", "logits", "labels"}
        What is shared, and the share's name.
    """

    name: Literal["features", "logits", "labels"] = "features"

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared: the name."""
        return self.name

    def needs(self) -> tuple[str, ...]:
        """Return the name of the server's logits, whose ids it takes."""
        return (LOGITS,)

    def refuses(self, model: Model, data: ClientData) -> str | None:
        """Refuse models without features, and those whose features are the inputs themselves."""
        x = data.train.x[:1]
        if lacking := about.no_features(model, data):
            return lacking
        same = len(x) and torch.equal(model.features(x), x.flatten(1))
        return "its features are the inputs, which would leave the device" if same else None

    def about(self, model: Model, data: ClientData) -> Mapping[str, str]:
        """Return the width of the features."""
        return about.of_features(model, data)

    def ids(
        self, size: int, seed: int, round: int, asked: Mapping[str, Knowledge] | None = None
    ) -> Tensor | None:
        """Return the ids of the logits that the server has sent; None before that."""
        return asked[LOGITS].ids if asked and LOGITS in asked else None

    def questions(self, work: ShareWork) -> Sequence[Question]:
        """Return the training samples, of whose labels no model is asked."""
        features = self.name == FEATURES
        return () if self.name == LABELS else (Question(_samples(work).x, features),)

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the rows; a sample that is held twice has one."""
        samples = _samples(work)
        assert samples.y is not None
        if self.name == LABELS:
            return Knowledge.rows(self.name, samples.y, samples.ids)
        ask = features_of if self.name == FEATURES else _logits_of
        return Knowledge.rows(self.name, ask(model, samples.x), samples.ids)

    def expected(self, asked: Asked) -> Expected:
        """Return ``values [n, d]``, ``[n, C]`` or ``[n]``; n and d are open."""
        rows = None if asked.ids is None else len(asked.ids)
        widths = {FEATURES: (None,), LOGITS: (asked.num_classes,), LABELS: ()}
        return Expected(self.kind, asked.ids, {"values": (rows, *widths[self.name])})

    def upload_bytes(self, sizes: Sizes) -> tuple[int, int]:
        """Return the bytes of n rows, or at most of n rows with their ids."""
        floats = {FEATURES: sizes.features, LOGITS: sizes.classes}
        row = INT64 if self.name == LABELS else sizes.floats * floats[self.name]
        return sizes.private * row, sizes.private * (row + INT64)


def _samples(work: ShareWork) -> Samples:
    """Return the training samples that the server has, each once; before that all of them."""
    sent = work.knowledge.get(LOGITS)
    ids = torch.unique(work.data.train.ids) if sent is None or sent.ids is None else sent.ids
    return work.data.train.at_ids(ids)


def _logits_of(model: Model, x: Tensor) -> Tensor:
    return finite(model.predict(x))


@register
@dataclass(frozen=True)
class TakeServer(Step):
    """A step that has the server's model sent, for the read-out; it does nothing else."""

    name: ClassVar[str] = "take-server"

    def needs(self) -> tuple[str, ...]:
        """Return the name of the server's model."""
        return (SERVER,)

    def run(self, learner: Trainee, work: StepWork, stream: str) -> float | None:
        """Do nothing."""
        return None


@register
@dataclass(frozen=True)
class JointAnswer(ReadOut):
    """The answer of the server's model to the features of the client's.

    Before the server's model has arrived it is the client's own logits.

    Parameters
    ----------
    model : str
        The registered model that the server's is.
    """

    name: ClassVar[str] = "joint-answer"
    needs_features: ClassVar[bool] = True
    model: str = MODEL

    def settle(self, learner: Any, work: SettleWork) -> None:
        """Keep the server's model, if it has arrived."""
        if SERVER in work.knowledge:
            work.keep(KEPT, work.knowledge[SERVER])

    @torch.no_grad()
    def answer(self, x: Tensor, ask: Ask, own: Mapping[str, Any], log_prior: Tensor) -> Tensor:
        """Return the logits of the server's model, ``[n, C]``."""
        answers, weights = ask(None, x), own.get(KEPT)
        if weights is None:
            return answers.logits
        with global_torch_stream(0, "joint-answer"):
            net = large(self.model, answers.features.shape[1], len(log_prior)).eval()
        net.load_state_dict(weights.tensors, strict=False)
        logits: Tensor = net(answers.features)
        return logits


def large(model: str, width: int, classes: int) -> nn.Module:
    """Return an untrained registered network that takes features ``[n, d]``."""
    net = build_model(model, (width,), classes, files=False)
    if not isinstance(net, nn.Module):
        raise ConfigError(f"{model!r} is no network, and the large model at the server is one")
    return net


class Rows(NamedTuple):
    """The ids of a client's samples, their features, labels and the client's logits for them."""

    ids: Tensor
    features: Tensor
    labels: Tensor
    logits: Tensor


def rows_of(upload: Upload) -> Rows:
    """Return the rows of the samples that all three shares of an upload are about."""
    told = upload.knowledge
    ids = told[FEATURES].ids
    assert ids is not None
    for name in (LABELS, LOGITS):
        ids = ids[told[name].known_at(ids)[1]]
    return Rows(ids, *(told[name].at(ids) for name in (FEATURES, LABELS, LOGITS)))


@register
class FedGKT(KnowledgeStrategy):
    """Train a large model at the server on the clients' features, and teach clients its answers.

    He, Annavaram and Avestimehr, "Group Knowledge Transfer: Federated Learning of Large CNNs at the
    Edge", NeurIPS 2020, arXiv:2007.14513; no public set. A client's model, a small extractor with a
    classifier, minimises CE + α T² KL(softmax(z_s / T) ‖ softmax(z_c / T)) with the server's logits
    z_s for the sample itself, from its second round on, and uploads features, labels and logits
    z_c of all its training samples. The server's model takes features; it learns those of all
    clients by CE + β T² KL(softmax(z_c / T) ‖ softmax(z_s / T)), and answers each client's samples.
    The equations are as remembered, so none is cited by number. Rows belong to sample ids, where
    known programs go by the number of a batch, which shuffling misaligns.

    What it reveals: labels, features and logits of every private sample leave the device. The
    server can train on them as it likes, and inputs may be recovered from features.

    As in the paper a client's features are tested through the server's model. The paper's clients
    upload features of test samples; here the server's model is sent (``joint``). Then personal
    answers are the joint model's, else the small model's. Global accuracy is always that of the
    small models, and the server's model is not measured by itself: it takes no inputs.

    Bytes a round and client, n training samples, d features, C classes, S parameters of the large
    model, P of the client's: up n (4d + 4C + 8), and 24n for ids until it has been sent logits;
    down n (4C + 8) (unicast) from its second round on, and if ``joint`` 4S (broadcast). With
    ``common_start`` 4P more down before its first round.

    With α = 0, without a common start and ``joint`` it is :class:`~fedkt.strategies.Local`.

    Differences: the authors' program begins with one pre-trained extractor for all clients; here
    clients of an architecture begin with the same weights, untrained. Its server has no KL unless
    asked, and its factor α is that of CE there. It returns the answers given while the model
    trains; here those of the trained model. Features are the inputs of the last layer, or of the
    layer that a model names, flat. Answers for a client that is absent stay as they were.

    Parameters
    ----------
    alpha, beta : float
        α and β, at least 0.
    temperature : float
        T > 0; the program's is 3.
    server : str
        The large model: a registered network that takes vectors.
    joint : bool
        Whether clients get the server's model, and answer for themselves through it.
    common_start : bool
        Whether clients of one architecture, which the server then builds, begin with the same
        weights.
    local_epochs, server_epochs : int
        Passes of clients over their own samples, and of the server over all; the program's are 3.
    """

    name = "fedgkt"

    def __init__(
        self,
        alpha: Factor = 1.0,
        beta: Factor = 1.0,
        temperature: Positive = 3.0,
        server: str = MODEL,
        joint: bool = True,
        common_start: bool = True,
        local_epochs: Count = 3,
        server_epochs: Count = 3,
    ) -> None:
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.server, self.joint, self.common_start = server, joint, common_start
        self.local_epochs, self.server_epochs = local_epochs, server_epochs

    def recipe(self) -> Recipe:
        """Return the recipe: train with the server's logits, share rows, take its model."""
        return Recipe(
            start=[Load(START, "architecture")] if self.common_start else [],
            learn=[Train("private", self._terms(self.alpha), epochs=self.local_epochs)],
            share=[PrivateRows("features"), PrivateRows("labels"), PrivateRows("logits")],
            absorb=[TakeServer()] if self.joint else [],
            given=[START, SERVER],
            readout=JointAnswer(self.server) if self.joint else "raw",
        )

    def _terms(self, factor: float) -> list[Term | Weighted]:
        return [CrossEntropy(), Weighted(factor, Distil(KL(self.temperature), LOGITS))]

    def models(self) -> Mapping[str, ServerNet]:
        """Return the large model, and one of each architecture for the common start."""
        small = starting_nets(self.round.about) if self.common_start else {}
        return {SERVER: ServerNet(self._large), **small}

    def _large(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        return large(self.server, feature_width(self.round.about), classes)

    def first(self, weights: Knowledge | None) -> Fused:
        """Return the first weights of each client's architecture."""
        return Fused(personal=starts(self.model, self.round.about))

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the server's logits for each client's samples, after its model has learnt."""
        answers: dict[int, Knowledge] = self.memory.setdefault("answers", {})
        server, loss = self.model[SERVER], None
        told = {upload.client: rows_of(upload) for upload in uploads}
        if there := [rows for rows in told.values() if len(rows.ids)]:
            _, x, y, z = (torch.cat(parts) for parts in zip(*there, strict=True))
            samples, logits = Samples(x, y, torch.arange(len(y))), Knowledge.rows(LOGITS, z)
            step = Train("public", self._terms(self.beta), epochs=self.server_epochs)
            loss = server.train(step, {LOGITS: logits}, SERVER, samples)
        for client, rows in told.items():
            values = server.predict(rows.features) if len(rows.ids) else rows.logits
            answers[client] = Knowledge.rows(LOGITS, values, rows.ids)
        personal = {client: {LOGITS: made} for client, made in answers.items()}
        shared = {SERVER: server.weights()} if self.joint else {}
        fused = Fused(shared, {**personal, **starts(self.model, self.round.about, answers)})
        return fused.with_diagnostics(server_loss=loss)

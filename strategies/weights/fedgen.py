"""FedGen, a generator of features (Zhu, Hong and Zhou, ICML 2021, arXiv:2105.10878)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkt import about
from fedkt.about import Model
from fedkt.context import ServerNet
from fedkt.data.samples import ClientData
from fedkt.fusion import mean_by_examples
from fedkt.knowledge import Fused, Kind, Knowledge, Uploads
from fedkt.objectives import KL, Batch, CrossEntropy, Outputs, weighted_mean
from fedkt.options import AtLeastOne, AtLeastTwo, Count, Factor, Positive, PositiveFraction
from fedkt.recipe import ClassCounts, Load, Recipe, Train, Weights
from fedkt.registry import register
from fedkt.strategies.prototypes.class_pairs import feature_width
from fedkt.strategies.prototypes.fedgh import LoadHeader
from fedkt.strategies.server.strategy import KnowledgeStrategy
from fedkt.training import TrainingOptions

FLOOR = 1e-4  # of the factors of the clients' terms


class FeatureGenerator(nn.Module):
    """G(ε, y): from noise and one-hot labels side by side, ``[n, e + C]``, to features."""

    def __init__(self, inputs: int, hidden: int, width: int) -> None:
        super().__init__()
        self.hidden, self.norm = nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``[n, d]``."""
        features: Tensor = self.out(F.relu(self.norm(self.hidden(x))))
        return features


def generated(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return the features of a generator with these weights, in evaluation mode."""
    w = weights
    hidden = F.linear(x, w["hidden.weight"], w["hidden.bias"])
    scale = w["norm.weight"] * (w["norm.running_var"] + 1e-5).rsqrt()
    hidden = F.relu((hidden - w["norm.running_mean"]) * scale + w["norm.bias"])
    return F.linear(hidden, w["out.weight"], w["out.bias"])


def diversity(features: Tensor, noise: Tensor) -> Tensor:
    """Return exp(-mean over pairs of |z_i - z_j| (ε_i - ε_j)²), with means over the columns."""
    apart = (features[:, None] - features).abs().mean(-1)
    return (-apart * (noise[:, None] - noise).square().mean(-1)).mean().exp()


@register
@dataclass(frozen=True)
class GeneratedFeatures:
    """Both terms of generated features z ~ G(·, y) in a client's loss, h its last layer.

    α_t CE(h(z), y) with labels y that are drawn from those of all clients, and
    β_t KL(softmax(h(z)) ‖ output) with z of the sample's own label, where h(z) is a constant.
    """

    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "generated-features"
    needs_features: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return the name of the generator, beside which come the labels' prior, α_t and β_t."""
        return ("generator",)

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the scalar loss."""
        told, (size, classes) = knowledge["generator"].tensors, outputs.logits.shape
        assert batch.y is not None
        assert outputs.classify is not None
        uniform = 0.5 * (1 + torch.erf(batch.noise("label", (size,)) / 2**0.5))
        y = (uniform[:, None] > told["prior"].cumsum(0)[:-1]).sum(-1)
        answers = []
        for name, labels in (("drawn", y), ("alike", batch.y)):
            noise = batch.noise(name, (size, told["hidden.weight"].shape[1] - classes))
            x = torch.cat([noise, F.one_hot(labels, classes).to(noise.dtype)], -1)
            answers.append(outputs.classify(generated(told, x)))
        drawn = F.cross_entropy(answers[0], y, reduction="none")
        alike = KL()(outputs.logits, answers[1], "logits")
        return weighted_mean(told["alpha"] * drawn + told["beta"] * alike, batch.weight)


@register(name="class-counts-and-width")
@dataclass(frozen=True)
class CountsAndWidth(ClassCounts):
    """Class counts of clients whose features are equally wide."""

    def refuses(self, model: Model, data: ClientData) -> str | None:
        """Refuse models without features."""
        return about.no_features(model, data)

    def about(self, model: Model, data: ClientData) -> Mapping[str, str]:
        """Return the width of the features."""
        return about.of_features(model, data)


@register
@dataclass(frozen=True)
class Header(Weights):
    """The layer that classifies, by the names ``weight`` and ``bias`` whatever it is in the model.

    So clients of several architectures share it; see :class:`~fedkt.shares.Weights`.
    """

    name: str = "header"
    of: str = "@head"
    one_architecture: ClassVar[bool] = False

    def refuses(self, model: Model, data: ClientData) -> str | None:
        """Refuse models that end in more than a linear layer with a bias."""
        names = [n.rpartition(".")[2] for n in model.weights(of=self.of).tensors]
        linear = sorted(names) == ["bias", "weight"]
        return None if linear else "the part that classifies is no linear layer with a bias"

    def first(self, model: Model) -> Knowledge:
        """Return the layer of a model."""
        layer = model.weights(of=self.of).tensors
        return Knowledge("weights", {n.rpartition(".")[2]: t for n, t in layer.items()})


@register
class FedGen(KnowledgeStrategy):
    """Average weights, and train a generator of features that all clients' last layers understand.

    Client k uploads its weights and n_k(y), its samples of each class. Before it averages, the
    server trains a generator z = G(ε, y), ε ~ N(0, I), y ~ p̂ = Σ_k n_k / n, in steps down
    E Σ_k w_k(y) CE(h_k(z), y) - adversarial · KL(t ‖ s) + diversity · exp(-E |z - z'| (ε - ε')²):
    w_k(y) = n_k(y) / Σ_j n_j(y), h_k is the client's last layer, t = softmax(Σ_k w_k(y) h_k(z)) and
    s the softmax of the averaged last layer's answer. This is equation 4 in the form of the
    authors' program, which adds the last two terms. Clients learn generated features (equation 5)
    from the second round on; see :class:`GeneratedFeatures`. Both of its factors fall by ``decay``
    a round, from α and β down to 10⁻⁴. α = β = 0 is :class:`~fedkt.strategies.FedAvg`, or, if only
    last layers are shared, :class:`~fedkt.strategies.LGFedAvg`.

    The server learns each client's class counts. With ``shared="header"`` clients may have any
    architectures, with linear last layers on equally wide features.

    Bytes a round and client, C classes, d features, P parameters of the model or of its last layer,
    h hidden units and e noise: up 4P + 8C, down 4P + G (broadcast). G is for the generator,
    4(h(e + C) + 5h + d(h + 1) + C + 2), from the second round on; 4P more down in the first round
    and for a client that did not take part in the round before.

    Differences: the program draws uniform noise, and labels uniformly among those that somebody
    has; noise and labels are the paper's here. Its student s is the average of the round before,
    and its KL is divided by C too. Clients draw as many generated labels as samples, as there.

    Parameters
    ----------
    shared : {"model", "header"}
        What is averaged: the whole model, or the layer that classifies.
    alpha, beta : float
        First factors of the clients' two terms, at least 0. The program's for MNIST are 10.
    decay : float
        Of both factors and of the generator's learning rate, a round.
    diversity, adversarial : float
        Factors of the generator's terms, at least 0; the program's for MNIST are 1 and 0.
    noise, hidden : int
        e and h.
    steps, batch : int
        The generator's steps a round, and the labels in each.
    learning_rate, weight_decay : float
        Of the generator, by Adam.
    local_epochs : int
        Passes over the private data a round.
    """

    name = "fedgen"
    exempt: ClassVar[Mapping[str, str]] = {
        "cohorts_learn_what_the_loop_learns": "the generator's 50 steps by Adam enlarge rounding: "
        "weights 2e-5 apart, within the law's 1e-5 after two of the steps"
    }

    def __init__(
        self,
        shared: Literal["model", "header"] = "model",
        alpha: Factor = 10.0,
        beta: Factor = 10.0,
        decay: PositiveFraction = 0.98,
        diversity: Factor = 1.0,
        adversarial: Factor = 0.0,
        noise: AtLeastOne = 32,
        hidden: AtLeastOne = 256,
        steps: Count = 50,
        batch: AtLeastTwo = 32,
        learning_rate: Positive = 3e-4,
        weight_decay: Factor = 1e-2,
        local_epochs: Count = 5,
    ) -> None:
        self.shared, self.alpha, self.beta, self.decay = shared, alpha, beta, decay
        self.diversity, self.adversarial = diversity, adversarial
        self.noise, self.hidden, self.steps, self.batch = noise, hidden, steps, batch
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.local_epochs = local_epochs

    def recipe(self) -> Recipe:
        """Return the recipe: load what is averaged, train, share it and the class counts, load."""
        whole = self.shared == "model"
        weights, load = (Weights(), Load()) if whole else (Header(), LoadHeader())
        train = Train("private", [CrossEntropy(), GeneratedFeatures()], epochs=self.local_epochs)
        shares = [weights, CountsAndWidth()]
        return Recipe(learn=[load, train], share=shares, absorb=[load], given=["generator"])

    @property
    def fused_kinds(self) -> Mapping[str, Kind]:
        """The kind of the generator, beside which come the labels' prior and the factors."""
        return {"generator": "weights"}

    def models(self) -> Mapping[str, ServerNet]:
        """Return the generator, and a model like the clients' where whole ones are shared."""
        options = TrainingOptions("adam", self.learning_rate, weight_decay=self.weight_decay)
        nets = {"generator": ServerNet(self._generator, options)}
        return {"client": ServerNet(), **nets} if self.shared == "model" else nets

    def _generator(self, input_shape: tuple[int, ...], classes: int) -> nn.Module:
        return FeatureGenerator(self.noise + classes, self.hidden, feature_width(self.round.about))

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the averaged weights, and the generator after its steps; broadcast."""
        stack = uploads["weights" if self.shared == "model" else "header"]
        counts, number = uploads["class-counts"].tensors["counts"].float(), self.round.number
        teachers = [{n: t[k] for n, t in stack.tensors.items()} for k in range(len(stack))]
        fused, generator = mean_by_examples(stack).shared, self.model["generator"]
        about = teachers, fused[stack.name].tensors, counts
        rate = self.decay ** (number - 1)
        loss = generator.minimise(lambda: self.loss(*about), self.steps, "generator", rate)
        told = {**generator.weights().tensors, "prior": counts.sum(0) / counts.sum()}
        for name, factor in (("alpha", self.alpha), ("beta", self.beta)):
            now = max(factor * self.decay**number, min(factor, FLOOR))
            told[name] = torch.tensor(now, dtype=torch.float32)
        fused = {**fused, "generator": Knowledge("weights", told)}
        return Fused(fused).with_diagnostics(generator_loss=loss)

    def loss(
        self,
        teachers: Sequence[Mapping[str, Tensor]],
        student: Mapping[str, Tensor],
        counts: Tensor,
    ) -> Tensor:
        """Return the generator's loss on a batch that is drawn here.

        Parameters
        ----------
        teachers, student : Mapping[str, Tensor]
            The clients' weights and their average, by name.
        counts : Tensor
            Samples of each class, float32 ``[N, C]``.
        """
        y = torch.multinomial(counts.sum(0), self.batch, replacement=True)
        noise = torch.randn(self.batch, self.noise)
        x = torch.cat([noise, F.one_hot(y, counts.shape[1]).float()], -1)
        z = self.model["generator"].ask(None, x).logits
        logits = torch.stack([self._classify(z, weights) for weights in teachers])
        weights = (counts / counts.sum(0).clamp_min(1))[:, y]
        losses = F.cross_entropy(logits.flatten(0, 1), y.repeat(len(logits)), reduction="none")
        loss = (weights.flatten() * losses).sum() / len(y) + self.diversity * diversity(z, noise)
        if self.adversarial:
            teacher = (weights[..., None] * logits).sum(0).log_softmax(-1)
            apart = teacher.exp() * (teacher - self._classify(z, student).log_softmax(-1))
            loss = loss - self.adversarial * apart.sum(-1).mean()
        return loss

    def _classify(self, z: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        if self.shared == "model":
            return self.model["client"].classify(z, weights)
        return F.linear(z, weights["weight"], weights["bias"])

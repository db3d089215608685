"""DENSE (Zhang, Chen, Li, Lyu, Wu, Ding, Shen and Wu, NeurIPS 2022, arXiv:2112.12371)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkt.answers import log_softmax
from fedkt.context import ServerNet
from fedkt.data.samples import Samples
from fedkt.errors import ConfigError
from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.objectives import KL, Distil
from fedkt.options import AtLeastOne, AtLeastTwo, Count, Factor, Positive
from fedkt.recipe import Train
from fedkt.registry import register
from fedkt.rng import torch_rng
from fedkt.strategies.oneshot.sample_generator import SampleGenerator, fresh
from fedkt.strategies.server.model import ServerModel
from fedkt.strategies.weights.feddf import FedDF
from fedkt.text import raised
from fedkt.training import TrainingOptions

GENERATOR = "generator"

Members = Sequence[tuple[ServerModel, Mapping[str, Tensor]]]


class Synthetic(NamedTuple):
    """A batch of generated samples ``[B, ...]``, their labels ``[B]``, and logits ``[N, B, C]``."""

    x: Tensor
    y: Tensor
    logits: Tensor  # of the clients' models


def ensemble(weights: Tensor, logits: Tensor) -> Tensor:
    """Return D(x) = Σ_k w_k z_k(x), ``[B, C]``, of weights ``[N]`` and logits ``[N, B, C]``."""
    return torch.einsum("k,kbc->bc", weights, logits)


def divergence(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T² KL(softmax(t / T) ‖ softmax(s / T)), ``[B]``, differentiable in both logits."""
    told, answered = (log_softmax(z / temperature) for z in (teacher, student))
    return temperature**2 * (told.exp() * (told - answered)).sum(-1)


def boundary_support(teacher: Tensor, student: Tensor) -> Tensor:
    """Return -mean(ω KL(teacher ‖ student)), ω = 1 where their top classes differ, else 0."""
    apart = teacher.argmax(-1) != student.argmax(-1)
    return -(apart * divergence(teacher, student)).mean()


def norm_distance(
    seen: Mapping[str, tuple[Tensor, Tensor]], weights: Mapping[str, Tensor]
) -> Tensor:
    """Return Σ_l |μ_l(x) - μ_l| + |σ²_l(x) - σ²_l| over the layers l of batch normalisation.

    Parameters
    ----------
    seen : Mapping[str, tuple[Tensor, Tensor]]
        Mean and variance of what each layer took in, ``[c]`` each.
    weights : Mapping[str, Tensor]
        The model's, with its running statistics; layers without any count 0.
    """
    gaps = [
        (moment - weights[f"{layer}.{name}"]).norm()
        for layer, moments in seen.items()
        for name, moment in zip(("running_mean", "running_var"), moments, strict=True)
        if f"{layer}.{name}" in weights
    ]
    return torch.stack(gaps).sum() if gaps else torch.tensor(0.0)


@register
class Dense(FedDF):
    """Distil the ensemble of all clients' models on generated samples; the server has no data.

    Clients train once, for long, and upload their weights. The server alternates (algorithm 1):
    a generator G makes samples x of noise z for random labels y that minimise
    CE(D(x), y) + λ₁ L_BN + λ₂ L_div, where D(x) is the mean of the clients' logits,
    L_BN the distance of the clients' running statistics (:func:`norm_distance`, mean over clients)
    and L_div = -ω KL(D(x) ‖ f(x)) draws samples to where the server's model f errs
    (:func:`boundary_support`); then f minimises KL(D(x) ‖ f(x)). As in the authors' program
    noise is trained with G, G begins anew for each batch of samples, the batch of lowest loss is
    kept, and f passes over all batches so far.

    Architectures may differ. The paper has one model at the server; here there is one of each
    architecture, so that every client gets one, and the one that most clients have is f in L_div
    and is evaluated. A round is the whole method, for ``rounds = 1``; in further rounds clients go
    on from the server's model, which goes on as well, and samples are generated anew.

    Images are generated with pixels in [0, 1], without the program's crops and flips; other samples
    are numbers of any size, and models of token ids are refused. The defaults are a tenth of the
    paper's work at ten times its rates. Its settings (partly as remembered): 200 local epochs, 200
    batches of 128 samples, rates of 0.001 for the generator, by Adam, and of 0.01, 256 random
    numbers and 64 channels. The program's defaults of λ₁, λ₂ and of the factor of CE are 0; its
    example has 1 for all of them, and T = 20.

    Bytes a round and client with P parameters: up 4P, down 4P (broadcast to an architecture); 4P
    more down for a client that did not take part in the round before, and in the first round.

    Parameters
    ----------
    local_epochs : int
        Passes over the private data a round.
    batches : int
        Batches of samples to generate; f passes over all batches so far after each.
    generator_steps : int
        Steps of the generator for each batch.
    batch_size : int
        Samples in a generated batch, and in a batch of the distillation.
    norms : float
        λ₁ ≥ 0.
    boundary : float
        λ₂ ≥ 0.
    temperature : float
        T of the distillation; the paper's is 1.
    learning_rate : float
        Of the models at the server, by gradient descent with a momentum of 0.9.
    generator_rate : float
        Of the generator, by Adam.
    noise, width : int
        Random numbers behind a sample, and channels of the generator.
    """

    name = "dense"
    needs_samples = False
    tried_with: ClassVar[Mapping[str, Any]] = {
        "local_epochs": 2,
        "batches": 2,
        "generator_steps": 5,
        "width": 4,
    }

    def __init__(
        self,
        local_epochs: Count = 100,
        batches: Count = 20,
        generator_steps: AtLeastOne = 30,
        batch_size: AtLeastTwo = 64,
        norms: Factor = 1.0,
        boundary: Factor = 0.5,
        temperature: Positive = 1.0,
        learning_rate: Positive = 0.1,
        generator_rate: Positive = 0.01,
        noise: AtLeastOne = 64,
        width: AtLeastOne = 16,
    ) -> None:
        super().__init__(local_epochs, learning_rate=learning_rate, temperature=temperature)
        self.batches, self.generator_steps, self.batch_size = batches, generator_steps, batch_size
        self.norms, self.boundary, self.generator_rate = norms, boundary, generator_rate
        self.noise, self.width = noise, width

    def models(self) -> Mapping[str, ServerNet]:
        """Return a model of each architecture, and the generator."""
        plain = TrainingOptions("sgd", self.learning_rate)
        students = {kind: ServerNet(kind, plain) for kind in super().models()}
        options = TrainingOptions("adam", self.generator_rate)
        return {**students, GENERATOR: ServerNet(self._generator, options)}

    def _generator(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        for kind, model in self.model.items():
            try:
                model.predict(torch.zeros(1, *shape))
            except Exception as error:  # of anybody's network, such as one of token ids
                line = f"{self.title} generates samples of numbers, which {kind} does not take"
                raise ConfigError(f"{line}: {raised(error)}.") from error
        return SampleGenerator(shape, self.batch_size, self.noise, self.width)

    def fuse(self, uploads: Uploads) -> Fused:
        """Return each architecture's model, after samples were generated and learnt."""
        members, pool, losses = self.members(uploads), list[Synthetic](), dict[str, Any]()
        weights = torch.full((len(members),), 1 / len(members))
        made: float | None = None
        for number in range(self.batches):
            batch, made = self.generated(members, weights, number)
            weights = self.reweighted(weights, pool, number)
            pool.append(batch)
            losses = self.distilled(*self.lesson(members, weights, pool, number), number)
        told = {"losses": losses, "generator_loss": made, "ensemble": weights}
        return self.first(None).with_diagnostics(**told)

    def generated(
        self, members: Members, weights: Tensor, number: int
    ) -> tuple[Synthetic, float | None]:
        """Return a batch of samples of a generator that begins anew, and its mean loss."""
        now, generator, server = self.round, self.model[GENERATOR], self.model[str(self.serves)]
        lots = torch_rng(now.seed, f"generated/{number}", now.number)
        generator.load_weights(fresh(generator.weights(), lots))
        y = torch.randint(now.num_classes, (self.batch_size,), generator=lots)
        held, rows = server.weights(), torch.arange(self.batch_size)
        kept: list[tuple[float, Synthetic]] = []

        def loss() -> Tensor:
            x = generator.ask(None, rows).logits
            asked = [model.ask(mine, x, norms=self.norms > 0) for model, mine in members]
            logits = torch.stack([outputs.logits for outputs in asked])
            teacher, student = ensemble(weights, logits), server.ask(held, x).logits
            total = self.sample_loss(teacher, student, y)
            pairs = zip(asked, members, strict=True)
            gaps = [norm_distance(outputs.norms, mine) for outputs, (_, mine) in pairs]
            total = total + self.norms * torch.stack(gaps).mean()
            if not kept or float(total.detach()) < kept[0][0]:
                kept[:] = [(float(total.detach()), Synthetic(x.detach(), y, logits.detach()))]
            return total

        mean = generator.minimise(loss, self.generator_steps, f"generated/{number}")
        return kept[0][1], mean

    def sample_loss(self, teacher: Tensor, student: Tensor, y: Tensor) -> Tensor:
        """Return the generator's loss of answers ``[B, C]``, but for normalisation."""
        losses = F.cross_entropy(teacher, y, reduction="none")
        return losses.mean() + self.boundary * boundary_support(teacher, student)

    def reweighted(self, weights: Tensor, pool: Sequence[Synthetic], number: int) -> Tensor:
        """Return the clients' weights in the ensemble, ``[N]``; here they stay."""
        return weights

    def lesson(
        self, members: Members, weights: Tensor, pool: Sequence[Synthetic], number: int
    ) -> tuple[Tensor, Tensor]:
        """Return samples ``[n, ...]`` and the logits ``[n, C]`` to learn about them."""
        logits = torch.cat([batch.logits for batch in pool], 1)
        return torch.cat([batch.x for batch in pool]), ensemble(weights, logits)

    def distilled(self, x: Tensor, teacher: Tensor, number: int) -> dict[str, float | None]:
        """Return the losses of the server's models in a pass over samples, by architecture."""
        samples = Samples(x, None, torch.arange(len(x)))
        loss, told = Distil(KL(self.temperature), "teacher"), Knowledge.rows("logits", teacher)
        step = Train(on="public", terms=[loss], batch_size=self.batch_size)
        students = {kind: model for kind, model in self.model.items() if kind != GENERATOR}
        return {
            kind: model.train(step, {"teacher": told}, f"distil/{number}", samples)
            for kind, model in students.items()
        }

"""FedDF (Lin, Kong, Stich and Jaggi, NeurIPS 2020, arXiv:2006.07242)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from fedkt.context import ServerNet
from fedkt.fusion import mean_by_examples
from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.options import Count, Positive
from fedkt.recipe import Load, Recipe, Train, Weights
from fedkt.registry import register
from fedkt.strategies.server.model import ServerModel
from fedkt.strategies.server.strategy import KnowledgeStrategy
from fedkt.training import TrainingOptions


@register
class FedDF(KnowledgeStrategy):
    """Average within each architecture, then distil the mean logits of all clients' models.

    Algorithm 3. The server holds public inputs, which the clients need not have. It asks every
    client's model about them; the mean of the logits is the teacher (AVGLOGITS, section 3). For
    each architecture the student begins with the mean of its clients' weights, by examples, and
    minimises KL(softmax(z̄ / T) ‖ softmax(z / T)), mean over the batch. Clients go on with their
    student. ``distil_epochs=0`` with one architecture is :class:`~fedkt.strategies.FedAvg`.

    The loss is multiplied by T²; the paper's T is 1. Its steps are 10,000 at most, with a cosine
    schedule, and end early by validation samples at the server; here the number of passes is fixed.
    The authors' program averages losses instead of logits by default, and may drop teachers that
    are worse than chance. The student of the architecture that most clients have is evaluated.

    Bytes a round and client with P parameters: up 4P, down 4P (broadcast to an architecture).

    Parameters
    ----------
    local_epochs, distil_epochs : int
        Passes of clients over private, and of students over public data; the paper's clients make
        40.
    learning_rate : float
        Of the students, by Adam.
    temperature : float
        T > 0.
    """

    name = "feddf"
    needs_samples = True
    only = ""  # the part of the students that learns

    def __init__(
        self,
        local_epochs: Count = 5,
        distil_epochs: Count = 5,
        learning_rate: Positive = 1e-3,
        temperature: Positive = 1.0,
    ) -> None:
        self.local_epochs, self.distil_epochs = local_epochs, distil_epochs
        self.learning_rate, self.temperature = learning_rate, temperature

    def recipe(self) -> Recipe:
        """Return the recipe: load the architecture's weights, train, share them, load."""
        return Recipe(
            learn=[
                Load(group="architecture"),
                Train(on="private", terms=[CrossEntropy()], epochs=self.local_epochs),
            ],
            share=[Weights(group="architecture")],
            absorb=[Load(group="architecture")],
        )

    def models(self) -> Mapping[str, ServerNet]:
        """Return a student of each architecture."""
        kinds = Counter(str(about["architecture"]) for about in self.round.about.values())
        self.serves = kinds.most_common(1)[0][0]
        options = TrainingOptions("adam", self.learning_rate)
        return {kind: ServerNet(kind, options) for kind in sorted(kinds)}

    def first(self, weights: Knowledge | None) -> Fused:
        """Return the first weights of each client's architecture."""
        return self.current()

    def current(self) -> Fused:
        """Return the student of each client's architecture; clients that were away need it too."""
        kinds = {client: str(told["architecture"]) for client, told in self.round.about.items()}
        students = {kind: self.model[kind].weights() for kind in set(kinds.values())}
        return Fused(personal={c: {"weights": students[kind]} for c, kind in kinds.items()})

    def fuse(self, uploads: Uploads) -> Fused:
        """Return each architecture's student, after it has learnt from all clients' models."""
        teacher = self.teacher(uploads, self.answers(uploads))
        return self.students(uploads, Knowledge.rows("logits", teacher), self.distil_epochs)

    def teacher(self, uploads: Uploads, answers: Tensor) -> Tensor:
        """Return the logits ``[M, C]`` to teach, from those of the clients, ``[N, M, C]``."""
        return answers.mean(0)

    def answers(self, uploads: Uploads) -> Tensor:
        """Return the logits ``[N, M, C]`` of the clients' models on the server's samples."""
        x = self.samples.public.x
        asked = (model.ask(mine, x, grad=False) for model, mine in self.members(uploads))
        return torch.stack([outputs.logits for outputs in asked])

    def members(self, uploads: Uploads) -> list[tuple[ServerModel, dict[str, Tensor]]]:
        """Return the clients' models: one like it at the server, and the weights to ask it with."""
        by_client = {
            client: (self.model[kind], {name: t[k] for name, t in stack.tensors.items()})
            for kind, stack in uploads.groups("weights").items()
            for k, client in enumerate(stack.clients)
        }
        return [by_client[client] for client in uploads.clients]

    def students(self, uploads: Uploads, teacher: Knowledge, epochs: int) -> Fused:
        """Return the mean weights of each architecture after some passes of distillation."""
        loss = Distil(KL(self.temperature), "teacher")
        step = Train(on="public", terms=[loss], epochs=epochs, only=self.only)
        losses = {}
        for kind, stack in uploads.groups("weights").items():
            student = self.model[kind]
            student.load_weights(mean_by_examples(stack).shared["weights"])
            losses[kind] = student.train(step, {"teacher": teacher}, "distil")
        return self.current().with_diagnostics(losses=losses)

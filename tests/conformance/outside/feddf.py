"""FedDF for mixed architectures: a server model of each learns from all clients' models.

Lin, Kong, Stich & Jaggi: Ensemble Distillation for Robust Model Fusion in Federated Learning,
NeurIPS 2020, arXiv:2006.07242.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch

from fedkt import (
    Fused,
    Knowledge,
    KnowledgeStrategy,
    Load,
    Recipe,
    ServerNet,
    Train,
    TrainingOptions,
    Uploads,
    Weights,
    register,
)
from fedkt.fusion import mean_by_examples
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.options import Count, Positive


@register
class FedDF(KnowledgeStrategy):
    """Average within each architecture, then distil the mean logits of all clients' models.

    Algorithm 3. The server holds public inputs, which the clients need not have. It asks every
    client's model about them; the mean of the logits is the teacher (AVGLOGITS, section 3). For
    each architecture the student begins with the mean of its clients' weights, by examples, and
    minimises KL(softmax(teacher) ‖ softmax(student)). Clients go on with their student.

    Differences: the numbers of passes are fixed, without early stopping on validation samples.
    The student of the architecture that most clients have is evaluated.
    """

    name = "feddf"
    needs_samples = True

    def __init__(
        self, local_epochs: Count = 1, distil_epochs: Count = 2, learning_rate: Positive = 1e-3
    ) -> None:
        self.local_epochs, self.distil_epochs = local_epochs, distil_epochs
        self.learning_rate = learning_rate

    def recipe(self) -> Recipe:
        return Recipe(
            learn=[
                Load(group="architecture"),
                Train(on="private", terms=[CrossEntropy()], epochs=self.local_epochs),
            ],
            share=[Weights(group="architecture")],
            absorb=[Load(group="architecture")],
        )

    def models(self) -> Mapping[str, ServerNet]:
        kinds = Counter(str(about["architecture"]) for about in self.round.about.values())
        self.serves = kinds.most_common(1)[0][0]
        options = TrainingOptions("adam", self.learning_rate)
        return {kind: ServerNet(kind, options) for kind in sorted(kinds)}

    def first(self, weights: Knowledge | None) -> Fused:
        students = {kind: model.weights() for kind, model in self.model.items()}
        about = self.round.about
        return Fused(
            personal={
                client: {"weights": students[str(told["architecture"])]}
                for client, told in about.items()
            }
        )

    def fuse(self, uploads: Uploads) -> Fused:
        groups, x = uploads.groups("weights"), self.samples.public.x
        answers = [
            self.model[kind].ask({n: t[k] for n, t in stack.tensors.items()}, x, grad=False).logits
            for kind, stack in groups.items()
            for k in range(len(stack))
        ]
        teacher = Knowledge.rows("logits", torch.stack(answers).mean(0))
        step = Train(on="public", terms=[Distil(KL(), "teacher")], epochs=self.distil_epochs)
        personal: dict[int, dict[str, Knowledge]] = {}
        losses = {}
        for kind, stack in groups.items():
            student = self.model[kind]
            student.load_weights(mean_by_examples(stack).shared["weights"])
            losses[kind] = student.train(step, {"teacher": teacher}, "distil")
            fused = student.weights()
            personal |= {client: {"weights": fused} for client in stack.clients}
        return Fused(personal=personal, diagnostics={"losses": losses})

"""FedMD (Li and Wang, 2019, arXiv:1910.03581)."""

from __future__ import annotations

from typing import Literal

from fedkt.errors import ConfigError
from fedkt.fusion import TrustRule, mean, trust_rule, trusted_mean
from fedkt.fusion.trust_rules import Root
from fedkt.knowledge import Fused, Uploads
from fedkt.objectives import KL, MAE, MSE, CrossEntropy, Distil, Divergence
from fedkt.options import AtLeastOne, Count, Factor, Positive
from fedkt.recipe import Predict, Recipe, Train, Weighted
from fedkt.registry import register
from fedkt.strategies.server.fusing import fusion_round
from fedkt.strategies.server.student import StudentStrategy


@register
class FedMD(StudentStrategy):
    """Average the clients' answers on a public set; every client learns the average.

    As published: raw logits, uniform mean, mean absolute error, and first a training
    phase on the *labelled* public set (``transfer_epochs``, off by default because a
    public set need not have labels). The paper's order in a round is share, digest,
    revisit private data; here private training opens the round instead of closing it,
    so the two differ by half a round and evaluation comes after the digest.

    Bytes a round and client, M public samples in use, C classes: up 4MC, down 4MC
    (broadcast).

    Parameters
    ----------
    form : {"logits", "probabilities"}
        Kind of the shared answers. The mean of probabilities is the common "average"
        baseline of the later literature.
    loss : {"mae", "mse", "kl"}, optional
        Loss against the average; by default ``mae`` for logits, ``kl`` for
        probabilities.
    temperature : float
        T of shared probabilities and of ``kl``.
    local_epochs, distil_epochs : int
        Passes over the private and over the public data a round.
    distil_steps : int
        Distillation takes at least so many batches, on a small public set in more passes than
        ``distil_epochs``; none at all without any. Not in the paper.
    transfer_epochs : int
        Passes over the labelled public set before the first round.
    public_samples : int
        Number of public samples drawn each round (the paper: 5000); 0 takes all.
    rehearsal : float
        μ ≥ 0: while distilling, every step also draws a private batch, whose cross-entropy
        counts μ times.
    trust : TrustRule or str
        The clients that the average relies on: ``off``, ``correlation``, ``per-class``,
        ``median``, ``root`` or another rule (``fedkt list trust-rules``). Not in the paper. With
        logits, trust acts on logits: softened logits are averaged with weights r_n. ``root`` is for
        probabilities, and needs ``options.public_labels``, the labels of some public samples at the
        server.
    root : int
        For ``trust="root"``: public samples with ids below it are its labelled rows.
    student : bool
        Whether the server trains a model of its own on the average, with the clients' loss and
        as many passes. Not in the paper. Clients are not touched by it.
    """

    name = "fedmd"

    def __init__(
        self,
        form: Literal["logits", "probabilities"] = "logits",
        loss: Literal["mae", "mse", "kl"] | None = None,
        temperature: Positive = 1.0,
        local_epochs: Count = 5,
        distil_epochs: Count = 3,
        distil_steps: Count = 30,
        transfer_epochs: Count = 0,
        public_samples: Count = 0,
        rehearsal: Factor = 0.0,
        trust: TrustRule | str = "off",
        root: AtLeastOne = Root.root,
        student: bool = False,
    ) -> None:
        loss = loss or ("mae" if form == "logits" else "kl")
        divergences: dict[str, Divergence] = {"mae": MAE(), "mse": MSE(), "kl": KL(temperature)}
        if loss not in divergences or (form == "probabilities" and loss != "kl"):
            raise ConfigError(f"fedmd: loss {loss!r} does not fit form {form!r}.")
        self._rule = trust_rule(trust, root=root)
        if form not in self._rule.forms:
            forms = " or ".join(map(repr, self._rule.forms))
            raise ConfigError(f"fedmd: trust {self._rule.title!r} needs form = {forms}.")
        self.form, self.loss, self.temperature = form, loss, temperature
        self.local_epochs, self.distil_epochs = local_epochs, distil_epochs
        self.distil_steps = distil_steps
        self.transfer_epochs, self.public_samples = transfer_epochs, public_samples
        self.rehearsal, self.trust, self.root = rehearsal, trust, root
        self._divergence = divergences[loss]
        self.teach(student)

    def recipe(self) -> Recipe:
        """Return the recipe: private training, answers on the public set, digest of the average."""
        transfer = Train(on="public", terms=[CrossEntropy()], epochs=self.transfer_epochs)
        distil = Train(
            on="public",
            terms=[Distil(self._divergence)],
            epochs=self.distil_epochs,
            least_steps=self.distil_steps if self.distil_epochs else 0,
            rehearse=[Weighted(self.rehearsal, CrossEntropy())] if self.rehearsal else [],
        )
        predict = Predict(
            form=self.form,
            temperature=self.temperature if self.form == "probabilities" else 1.0,
            samples=self.public_samples,
            partial=self._rule.partial,  # averages leave absent rows out
        )
        return Recipe(
            start=[transfer] if self.transfer_epochs else [],
            learn=[Train(on="private", terms=[CrossEntropy()], epochs=self.local_epochs)],
            share=[predict],
            absorb=[distil],
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of the answers, with equal weights or weights by trust; broadcast."""
        fused = (
            trusted_mean(uploads["public"], self._rule, fusion_round(self))
            if self._rule.judges
            else mean(uploads["public"])
        )
        step = Train(
            on="public",
            terms=[Distil(self._divergence)],
            epochs=self.distil_epochs,
            least_steps=self.distil_steps if self.distil_epochs else 0,
        )
        return self.taught(fused, step, fused.shared)

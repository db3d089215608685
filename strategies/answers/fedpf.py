"""Prior-free knowledge fusion (ours): a combination of published parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from fedkt.fusion import TrustRule, trust_rule, trusted_mean
from fedkt.fusion.trust_rules import Root
from fedkt.fusion.weighting import Weighting, sample_weights
from fedkt.knowledge import Fused, Kind, Uploads
from fedkt.objectives import KL, AdjustedCrossEntropy, CrossEntropy, Distil, Term
from fedkt.options import AtLeastOne, Count, Factor, Memory
from fedkt.readouts import ReadOut
from fedkt.recipe import Predict, Recipe, Train, Weighted
from fedkt.registry import register
from fedkt.strategies.server.fusing import fusion_round
from fedkt.strategies.server.strategy import KnowledgeStrategy


@register
class FedPF(KnowledgeStrategy):
    """Share answers free of each client's class prior; all distil one common target.

    Private training uses logits adjusted by the client's own class prior (Menon et al.
    2021; Ren et al. 2020), so that uploads depend on p(x | y) and not on the client's
    p(y). The server averages softmax(z) with weights exp(-γ H) per sample and broadcasts
    one target. While clients distil it, they rehearse private data with weight μ. Each model
    answers twice: z for all clients, z + log π for its own client (Bayes' rule for label
    shift, Saerens et al. 2002). This is a combination of published parts, not a new principle.
    It assumes that p(x | y) is the same at all clients. The class counts never leave a client.

    scikit-learn clients have no adjusted loss. Instead, their probabilities are divided by the
    class frequencies of the fitted rows.

    γ = 0, μ = 0 and ``prior="off"`` with ``readout="raw"`` and ``trust="off"`` is FedMD
    with probabilities.

    Bytes a round and client, M public samples in use, C classes: up 4MC, down 4MC
    (broadcast). With ``readout="gate"`` 300 more each way (broadcast): 75 mean losses of the
    client's held-out samples, the only information on its labels. Trust does not judge them.

    Parameters
    ----------
    gamma : float
        γ ≥ 0; a higher one gives more weight to clients that are sure of a sample.
    mu : float
        μ ≥ 0, weight of the private batch beside each public batch.
    prior : {"eb", "off"}
        Adjust private losses by the empirical-Bayes prior, or use plain cross-entropy.
    floor : float
        In [0, 1): private losses use the prior (1 - floor) π + floor / C, without which a client of
        one class learns next to nothing; the read-out keeps π. 0 is the first edition.
    readout : ReadOut or str
        The personal answer: ``prior``, ``raw``, ``mix``, ``gate`` or another of
        ``fedkt.readouts``. ``gate`` chooses by the validation
        samples, which must be held out for it (``data.validation_fraction = 0.15``). Validation
        accuracy is then slightly too high.
    trust : TrustRule or str
        The clients that the server relies on: ``correlation``, ``per-class``, ``median``, ``root``,
        ``off`` or another rule (``fedkt list trust-rules``). ``root`` needs
        ``options.public_labels``, the labels of some public samples at the server.
    weighting : {"entropy", "variance", "uniform"}
        Per-sample weights; γ is for ``entropy``.
    history : float
        Weight of past rounds in the correlations, in [0, 1).
    local_epochs, distil_epochs : int
        Passes over the private and over the public data a round.
    distil_steps : int
        Distillation takes at least so many batches, on a small public set in more passes than
        ``distil_epochs``.
    public_samples : int
        Number of public samples drawn each round; 0 takes all.
    root : int
        For ``trust="root"``: public samples with ids below it are its labelled rows.
    """

    name = "fedpf"

    def __init__(
        self,
        gamma: Factor = 3.0,
        mu: Factor = 1.0,
        prior: Literal["eb", "off"] = "eb",
        floor: Memory = 0.05,
        readout: ReadOut | str = "prior",
        trust: TrustRule | str = "correlation",
        weighting: Weighting = "entropy",
        history: Memory = Root.history,
        local_epochs: Count = 5,
        distil_epochs: Count = 3,
        distil_steps: Count = 30,
        public_samples: Count = 0,
        root: AtLeastOne = Root.root,
    ) -> None:
        self.gamma, self.mu, self.prior, self.readout = gamma, mu, prior, readout
        self.floor = floor
        self.trust, self.weighting, self.history = trust, weighting, history
        self.root, self._rule = root, trust_rule(trust, history=history, root=root)
        self.local_epochs, self.distil_epochs = local_epochs, distil_epochs
        self.distil_steps = distil_steps
        self.public_samples = public_samples

    def recipe(self) -> Recipe:
        """Return the recipe: train with adjusted logits, share logits, distil and rehearse."""
        private: Term = AdjustedCrossEntropy(self.floor) if self.prior == "eb" else CrossEntropy()
        distil = Train(
            on="public",
            terms=[Distil(KL())],
            epochs=self.distil_epochs,
            least_steps=self.distil_steps,
            rehearse=[Weighted(self.mu, private)] if self.mu else [],
        )
        return Recipe(
            learn=[Train(on="private", terms=[private], epochs=self.local_epochs)],
            share=[Predict(form="logits", samples=self.public_samples)],
            absorb=[distil],
            readout=self.readout,
        )

    @property
    def fused_kinds(self) -> Mapping[str, Kind]:
        """The kind of the fused answers."""
        return {"public": "probabilities"}

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of the probabilities, weighted by certainty and trust; broadcast."""
        return trusted_mean(
            uploads["public"],
            self._rule,
            fusion_round(self),
            "probabilities",
            weigh=lambda logits: sample_weights(logits, self.weighting, self.gamma),
        )

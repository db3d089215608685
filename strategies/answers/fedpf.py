"""Prior-free knowledge fusion (ours): a combination of published parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from fedkt.context import ServerNet
from fedkt.fusion import TrustRule, mean_by_examples, trust_rule, trusted_mean
from fedkt.fusion.trust_rules import Root
from fedkt.fusion.weighting import Weighting, sample_weights
from fedkt.knowledge import Fused, Kind, Knowledge, Uploads
from fedkt.objectives import KL, AdjustedCrossEntropy, CrossEntropy, Distil, Term
from fedkt.options import AtLeastOne, Count, Factor, Fraction, Memory
from fedkt.readouts import ReadOut
from fedkt.recipe import Load, Predict, Recipe, Step, Train, Weighted, Weights
from fedkt.registry import register
from fedkt.shares import Share
from fedkt.steps import GatedLoad
from fedkt.strategies.server.common_start import START, starting_nets, starts
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
    class frequencies of the fitted rows, with the same floor.

    γ = 0, μ = 0 and ``prior="off"`` with ``readout="raw"`` and ``trust="off"`` is FedMD
    with probabilities.

    Bytes a round and client, M public samples in use, C classes: up 4MC, down 4MC
    (broadcast). With ``readout="gate"`` 300 more each way (broadcast): 75 mean losses of the
    client's held-out samples, the only information on its labels. Trust does not judge them. With
    ``pull``, P parameters: 4P more each way (broadcast to an architecture), 4P down at the start.

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
        one class learns next to nothing; the read-out keeps π. 0 is the first edition. Clients of
        one class each need more at higher learning rates (MNIST: 0.05 at 1e-3, 0.3 at 3e-3).
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
    pull : float
        In [0, 1]; 0: no weights travel. Above 0 clients share their weights too, and take a step
        ``pull`` towards the mean of their architecture's before they distil, as far as it suits
        their data (:class:`~fedkt.steps.GatedLoad`; 0.5 is the measured value). All clients of an
        architecture then begin with the same weights. It helps where answers are too narrow a
        channel: a foreign or tiny public set, few clients a round, even data. It costs under
        domain shift. Weights reveal more of private samples than answers do, and trust does not
        judge them: their mean is by examples. For networks.
    local_epochs, distil_epochs : int
        Passes over the private and over the public data a round.
    distil_steps : int
        Distillation takes at least so many batches, on a small public set in more passes than
        ``distil_epochs``; none at all without any.
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
        pull: Fraction = 0.0,
        local_epochs: Count = 5,
        distil_epochs: Count = 3,
        distil_steps: Count = 30,
        public_samples: Count = 0,
        root: AtLeastOne = Root.root,
    ) -> None:
        self.gamma, self.mu, self.prior, self.readout = gamma, mu, prior, readout
        self.floor, self.pull = floor, pull
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
            least_steps=self.distil_steps if self.distil_epochs else 0,
            rehearse=[Weighted(self.mu, private)] if self.mu else [],
        )
        share: list[Share] = [Predict(form="logits", samples=self.public_samples)]
        start: list[Step] = []
        absorb: list[Step] = [distil]
        if self.pull:
            start = [Load(START, "architecture")]
            share.append(Weights(group="architecture"))
            absorb.insert(0, self._gated())
        return Recipe(
            start=start,
            learn=[Train(on="private", terms=[private], epochs=self.local_epochs)],
            share=share,
            absorb=absorb,
            given=[START] if self.pull else [],
            readout=self.readout,
        )

    def _gated(self) -> GatedLoad:
        return GatedLoad(group="architecture", rate=self.pull, prior=self.prior == "eb")

    @property
    def has_models(self) -> bool:
        """Whether the server draws the first weights of each architecture."""
        return bool(self.pull)

    def models(self) -> Mapping[str, ServerNet]:
        """Return a model of each architecture, if clients begin with the same weights."""
        return starting_nets(self.round.about) if self.pull else {}

    def first(self, weights: Knowledge | None) -> Fused:
        """Return the first weights of each client's architecture, if they begin with the same."""
        return Fused(personal=starts(self.model, self.round.about)) if self.pull else Fused()

    @property
    def fused_kinds(self) -> Mapping[str, Kind]:
        """The kind of the fused answers."""
        return {"public": "probabilities"}

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of the probabilities, weighted by certainty and trust; broadcast.

        With a pull also the mean weights of each architecture; a lone client gets its own back.
        """
        fused = trusted_mean(
            uploads["public"],
            self._rule,
            fusion_round(self),
            "probabilities",
            weigh=lambda logits: sample_weights(logits, self.weighting, self.gamma),
        )
        return self._with_means(fused, uploads) if self.pull else fused

    def _with_means(self, fused: Fused, uploads: Uploads) -> Fused:
        """Return fused knowledge with the mean weights of architectures, by examples."""
        personal: dict[int, dict[str, Knowledge]] = starts(
            self.model, self.round.about, self._begun(uploads)
        )
        for stack in uploads.groups("weights").values():
            weights = mean_by_examples(stack).shared["weights"]
            for client in stack.clients:
                personal.setdefault(client, {})["weights"] = weights
        return replace(fused, personal=personal)

    def _begun(self, uploads: Uploads) -> list[int]:
        """Return the clients that have begun: they have shared something in this run."""
        self.memory["begun"] = sorted({*self.memory.get("begun", ()), *uploads.clients})
        return list(self.memory["begun"])

"""KD3A, decentralised domain adaptation (Feng et al., ICML 2021, arXiv:2011.09757)."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from fedkt.answers import torch_softmax
from fedkt.context import ServerNet
from fedkt.fusion import average
from fedkt.fusion.knowledge_vote import ballots, contributions, knowledge_vote, shares
from fedkt.knowledge import Fused, Knowledge, Stack, Uploads
from fedkt.objectives import CrossEntropy, Supported
from fedkt.options import Count, Factor, Memory, PositiveFraction
from fedkt.recipe import Recipe, Train
from fedkt.registry import register
from fedkt.rng import torch_rng
from fedkt.strategies.server.strategy import KnowledgeStrategy


@register
class KD3A(KnowledgeStrategy):
    """Let models of labelled sources vote on the server's target; good voters count more.

    arXiv:2011.09757. The clients are the sources; the target is the server's own samples x.
    A round:

    1. The sources train the global model by cross-entropy and upload its weights.
    2. *Knowledge vote*: the models whose confidence on x reaches the gate g vote. n(x) of them
       name the class with the largest sum of confidences, and the target p(x) is the mean of
       their answers. Where none passes, n(x) = 0. g rises linearly over the run.
    3. A copy of the last global model learns Σ n(x) KL(p(x) ‖ h(x)), batches mixed with
       themselves (mixup), from the supported samples alone.
    4. *Consensus focus*: source k's share s_k of the votes is its Shapley value in the game
       whose worth is Q(S) = Σ_x n_S(x) · confidence_S(x), over the sum of all;
       r_k ← m r_k + (1 - m) K s_k, from 1.
    5. The global model is the mean of the target's with weight σ α/(K + 1), σ the share of the
       supported samples, and of the sources' with the rest in proportion to r_k, batch
       normalisation's running means and variances included ("BatchNorm MMD").

    Written from a digest of the paper and of the authors' program; its tables are not claimed.
    Differences from both: Shapley values are exact up to 8 sources and from 128 random orders
    beyond (the program walks through all K! orders); the shares are not multiplied by the
    sources' numbers of examples (as recalled, the paper's are; its sources are of one size);
    mixup mixes the n(x) too; learning rates do not decay.

    From the paper: it keeps unsupported samples with weight 0.001 and has no σ
    (``skip_unsupported=False``). That leaves them out under plain gradient descent only: Adam
    ignores a loss's scale, and a target without any support moves as far as a source.

    From the program, which has σ too: there the target is the consensus class, one-hot, with
    cross-entropy. A sample weighs 1 or 0 instead of n(x), and batches include those of weight 0.
    The moving average is of all K + 1 weights, the target's too, and starts with those of the
    first round. A confidence must lie above the gate; here it may equal it. Models vote in
    training mode, with batch normalisation's statistics of the target's batches; here in
    evaluation mode. The target model learns from the target's own samples, without labels.

    Bytes a round and client, P parameters and float buffers in float32: up 4P, down 4P
    (broadcast), as :class:`~fedkt.strategies.FedAvg`. The target never leaves the server.

    Parameters
    ----------
    local_epochs, target_epochs : int
        Passes over the private data and over the target a round.
    local_samples, target_samples : int
        Number of samples, drawn anew, in a pass; 0 = all. The target's are drawn from the
        supported samples, and reduced by their share.
    gate_start, gate_end : float
        g in the first round and towards the end, in (0, 1]; if the number of rounds is unknown,
        g keeps its first value.
    mixup_alpha : float
        λ ~ Beta(α, α) of mixup; 0 = off.
    momentum : float
        m in [0, 1).
    target_weight : float
        α in [0, 2]; 0 leaves the target's model out.
    skip_unsupported : bool
        Whether the target's model learns from supported samples alone, with a weight in the
        average in proportion to their share.
    """

    name = "kd3a"
    needs_samples = True
    follows_progress = True

    def __init__(
        self,
        local_epochs: Count = 1,
        target_epochs: Count = 1,
        local_samples: Count = 0,
        target_samples: Count = 0,
        gate_start: PositiveFraction = 0.9,
        gate_end: PositiveFraction = 0.95,
        mixup_alpha: Factor = 2.0,
        momentum: Memory = 0.9,
        target_weight: Annotated[float, Ge(0), Le(2)] = 1.0,
        skip_unsupported: bool = True,
    ) -> None:
        self.local_epochs, self.target_epochs = local_epochs, target_epochs
        self.local_samples, self.target_samples = local_samples, target_samples
        self.gate_start, self.gate_end = gate_start, gate_end
        self.mixup_alpha, self.momentum, self.target_weight = mixup_alpha, momentum, target_weight
        self.skip_unsupported = skip_unsupported

    def recipe(self) -> Recipe:
        """Return the recipe: load the global weights, train, share the weights."""
        epochs, samples = self.local_epochs, self.local_samples
        train = Train(on="private", terms=[CrossEntropy()], epochs=epochs, samples=samples)
        return Recipe.sharing_weights(train)

    def models(self) -> dict[str, ServerNet]:
        """Return the target's model, which answers with the sources' weights too."""
        return {"target": ServerNet()}

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mean of sources and target model by consensus focus; broadcast."""
        stack: Stack = uploads["weights"]
        gate, model = self._gate(), self.model["target"]
        answers = torch.stack([self._answers(stack, k) for k in range(len(stack))])
        targets, support = knowledge_vote(answers, gate)
        share = float((support > 0).double().mean())
        kept = support > 0 if self.skip_unsupported else torch.ones_like(support, dtype=torch.bool)
        ids = kept.nonzero()[:, 0]
        votes = Knowledge("probabilities", {"values": targets[ids]}, ids, support[ids])
        model.load_weights(self.exchange.latest.shared["weights"])
        step = self._adapt(share if self.skip_unsupported else 1.0)
        loss = model.train(step, {"votes": votes}, "server") if len(ids) else None
        orders = torch_rng(self.round.seed, "kd3a", self.round.number)
        focus = shares(contributions(ballots(answers, gate), generator=orders))
        weights = self._weights(stack.clients, focus, share if self.skip_unsupported else 1.0)
        target = model.weights().tensors
        models = {n: torch.cat([t, target[n][None]]) for n, t in stack.tensors.items()}
        examples = torch.cat([stack.num_examples, torch.tensor([float(len(targets))])])
        everyone = Stack(stack.name, stack.kind, models, None, (*stack.clients, -1), examples)
        return average(everyone, weights).with_diagnostics(
            clients=list(stack.clients),
            gate=gate,
            supported=share,
            supporters=float(support.double().mean()),
            focus=focus,
            weights=weights,  # the target's is the last
            target_loss=loss,
        )

    def _gate(self) -> float:
        return self.gate_start + (self.gate_end - self.gate_start) * self.round.progress

    def _adapt(self, supported: float = 1.0) -> Train:
        # The average number of supported samples in a pass over all samples.
        samples = max(round(supported * self.target_samples), min(self.target_samples, 1))
        return Train(
            on="public",
            terms=[Supported(source="votes")],
            epochs=self.target_epochs,
            samples=samples,
            mixup=self.mixup_alpha,
        )

    def _answers(self, stack: Stack, k: int) -> Tensor:
        """Return the probabilities of the k-th source on the target, ``[M, C]``."""
        weights = {n: t[k] for n, t in stack.tensors.items()}
        self.model["target"].load_weights(Knowledge("weights", weights))
        answers = torch_softmax(self.model["target"].predict(self.samples.public.x))
        # Finite but very large weights may answer NaN: then the source knows nothing.
        broken = answers.isnan().any(-1, keepdim=True)
        return torch.where(broken, torch.full_like(answers, 1 / answers.shape[-1]), answers)

    def _weights(self, clients: tuple[int, ...], focus: Tensor, supported: float) -> Tensor:
        """Return the weights of the sources and of the target, float32 ``[K + 1]``."""
        kept: dict[int, float] = self.memory.setdefault("focus", {})
        for client, share in zip(clients, focus.tolist(), strict=True):
            fresh = (1 - self.momentum) * share * len(clients)
            kept[client] = self.momentum * kept.get(client, 1.0) + fresh
        target = supported * self.target_weight / (len(clients) + 1)
        sources = shares(torch.tensor([kept[c] for c in clients], dtype=torch.float64))
        return torch.cat([(1 - target) * sources, torch.tensor([target])]).to(torch.float32)

"""KD3A, decentralised domain adaptation by knowledge distillation (Feng et al., ICML 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt.errors import ConfigError
from fedkt.fusion import average
from fedkt.fusion.knowledge_vote import ballots, contributions, knowledge_vote, shares
from fedkt.knowledge import Fused, Knowledge, Stack, Uploads
from fedkt.objectives import CrossEntropy, Supported
from fedkt.recipe import Recipe, Train
from fedkt.registry import register
from fedkt.rng import torch_rng
from fedkt.strategies.base import KnowledgeStrategy


@register
class KD3A(KnowledgeStrategy):
    """Models of labelled sources vote on the server's unlabelled target; good voters count more.

    arXiv:2011.09757. The clients are the sources; the target is the server's own samples x.
    A round:

    1. The sources train the global model by cross-entropy and upload its weights.
    2. *Knowledge vote*: the models whose confidence on x reaches the gate g vote. The target
       p(x) is the mean answer of the n(x) of them that name the class with the largest sum of
       confidences; where none passes, the mean answer of all with weight 0.001. g rises
       linearly over the run.
    3. A copy of the last global model learns Σ n(x) KL(p(x) ‖ h(x)), batches mixed with
       themselves (mixup).
    4. *Consensus focus*: source k's share s_k of the votes is its Shapley value in the game
       whose worth is Q(S) = Σ_x n_S(x) · confidence_S(x), over the sum of all;
       r_k ← m r_k + (1 - m) K s_k, from 1.
    5. The global model is the mean of the target's with weight α/(K + 1) and of the sources'
       with the rest in proportion to r_k, batch normalisation's running means and variances
       included ("BatchNorm MMD").

    Written from a digest of the paper and of its program; its tables are not claimed.
    Differences: Shapley values are exact up to 8 sources and from 128 random orders beyond (the
    program walks through all K! orders); the shares are not multiplied by the sources' numbers
    of examples (as recalled, the paper's are; its sources are of one size); mixup mixes the
    n(x) too; learning rates do not decay.
    What the target model learns from are the target's own samples, without labels.

    Bytes a round and client, P parameters and float buffers in float32: up 4P, down 4P
    (broadcast), as :class:`~fedkt.strategies.fedavg.FedAvg`. The target never leaves the server.

    Parameters
    ----------
    local_epochs, target_epochs : int
        Passes over the private data and over the target a round.
    local_samples, target_samples : int
        How many samples, drawn anew, a pass sees; 0 = all.
    gate_start, gate_end : float
        g in the first round and towards the end, in (0, 1]; without a known number of rounds
        it stays where it starts.
    mixup_alpha : float
        λ ~ Beta(α, α) of mixup; 0 = off.
    momentum : float
        m in [0, 1).
    target_weight : float
        α in [0, 2]; 0 leaves the target's model out.
    """

    name = "kd3a"
    needs_server_model = True
    follows_progress = True

    def __init__(
        self,
        local_epochs: int = 1,
        target_epochs: int = 1,
        local_samples: int = 0,
        target_samples: int = 0,
        gate_start: float = 0.9,
        gate_end: float = 0.95,
        mixup_alpha: float = 2.0,
        momentum: float = 0.9,
        target_weight: float = 1.0,
    ) -> None:
        if not (0 < gate_start <= 1 and 0 < gate_end <= 1):
            raise ConfigError(
                f"kd3a: gate_start and gate_end must lie in (0, 1], not {gate_start}, {gate_end}."
            )
        if not 0 <= momentum < 1:
            raise ConfigError(f"kd3a: momentum must lie in [0, 1), not {momentum}.")
        if not 0 <= target_weight <= 2:
            raise ConfigError(f"kd3a: target_weight must lie in [0, 2], not {target_weight}.")
        self.local_epochs, self.target_epochs = local_epochs, target_epochs
        self.local_samples, self.target_samples = local_samples, target_samples
        self.gate_start, self.gate_end = gate_start, gate_end
        self.mixup_alpha, self.momentum, self.target_weight = mixup_alpha, momentum, target_weight
        self._adapt()  # a bad number shows here

    def recipe(self) -> Recipe:
        """Start from the global weights, train, share the weights, take the fused ones."""
        epochs, samples = self.local_epochs, self.local_samples
        train = Train(on="private", terms=[CrossEntropy()], epochs=epochs, samples=samples)
        return Recipe.sharing_weights(train)

    def fuse(self, uploads: Uploads) -> Fused:
        """Let the sources vote, train on the votes, average by consensus focus."""
        stack: Stack = uploads["weights"]
        gate, round_, rounds = self._gate(), self.exchange.report.round, self.exchange.rounds
        answers = torch.stack([self._answers(stack, k) for k in range(len(stack))])
        targets, support = knowledge_vote(answers, gate)
        ids = torch.arange(len(targets))
        votes = Knowledge("probabilities", {"values": targets}, ids, support)
        self.server.load_weights(self.exchange.latest.shared["weights"])
        loss = self.server.train(self._adapt(), {"votes": votes}, round_, rounds)
        orders = torch_rng(self.options.seed, "kd3a", round_)
        focus = shares(contributions(ballots(answers, gate), generator=orders))
        weights = self._weights(stack.clients, focus)
        own = self.server.weights().tensors
        models = {n: torch.cat([t, own[n][None]]) for n, t in stack.tensors.items()}
        examples = torch.cat([stack.num_examples, torch.tensor([float(len(targets))])])
        everyone = Stack(stack.name, stack.kind, models, None, (*stack.clients, -1), examples)
        return average(everyone, weights).with_diagnostics(
            clients=list(stack.clients),
            gate=gate,
            supported=float((support > 0).double().mean()),
            supporters=float(support.double().mean()),
            focus=focus,
            weights=weights,  # the target's is the last
            target_loss=loss,
        )

    def _gate(self) -> float:
        rounds = self.exchange.rounds
        progress = (self.exchange.report.round - 1) / rounds if rounds else 0.0
        return self.gate_start + (self.gate_end - self.gate_start) * progress

    def _adapt(self) -> Train:
        return Train(
            on="public",
            terms=[Supported(source="votes")],
            epochs=self.target_epochs,
            samples=self.target_samples,
            mixup=self.mixup_alpha,
        )

    def _answers(self, stack: Stack, k: int) -> Tensor:
        """Return what the k-th source says of the target, ``[M, C]``."""
        weights = {n: t[k] for n, t in stack.tensors.items()}
        self.server.load_weights(Knowledge("weights", weights))
        answers = F.softmax(self.server.predict(), dim=-1)
        # Weights that are finite, but huge, answer NaN: then the source knows nothing.
        broken = answers.isnan().any(-1, keepdim=True)
        return torch.where(broken, torch.full_like(answers, 1 / answers.shape[-1]), answers)

    def _weights(self, clients: tuple[int, ...], focus: Tensor) -> Tensor:
        """Return the weights of the sources and of the target, float32 ``[K + 1]``."""
        kept: dict[int, float] = self.memory.setdefault("focus", {})
        for client, share in zip(clients, focus.tolist(), strict=True):
            fresh = (1 - self.momentum) * share * len(clients)
            kept[client] = self.momentum * kept.get(client, 1.0) + fresh
        own = self.target_weight / (len(clients) + 1)
        sources = shares(torch.tensor([kept[c] for c in clients], dtype=torch.float64))
        return torch.cat([(1 - own) * sources, torch.tensor([own])]).to(torch.float32)

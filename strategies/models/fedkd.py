"""FedKD (Wu, Wu, Lyu, Huang and Xie, Nature Communications 13, 2022, arXiv:2108.13323)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from fedkt.about import Model
from fedkt.fusion import mean_by_examples
from fedkt.knowledge import Fused, Knowledge, Uploads
from fedkt.objectives import KL, Batch, Net, Outputs, weighted_mean
from fedkt.options import Count, Factor, PositiveFraction
from fedkt.recipe import Load, Recipe, Train, Weights
from fedkt.registry import register
from fedkt.shares.share import ShareWork
from fedkt.strategies.server.strategy import KnowledgeStrategy

MENTEE = Net("mentee")


@register
@dataclass(frozen=True)
class AdaptiveMutual:
    """Both losses of adaptive mutual distillation: task losses, and divergences divided by them.

    L_t = CE_t + γ KL(s ‖ t) / (CE_t + CE_s) for the mentor t, and
    L_s = CE_s + γ KL(t ‖ s) / (CE_t + CE_s) for the mentee s, all of them means over the batch: the
    two learn more from each other while both are right. Each network learns from its own loss; the
    other's answers and the divisor are constants there.

    Parameters
    ----------
    factor : float
        γ ≥ 0; the paper's is 1.
    mentee : Net
        The shared network.
    """

    factor: Factor = 1.0
    mentee: Net = MENTEE
    part: ClassVar[str] = "objectives"
    name: ClassVar[str] = "adaptive-mutual"
    needs_labels: ClassVar[bool] = True

    def needs(self) -> tuple[str, ...]:
        """Return no names: the mentee is at the client."""
        return ()

    def __call__(
        self, outputs: Outputs, batch: Batch, knowledge: Mapping[str, Knowledge]
    ) -> Tensor:
        """Return the sum of both losses."""
        assert batch.y is not None
        mentor, mentee = outputs.logits, self.mentee(outputs.parameters, batch.x).logits
        tasks = F.cross_entropy(mentor, batch.y, reduction="none")
        tasks = tasks + F.cross_entropy(mentee, batch.y, reduction="none")
        apart = KL()(mentor, mentee, "logits") + KL()(mentee, mentor, "logits")
        task = weighted_mean(tasks, batch.weight)
        scale = self.factor / task.detach().clamp_min(1e-8)  # of padding alone both are 0
        return task + scale * weighted_mean(apart, batch.weight)


@register(name="update")
@dataclass(frozen=True)
class Update(Weights):
    """The change of a part of the weights since the fused ones of the same name arrived."""

    def needs(self) -> tuple[str, ...]:
        """Return the name of the weights that arrived."""
        return (self.name,)

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the change."""
        received, now = work.knowledge[self.name].tensors, self.first(model)
        return now.with_tensors({n: t - received[n] for n, t in now.tensors.items()})


@register
class FedKD(KnowledgeStrategy):
    """Every client trains a private mentor and a shared mentee; the mentees' updates are low-rank.

    Wu, Wu, Lyu, Huang and Xie, "Communication-efficient federated learning via knowledge
    distillation", Nature Communications 13, 2022, arXiv:2108.13323. Mentor and mentee teach each
    other (:class:`AdaptiveMutual`). The change of the mentee in a round goes up, the server adds
    the mean of the changes, by number of examples, to its mentee, and the change of that goes down.
    Both ways each matrix travels as the factors of its singular value decomposition of rank K, the
    smallest with Σ_{i≤K} s_i² ≥ E·Σ s_i², where E = E_start + (E_end - E_start) r / R after round r
    of R; a matrix whose factors would be larger travels whole. Personal answers are the mentor's,
    global accuracy is the mentee's.

    Without distillation (γ = 0) mentors train alone and mentees are FedAvg's; with E = 1 nothing is
    left out, but for rounding.

    Bytes a round and client, S = Σ 4 min(K (n + m), n m) over the n × m matrices of the mentee and
    its vectors as they are: up S, down S (broadcast), there only of the rows that change, and with
    a bit for each row where some do not. The first mentee goes down whole, and any to a client of
    which the server does not know what it has. A codec of the run has no part in it.

    Differences: the paper adds losses between hidden states and between attention maps, which
    networks of any kind do not have. What the decomposition leaves out on the way down is part of
    the next change; in the authors' program it is lost. That program lets gradients through the
    divisor and through the other's answers, divides the divergence by the number of classes as
    well, finds K = 0 where only the full rank has the energy, so that the change becomes zero, and
    cannot multiply its factors. Another known program decomposes the weights instead of changes.

    Parameters
    ----------
    energy_start, energy_end : float
        E in (0, 1] at the beginning and at the end of the run.
    distillation : float
        γ ≥ 0, of the divergences in both losses.
    mentee : str
        The registered model that is shared; ``own`` is one like the client's, for one architecture.
    local_epochs : int
        Passes over the private data a round.
    """

    name = "fedkd"
    exempt: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("bytes_are_the_formula", "its_bytes_are_the_formula", "float16_halves_the_floats"),
            "what travels has codecs of its own, whose bytes depend on ranks",
        )
    }

    def __init__(
        self,
        energy_start: PositiveFraction = 0.95,
        energy_end: PositiveFraction = 0.98,
        distillation: Factor = 1.0,
        mentee: str = MENTEE.model,
        local_epochs: Count = 5,
    ) -> None:
        self.energy_start, self.energy_end = energy_start, energy_end
        self.distillation, self.mentee, self.local_epochs = distillation, mentee, local_epochs

    def recipe(self) -> Recipe:
        """Return the recipe: load the mentee, train both mutually, share the mentee's change."""
        net = Net(MENTEE.name, self.mentee)
        terms = [AdaptiveMutual(self.distillation, net)]
        svd = f"svd(energy=linear(start={self.energy_start}, end={self.energy_end}))"
        part = f"heads.{net.name}."
        return Recipe(
            learn=[Load(net.name), Train("private", terms, epochs=self.local_epochs)],
            share=[Update(net.name, of=part, codec_up=svd, codec_down=f"delta(then={svd})")],
            absorb=[Load(net.name)],
            heads=[net],
            world=f"heads.{net.name}",
        )

    def first(self, weights: Knowledge | None) -> Fused:
        """Keep the first mentee; clients get it all the same."""
        self.memory["mentee"] = weights
        return Fused()

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the mentee with the mean of its changes; broadcast."""
        change, mentee = (
            mean_by_examples(uploads[MENTEE.name]).shared["mentee"],
            self.memory["mentee"],
        )
        tensors = {n: mentee.tensors[n] + t for n, t in change.tensors.items()}
        self.memory["mentee"] = change.with_tensors(tensors)
        return Fused({MENTEE.name: self.memory["mentee"]})

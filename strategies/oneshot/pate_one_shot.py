"""FedKT (Li, He and Song, IJCAI 2021, arXiv:2010.01017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkt import about
from fedkt.about import Model
from fedkt.answers import finite, top
from fedkt.data.samples import ClientData, Samples
from fedkt.fusion.voting import counts, vote
from fedkt.knowledge import Fused, Kind, Knowledge, Uploads
from fedkt.objectives import CrossEntropy, Distil
from fedkt.options import AtLeastOne, Count
from fedkt.recipe import Predict, Recipe, Step, Train
from fedkt.registry import register
from fedkt.rng import derive, torch_rng
from fedkt.shares.ids import public_samples
from fedkt.shares.predict import Form
from fedkt.shares.share import Question, ShareWork
from fedkt.steps.train import StepWork, Trainee
from fedkt.strategies.server.student import StudentStrategy
from fedkt.training import TrainingOptions

KEPT = "unanimous-labels"
VOTES = "teachers-votes"


def consistent(labels: Tensor) -> Tensor:
    """Return on which samples all students of a party agree, bool ``[M]``.

    Parameters
    ----------
    labels : Tensor
        int64 ``[s, M]``: student j's label for each sample.
    """
    return (labels == labels[0]).all(0)


@register
@dataclass(frozen=True)
class PartyStudents(Step):
    """Train s · t teachers and s students beside the model; keep what the students agree on.

    Each of s partitions divides all private samples at random into t subsets. A teacher learns each
    subset, the teachers of a partition vote on public samples (of equal classes the first wins),
    and a student learns the votes alone. All begin untrained. For t = 1 the client's own model has
    learnt the only subset and is the teacher, and so it is where the client has no samples. The
    client's model ends as it was.

    Parameters
    ----------
    partitions, subsets : int
        s and t.
    epochs, student_epochs : int
        Passes of teachers over their subsets, and of students over public samples; without the
        latter the votes themselves are the partition's labels.
    samples : int
        Number of public samples drawn each round; 0 takes all.
    """

    partitions: AtLeastOne = 2
    subsets: AtLeastOne = 5
    epochs: Count = 100
    student_epochs: Count = 100
    samples: Count = 0

    @property
    def uses_public(self) -> bool:
        """Whether it needs the public set."""
        return True

    def keeps(self) -> tuple[str, ...]:
        """Return the name of the labels."""
        return (KEPT,)

    def about(self, model: Model, data: ClientData) -> Mapping[str, str]:
        """Return the public set."""
        return about.of_public(data)

    def as_train(self) -> Train | None:
        """Return the teachers' training: a partition's teachers see all private samples."""
        if self.subsets == 1:
            return None
        return Train("private", [CrossEntropy()], epochs=self.partitions * self.epochs)

    def budget(self, private: int, public: int, sizes: TrainingOptions) -> int:
        """Return how many private samples the teachers train on."""
        training = self.as_train()
        return 0 if training is None else training.budget(private, public, sizes)

    def run(self, learner: Trainee, work: StepWork, stream: str) -> float | None:
        """Keep the labels of the samples on which all students agree."""
        own = learner.state()
        public = public_samples(work.data.public, self.samples, work.seed, work.round)
        labels = []
        for number in range(self.partitions):
            learner.load_state(own)
            labels.append(self.partition(learner, work, public, f"{stream}/{number}"))
        learner.load_state(own)
        agreed = consistent(torch.stack(labels))
        work.keep(KEPT, Knowledge.rows("labels", labels[0][agreed], public.ids[agreed]))
        return None

    def partition(self, learner: Trainee, work: StepWork, public: Samples, stream: str) -> Tensor:
        """Return the labels ``[M]`` of a partition's student; the learner is the client's model."""
        private, classes = work.data.train, work.data.num_classes
        teach = Train("private", [CrossEntropy()], epochs=self.epochs)
        ballots = []
        if self.subsets > 1 and len(private):
            lots = torch_rng(work.seed, stream, work.round, work.client)
            order = torch.randperm(len(private), generator=lots)
            for number, rows in enumerate(order.tensor_split(self.subsets)):
                if len(rows):
                    name, its = f"{stream}/{number}", work.of_another(private.select(rows))
                    ballots.append(trained(learner, teach, its, name, public))
        else:
            ballots.append(top(finite(learner.predict(public.x))))
        votes = counts(torch.stack(ballots), classes).argmax(-1)
        if not self.student_epochs:
            return votes
        targets = F.one_hot(votes, classes).to(torch.float32)
        told = {VOTES: Knowledge.rows("probabilities", targets, public.ids)}
        its = work.of_another(private.select(torch.arange(0)), told)
        learn = Train("public", [Distil(source=VOTES)], epochs=self.student_epochs)
        return trained(learner, learn, its, f"{stream}/student", public)


def trained(learner: Trainee, step: Train, work: StepWork, stream: str, public: Samples) -> Tensor:
    """Return the labels ``[M]`` of an untrained model after a step."""
    learner.reset(derive(work.seed, stream, work.round, work.client), work.client)
    learner.train(step, work, stream)
    return top(finite(learner.predict(public.x)))


@register
@dataclass(frozen=True)
class UnanimousLabels(Predict):
    """The labels on which a party's students agree, of the public samples where they do.

    Parameters
    ----------
    form, partial
        Always labels, of some of the samples.
    """

    form: Form = "labels"
    partial: bool = True

    def questions(self, work: ShareWork) -> tuple[Question, ...]:
        """Return nothing: the labels are kept."""
        return ()

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the labels."""
        kept: Knowledge = work.own[KEPT]
        return kept


@register
class PateOneShot(StudentStrategy):
    """Parties train teachers and students; the votes of unanimous students label public samples.

    Li, He and Song, "Practical One-Shot Federated Learning for Cross-Silo Setting" (FedKT), IJCAI
    2021, arXiv:2010.01017. Party i creates s partitions of its samples with t subsets each, whose
    t teachers vote on public samples, and a student of each partition learns the votes
    (:class:`PartyStudents`). By consistent voting a sample's class m gets s votes of a party whose
    students all say m, and none of a party whose students differ: v_m = s |{i : v_m^i = s}|. The
    final model learns argmax_m v_m. Any classifier will do.

    A round is the whole method, for ``rounds = 1``. In further rounds the models go on, and
    teachers and students begin anew.

    Differences: the paper's parties send their students, whom the server asks about public samples;
    here they send the answers, which are the same, and only where they agree, because
    others do not count. The final model is one at the server; clients train a model of their own on
    private samples and then distil, too. Samples that no party is sure of are left out, and equal
    votes are drawn by lot. The noise of FedKT-L1 and FedKT-L2 is left out: without an accountant
    and a secret source it protects nobody. The authors' program adds up votes without asking for
    consistency, and its public set is a part of the test set.

    ``partitions=1, subsets=1, student_epochs=0`` is ``compose(form=labels, fusion=vote)``.

    Bytes a round and client, M public samples in use of which its students agree on U, and
    somebody's on V, C classes: up 8U, and 8U for the ids if U < M; down (broadcast) 4VC, and 8V
    for the ids if V < M.

    Parameters
    ----------
    partitions, subsets : int
        s and t; the paper's script for MNIST has 2 and 5.
    local_epochs : int
        Passes of the client's model and of teachers over private samples; the paper's are 100.
    student_epochs, distil_epochs : int
        Passes of students, and of the final models, over public samples; the paper's are 100.
        Without ``student_epochs`` a partition's votes stand for its student.
    public_samples : int
        Number of public samples drawn each round; 0 takes all.
    student : bool
        Whether the server has a final model, too.
    """

    name = "pate-one-shot"
    tried_with: ClassVar[Mapping[str, Any]] = {
        "local_epochs": 5,
        "student_epochs": 3,
        "distil_epochs": 5,
    }

    def __init__(
        self,
        partitions: AtLeastOne = PartyStudents.partitions,
        subsets: AtLeastOne = PartyStudents.subsets,
        local_epochs: Count = PartyStudents.epochs,
        student_epochs: Count = PartyStudents.student_epochs,
        distil_epochs: Count = 100,
        public_samples: Count = 0,
        student: bool = True,
    ) -> None:
        self.partitions, self.subsets = partitions, subsets
        self.local_epochs, self.student_epochs = local_epochs, student_epochs
        self.distil_epochs, self.public_samples = distil_epochs, public_samples
        self.teach(student)

    def recipe(self) -> Recipe:
        """Return the recipe: train, let teachers vote and students agree, distil the votes."""
        epochs, samples = self.local_epochs, self.public_samples
        sizes = self.partitions, self.subsets
        return Recipe(
            learn=[
                Train(on="private", terms=[CrossEntropy()], epochs=epochs),
                PartyStudents(*sizes, epochs, self.student_epochs, samples),
            ],
            share=[UnanimousLabels(samples=samples)],
            absorb=[self._distil],
        )

    @property
    def _distil(self) -> Train:
        return Train(on="public", terms=[Distil()], epochs=self.distil_epochs)

    @property
    def fused_kinds(self) -> Mapping[str, Kind]:
        """The kind of the votes."""
        return {"public": "probabilities"}

    def fuse(self, uploads: Uploads) -> Fused:
        """Return the votes, after the server's model has learnt them; broadcast."""
        now = self.round
        fused = vote(uploads["public"], now.num_classes, now.seed, now.number)
        return self.taught(fused, self._distil, fused.shared)

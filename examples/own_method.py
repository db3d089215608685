"""A method of one's own on the Ray grid: confident clients count more."""

import sys
from tempfile import mkdtemp

import fedkt
from fedkt import KnowledgeStrategy, Predict, Recipe, Train
from fedkt.fusion import average
from fedkt.objectives import KL, CrossEntropy, Distil

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 10


class Confident(KnowledgeStrategy):
    """The mean of the clients' answers, each client weighted by its mean largest probability."""

    def recipe(self):
        return Recipe(
            learn=[Train(on="private", terms=[CrossEntropy()])],
            share=[Predict(on="public", form="probabilities")],
            absorb=[Train(on="public", terms=[Distil(KL(temperature=1.0))])],
        )

    def fuse(self, uploads):
        answers = uploads["public"]
        confidence = answers.values.max(-1).values.mean(-1)
        return average(answers, confidence / confidence.sum())


if __name__ == "__main__":
    study = fedkt.Experiment(
        data="digits", clients=6, models=["cnn", "mlp", "forest"], rounds=ROUNDS, grid="ray"
    )
    both = fedkt.compare(study, ["local", "fedmd", Confident()], seeds=3, out=f"{mkdtemp()}/run")
    print(both.table())
    print(both.test("Confident", "fedmd"))

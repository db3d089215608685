"""Methods from a configuration alone (ours): any objective, fusion, codec and read-out."""

from __future__ import annotations

import torch

from fedkt.answers import of_kind
from fedkt.calls import made
from fedkt.codecs import codec_chain
from fedkt.errors import ConfigError, FedktError, KnowledgeError
from fedkt.fusion import Fusion, FusionRound, fused
from fedkt.knowledge import Fused, Knowledge, Upload, Uploads
from fedkt.objectives import Batch, Distil, Divergence, Outputs, Term
from fedkt.objectives.term import target_of
from fedkt.options import Count, Factor
from fedkt.readouts import ReadOut
from fedkt.recipe import Predict, Recipe, Train, Weighted
from fedkt.registry import register, short_name
from fedkt.schedules import at
from fedkt.shares.predict import Form
from fedkt.strategies.server.fusing import fusion_round
from fedkt.strategies.server.strategy import KnowledgeStrategy
from fedkt.text import raised

SHARE = "public"
CLIENTS, ROWS, CLASSES = 6, 4, 3  # of the trial; with fewer clients there is no trust


@register
class Compose(KnowledgeStrategy):
    """Share answers on a public set, fuse them by any rule, learn the result by any objective.

    Every round the clients train on private data, share answers, and learn what the server makes
    of them. The parts are named, with their options, as ``fedkt list`` shows them, or given as
    objects::

        compose(objective=mse, form=logits, fusion=trimmed-mean(trim=0.2), codec=float16)

    Before a run the server's fusion and the objective are tried on made-up answers: parts that do
    not fit each other are refused in one line.

    Bytes a round and client, M public samples in use, C classes: up 4MC (8M for labels), down 4MC
    (broadcast, or unicast if the fusion is personal), half of the floats with
    ``codec=float16``; plus the shares of the read-out.

    Parameters
    ----------
    objective : Term, Divergence or str
        The clients' loss against the fused knowledge: a term that reads ``public``, or a divergence
        for :class:`~fedkt.objectives.Distil`. If answers are compared at a temperature T, shared
        probabilities are softmax(logits / T).
    fusion : Fusion or str
        The server's rule.
    codec : str, optional
        Codecs of the answers on both ways, ``NAME`` or ``NAME+NAME``; by default the run's.
    readout : ReadOut or str
        The personal answer.
    form : {"logits", "probabilities", "labels"}
        Kind of the shared answers.
    private : Term or str
        The loss on private data; ``adjusted-cross-entropy`` goes with ``readout=prior``.
    rehearsal : float
        μ ≥ 0: while distilling, every step also draws a private batch, whose loss counts μ times.
    local_epochs, distil_epochs : int
        Passes over the private and over the public data a round.
    public_samples : int
        Number of public samples drawn each round; 0 takes all.
    """

    name = "compose"

    def __init__(
        self,
        objective: Term | Divergence | str = "distil",
        fusion: Fusion | str = "mean",
        codec: str | None = None,
        readout: ReadOut | str = "raw",
        form: Form = "probabilities",
        private: Term | str = "cross-entropy",
        rehearsal: Factor = 0.0,
        local_epochs: Count = 5,
        distil_epochs: Count = 3,
        public_samples: Count = 0,
    ) -> None:
        self.objective, self.fusion, self.codec = objective, fusion, codec
        self.readout, self.form = readout, form
        self.private, self.rehearsal = private, rehearsal
        self.local_epochs, self.distil_epochs = local_epochs, distil_epochs
        self.public_samples = public_samples
        self._fusion: Fusion = made("fusions", fusion)
        self._private: Term = private_loss(private)
        self._objective = distillation(objective)
        codec_chain(codec or "none", files=True)  # a name that is none shows here
        check_fit(self._fusion, self._objective, form)

    def recipe(self) -> Recipe:
        """Return the recipe: private training, answers on the public set, the objective."""
        target = target_of(self._objective) if self.form == "probabilities" else None
        share = Predict(
            form=self.form,
            temperature=1.0 if target is None else target.temperature,
            samples=self.public_samples,
            partial=self._fusion.partial,
            codec_up=self.codec,
            codec_down=self.codec,
        )
        absorb = Train(
            on="public",
            terms=[self._objective],
            epochs=self.distil_epochs,
            rehearse=[Weighted(self.rehearsal, self._private)] if self.rehearsal else [],
        )
        return Recipe(
            learn=[Train(on="private", terms=[self._private], epochs=self.local_epochs)],
            share=[share],
            absorb=[absorb],
            readout=self.readout,
        )

    def fuse(self, uploads: Uploads) -> Fused:
        """Return what the fusion makes of the answers: broadcast, or unicast if it is personal."""
        round_ = fusion_round(self)
        return fused(SHARE, self._fusion(uploads[SHARE], round_), round_)

    def fusion_flops(self, clients: int, rows: float, classes: int) -> float:
        """Return the FLOPs of the fusion."""
        return self._fusion.flops(clients, rows, classes)


def distillation(objective: Term | Divergence | str) -> Term:
    """Return the term that an objective stands for: itself, or a divergence within ``Distil``.

    Raises
    ------
    ConfigError
        If it is a term that does not read the answers, or reads more.
    """
    part = made("objectives", objective)
    if not hasattr(part, "needs"):  # a divergence is asked for a target, and reads nothing itself
        return Distil(part, SHARE)
    term: Term = part
    if tuple(term.needs()) != (SHARE,):
        reads = ", ".join(term.needs()) or "no knowledge"
        raise ConfigError(
            f"compose: objective {_name(term)} reads {reads}; it must read {SHARE!r} alone."
        )
    return term


def private_loss(private: Term | str) -> Term:
    """Return the term on private data.

    Raises
    ------
    ConfigError
        If it reads knowledge: the fused answers are of public samples.
    """
    term: Term = made("objectives", private)
    # A divergence reads nothing, and is refused by the step.
    if reads := tuple(getattr(term, "needs", tuple)()):
        raise ConfigError(
            f"compose: private {_name(term)} reads {', '.join(reads)}; on private data it must "
            "read nothing."
        )
    return term


def check_fit(fusion: Fusion, objective: Term, form: Form) -> None:
    """Try a fusion on made-up answers, and an objective on what comes out.

    Raises
    ------
    ConfigError
        If one of them cannot do with what it gets; in one line.
    """
    values = torch.linspace(-1, 1, CLIENTS * ROWS * CLASSES).view(CLIENTS, ROWS, CLASSES).sin()
    knowledge = [Knowledge.rows(form, of_kind(logits, form)) for logits in values]
    uploads = Uploads([Upload(client, 1, {SHARE: k}) for client, k in enumerate(knowledge)])
    round_ = FusionRound(1, CLASSES, labels=torch.zeros(ROWS, dtype=torch.int64))
    batch, outputs = _made_up(objective)
    try:
        result = fused(SHARE, fusion(uploads[SHARE], round_), round_)
        for client in uploads.clients:
            if SHARE not in result.for_client(client):
                raise KnowledgeError(f"the fusion gives client {client} nothing")
            at(objective, 0.0)(outputs, batch, result.for_client(client))
    except Exception as error:  # a user's code may raise anything
        reason = str(error) if isinstance(error, FedktError) else f"{raised(error)}."
        parts = f"objective {_name(objective)}, fusion {_name(fusion)} and form {form}"
        raise ConfigError(f"compose: {parts} do not go together: {reason}") from error


def _made_up(objective: Term) -> tuple[Batch, Outputs]:
    """Return a batch and outputs with all that a term may ask for, as far as it says so."""
    y = torch.zeros(ROWS, dtype=torch.int64) if getattr(objective, "needs_labels", False) else None
    x, rows = torch.zeros(ROWS, 1), torch.arange(ROWS)
    outputs = Outputs(
        torch.zeros(ROWS, CLASSES),
        x,
        {},
        classify=lambda z, weights=None: torch.zeros(len(z), CLASSES),
        ask=lambda weights, x: Outputs(torch.zeros(len(x), CLASSES), x, {}),
    )
    prior, key = torch.zeros(CLASSES), torch.tensor(0)
    return Batch(x, y, rows, torch.ones(ROWS), log_prior=prior, key=key), outputs


def _name(part: Term | Fusion) -> str:
    return short_name(part.part, type(part))

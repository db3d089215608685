"""The server's surroundings of a method: the round, the samples there, the models declared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from fedkt.data.samples import Samples
from fedkt.greeting import Facts
from fedkt.training import TrainingOptions

CLIENT = "client"  # the build of a model like the clients'


@dataclass(frozen=True)
class Round:
    """The round of a strategy, as it stands.

    Parameters
    ----------
    number : int
        Number of the round, from 1; 0 before the first.
    total : int
        Number of rounds of the run; 0 if unknown.
    clients : tuple[int, ...]
        Clients drawn for the round, ascending; in ``fuse`` those whose uploads are in it.
    num_classes : int
        C, the width of the answers.
    public_size : int
        Number of samples in the clients' public set.
    input_shape : tuple[int, ...]
        Shape of one sample.
    seed : int
        Seed of the run; see ``fedkt.rng`` for streams of it.
    about : Mapping[int, Facts]
        Facts that each client of the run has told in its greeting, e.g. its ``architecture``, and
        what the parts of the recipe tell of it (``about``).
    """

    number: int
    total: int
    clients: tuple[int, ...]
    num_classes: int
    public_size: int
    input_shape: tuple[int, ...]
    seed: int
    about: Mapping[int, Facts]

    @property
    def progress(self) -> float:
        """The part of the run behind this round, in [0, 1); 0 where its length is unknown."""
        return (max(self.number, 1) - 1) / self.total if self.total else 0.0

    @property
    def training(self) -> frozenset[str]:
        """The clients' options of training, as ``TrainingOptions.told``, of all of them."""
        told = (about.get("training") for about in self.about.values())
        return frozenset(str(line) for lines in told if isinstance(lines, tuple) for line in lines)


@dataclass(frozen=True)
class ServerNet:
    """A model at the server, as :meth:`KnowledgeStrategy.models` declares it.

    Parameters
    ----------
    build : str or callable
        ``"client"``: a model like the clients' with the recipe's heads; where architectures may
        differ, the one that the deployer names (``server_model`` of an experiment). Or the
        ``architecture`` of a client's greeting; or the name of a registered model; or a factory
        ``(input_shape, num_classes) -> torch.nn.Module``, which draws from torch's global
        generator only, and may have other inputs and outputs. Models are built in the order of
        their declaration, so a factory may ask those before it.
    options : TrainingOptions, optional
        Options of its training; by default those of the run.
    """

    build: str | Callable[[tuple[int, ...], int], nn.Module] = CLIENT
    options: TrainingOptions | None = None


@dataclass(frozen=True, eq=False)
class ServerSamples:
    """The samples at the server, each of length 0 where the deployer gives none.

    Parameters
    ----------
    public : Samples
        Inputs of the public set without labels, ids 0, ..., M - 1; in domain adaptation those of
        the target.
    labelled : Samples
        The part of the public set whose labels the server knows.
    validation : Samples
        Labelled samples held out at the server.
    """

    public: Samples
    labelled: Samples
    validation: Samples

"""The specification of a federation, and the checks that need no data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from fedkt.data.dataset import Layout
from fedkt.data.reading import Reading
from fedkt.data.scaling import Scale
from fedkt.data.vectors import Features
from fedkt.errors import ConfigError
from fedkt.options import AtLeastOne, Count, Flag, Memory, checked

DEFAULT_CLIENTS = 10
Small = Literal["keep", "drop", "merge"]


@checked
@dataclass(frozen=True)
class DataOptions:
    """The options of a federation's data, without the seed; ``[data]`` in an experiment.

    Parameters
    ----------
    dataset : str
        See :func:`fedkt.data.sources.load_dataset`.
    domains : tuple[str, ...]
        Data sets of the same classes, instead of ``dataset``: client n owns domain n modulo
        their number. ``NAME/*`` stands for all domains of a set with a domain column,
        ``NAME/VALUE`` for one of them; see :mod:`fedkt.data.columns`. Empty: ``dataset``
        alone, without domains.
    target : str, optional
        One of the domains, by its reference or the last part of it: the unlabelled target of
        domain adaptation. No client owns it. Its training part, without labels, is the public
        set, its test part the common test set; see :mod:`fedkt.data.targets`.
    transductive : bool
        With a target: test on the public set itself, the samples that methods adapt to.
    input_shape : tuple[int, ...]
        What images are brought to, ``(1, H, W)`` or ``(3, H, W)``; see
        :func:`fedkt.data.inputs.fit_input`. Empty: the shape of ``dataset`` or of the first
        domain.
    layout : str, optional
        What the axes of samples mean: ``image``, ``series`` or ``vector``; see
        :class:`fedkt.data.dataset.Dataset`. By default as the data set says.
    features : str
        What is done to feature vectors: ``as-stored``, ``log`` (see
        :func:`fedkt.data.vectors.with_features`), or ``standardise``, which for them is
        another word for that scale.
    scale : str, optional
        ``none``, ``unit`` or ``standardise``; see :func:`fedkt.data.scaling.scaled`, also for
        the default. Statistics are of each domain's training rows alone: without those that its
        clients hold out, and of the target without labels.
    data_dir : str, optional
        The folder with ``.npz`` files.
    label : str
        The column of a table with the labels. By default, the only one that has a usual name, as
        ``label`` or ``target``.
    client : str
        The column of a table that names the natural client of each row.
    split : str
        The column of a table with ``train`` or ``test`` for each row. By default, a fixed
        stratified 20 % of the rows is the test part.
    clients : int, optional
        How many clients; by default 10, or under the partition ``natural`` as many as the data
        have.
    partition : str
        See :func:`fedkt.data.partition.partition`; each domain is shared out among its
        clients alone.
    min_samples : int
        How many samples of the training part a client should have. Under ``natural``, ``small``
        says what becomes of clients with fewer; otherwise they receive some of the largest.
    small : str
        Under ``natural``: clients with fewer than ``min_samples`` stay (``keep``), are left out
        with their samples (``drop``), or are joined with each other (``merge``). A note says how
        many there are.
    samples_per_client : int
        Training samples per client, validation and test on top; 0 = all the data.
    public : bool, optional
        Whether a public set is taken. By default, an experiment takes one where a method of the
        run or of the comparison needs it, or where ``public_dataset`` names it. Without
        one, its samples stay with the clients. It has no say with a target, whose training
        part is the public set.
    public_samples : int
        The size of the public set, in equal parts from all domains. 0 = of each 20 % of the
        training part and at most 2,000 samples; with ``public_dataset`` the whole of that,
        at most 2,000 samples. With a target: of its training part; 0 = the whole of that, at
        most 2,000 samples.
    public_dataset : str, optional
        Another data set, whose training part is the public set. It must have the same input
        shape, unless ``input_shape`` or ``domains`` says what all images are brought to.
    deduplicate : bool
        Whether public samples that equal test samples are dropped from the public set. Otherwise
        those of tables stay, with a note: where few rows are distinct, different people have
        equal ones. Equal images, series and tokens are copies: they are dropped from a set
        drawn from the training part, and another data set that holds some is refused.
    test_samples : int
        The size of the common test set, a stratified part of the test part, in equal parts
        from all domains, or from the target; 0 = the whole.
    validation_fraction, test_fraction : float
        The parts of each client's samples that are held out, together below 1.
    """

    dataset: Annotated[str, Flag("See: fedkt list datasets.")] = "digits"
    domains: tuple[str, ...] = ()
    target: str | None = None
    transductive: bool = False
    input_shape: tuple[AtLeastOne, ...] = ()
    layout: Layout | None = None
    features: Features = "as-stored"
    scale: Scale | None = None
    data_dir: Annotated[str | None, Flag("Folder of .npz data sets.")] = None
    label: Annotated[str, Flag("Column with the labels of a table.")] = ""
    client: str = ""
    split: str = ""
    clients: Annotated[AtLeastOne | None, Flag("Number of clients; by default 10.")] = None
    partition: Annotated[str, Flag("E.g. iid, dirichlet:0.3, natural.")] = "dirichlet:0.5"
    min_samples: AtLeastOne = 1
    small: Small = "keep"
    samples_per_client: Count = 0
    public: bool | None = None
    public_samples: Count = 0
    public_dataset: str | None = None
    deduplicate: bool = False
    test_samples: Count = 0
    validation_fraction: Memory = 0.1
    test_fraction: Memory = 0.2

    # For configurations, which read the options by these names.
    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}

    @property
    def scaling(self) -> str | None:
        """The scale that is asked for, by either name."""
        return "standardise" if self.features == "standardise" else self.scale

    @property
    def reading(self) -> Reading:
        """What readers of data are asked for."""
        layout, shape = self.layout or "", self.input_shape
        return Reading("", self.label, self.client, self.split, layout, shape)

    @property
    def number_of_clients(self) -> int:
        """The number of clients, where it does not follow the data."""
        return DEFAULT_CLIENTS if self.clients is None else self.clients

    @property
    def takes_public(self) -> bool:
        """Whether there is a public set; there is where nothing has decided."""
        return self.public is not False


@checked
@dataclass(frozen=True)
class FederationSpec(DataOptions):
    """The specification of a federation; equal specifications give equal federations.

    Parameters
    ----------
    seed : int
        The seed of the run; all else as in :class:`DataOptions`.
    """

    seed: Count = 0


def check_spec(spec: FederationSpec) -> None:
    """Check options against each other, as far as that needs no data.

    Raises
    ------
    ConfigError
        Naming the values at fault and what is allowed.
    """
    if spec.validation_fraction + spec.test_fraction >= 1:
        raise ConfigError(
            f"validation_fraction {spec.validation_fraction} and test_fraction "
            f"{spec.test_fraction} leave nothing to train on; their sum must be below 1."
        )
    if spec.scaling != (spec.scale or spec.scaling):
        raise ConfigError(
            f'features is "standardise" and scale is {spec.scale!r}; give one or the other.'
        )
    if spec.domains and spec.dataset != FederationSpec.dataset:
        raise ConfigError(
            f"dataset is {spec.dataset!r} and domains has {', '.join(map(repr, spec.domains))}; "
            "give one or the other."
        )
    _check_public(spec)
    _check_target(spec)


def check_numbers(spec: FederationSpec, domains: int) -> None:
    """Check that each of ``domains`` domains can have a client and give samples.

    Raises
    ------
    ConfigError
        If a number is less than the number of domains.
    """
    if spec.target:
        sources = domains - 1
        if (clients := spec.number_of_clients) < sources:
            raise ConfigError(
                f"clients is {clients}; {sources} source domains need at least {sources}."
            )
        return
    for key in ("clients", "public_samples", "test_samples"):
        # 0 public or test samples stand for the default.
        drawn = key != "public_samples" or (spec.takes_public and not spec.public_dataset)
        number = spec.number_of_clients if key == "clients" else getattr(spec, key)
        if drawn and 0 < number < domains:
            raise ConfigError(f"{key} is {number}; {domains} domains need at least {domains}.")


def _check_public(spec: FederationSpec) -> None:
    if spec.takes_public:
        return
    if spec.public_dataset:
        raise ConfigError(
            f"public is false and public_dataset is {spec.public_dataset!r}; give one or the other."
        )
    if spec.target:
        raise ConfigError(
            f"public is false and target is {spec.target!r}, whose training part is the public "
            "set; leave public out."
        )


def _check_target(spec: FederationSpec) -> None:
    if not spec.target:
        if spec.transductive:
            raise ConfigError("transductive is true, but there is no target to test on; name one.")
        return
    if not spec.domains:
        raise ConfigError(
            f"target is {spec.target!r}, but domains is empty: a target is one of several domains, "
            "and dataset names a single one."
        )
    if spec.public_dataset:
        raise ConfigError(
            f"public_dataset is {spec.public_dataset!r} and target is {spec.target!r}, whose "
            "training part is the public set; give one or the other."
        )
    if spec.transductive and spec.test_samples:
        raise ConfigError(
            f"test_samples is {spec.test_samples} and transductive is true: the test set is then "
            "the public set, which public_samples limits."
        )

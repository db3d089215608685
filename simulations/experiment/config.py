"""Experiments: configurations of runs, validated before anything runs.

An experiment is a TOML file, command-line options, or both; every run writes the
resolved form of it beside its results.
"""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    field_validator,
    model_validator,
)

from fedkt import registry
from fedkt.codecs import codec_chain
from fedkt.data.spec import DataOptions
from fedkt.disk import write_atomic
from fedkt.errors import PYTHON, ConfigError, unknown
from fedkt.options import (
    AtLeastOne,
    Count,
    Factor,
    Flag,
    Fraction,
    OpenFraction,
    OptionError,
    Positive,
    PositiveFraction,
    check_given,
)
from fedkt.simulations.experiment.references import read_attack, read_strategy, split_references
from fedkt.strategies.server.bounds import Bounds
from fedkt.strategies.server.round import Quorum
from fedkt.training import TrainingOptions


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are checked as in Python."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _checked(cls, values: Any) -> Any:
        return check_given(cls, values)


def declared(options: type) -> BeforeValidator:
    """Return the validator of a section that a frozen dataclass declares, as in Python."""
    return BeforeValidator(partial(check_given, options))


class RunSection(Section):
    """``[run]``: where and how the experiment runs."""

    # a registered engine, or path/to/file.py:Class
    grid: Annotated[str, Flag("ray, in-process, flower or FILE.py:Class.")] = "ray"
    # 0: one for each CPU, at most one a client
    workers: Annotated[Count, Flag("Worker processes; 0: one a CPU.")] = 0
    executor: Annotated[
        Literal["auto", "loop", "cohort", "tune"],
        Flag("auto, loop (client by client), cohort (vectorised) or tune."),
    ] = "auto"
    plan: dict[str, str] = {}  # the executor of each model: loop or cohort:N
    address: Annotated[str | None, Flag("Of a running Ray cluster, or auto.")] = None
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU if there is one
    # Where the clients' states are between messages; grid = flower: disk.
    state: Literal["memory", "disk"] = "memory"
    checkpoint_every: AtLeastOne = 1  # rounds; the last one has one as well
    participation: PositiveFraction = 1.0
    quorum: Quorum = "strict"  # how many clients must fit for a run to start; strict: all
    codec: str = "none"
    timeout: Positive = 3600.0  # seconds that a phase may take
    personalised: Literal["split", "matched"] = "split"
    # measured at the clients beside accuracy: registered names or path/to/file.py:Class
    metrics: Annotated[
        tuple[str, ...], Flag("Beside accuracy: macro-f1,log-loss,FILE.py:Class.", split_references)
    ] = ()
    keep_predictions: bool = False  # at the end, each client's answers: predictions.npz
    select_by: str = "accuracy"  # what the validation-selected round is best in: or one of metrics
    # mean personalised accuracy, in (0, 1): the rounds and bytes that it takes are figures
    accuracy_goal: OpenFraction | None = None
    oracle: bool = False  # also report the best test round, named so
    group_effect: bool = False  # measure models before the fusion as well
    bounds: Annotated[Bounds, declared(Bounds)] = Bounds()

    @field_validator("grid")
    @classmethod
    def _known_engine(cls, grid: str) -> str:
        if grid.startswith(PYTHON):  # folders of runs are read without the object
            return grid
        try:
            registry.lookup("engines", grid)
        except ConfigError as error:
            raise ConfigError(f"run.grid: {error}") from error
        return grid

    @field_validator("codec")
    @classmethod
    def _known_codecs(cls, codec: str) -> str:
        if PYTHON in codec:  # folders of runs are read without the object
            return codec
        try:
            codec_chain(codec, files=True)
        except ConfigError as error:
            raise ConfigError(f"run.codec: {error}") from error
        return codec


class VerdictSection(Section):
    """``[compare.verdict]``: one strategy judged against the others; see ``verdict``."""

    subject: str
    rivals: tuple[str, ...] = ()  # empty: all others
    personalised_bar: tuple[str, ...] = ()  # empty: the rivals
    global_bar: tuple[str, ...] = ()  # empty: the rivals
    tolerance: Factor = 0.003  # accuracy in [0, 1]


class CompareSection(Section):
    """``[compare]``: several strategies over several seeds, in one setting or several cells."""

    strategies: Annotated[
        tuple[str, ...], Flag("Several, joined by commas.", split_references)
    ] = ()
    seeds: Annotated[AtLeastOne, Flag("How many seeds, from --seed on.")] = 3
    processes: AtLeastOne = 1  # runs at once; above 1: grid = in-process
    cells: tuple[dict[str, Any], ...] = ()  # see fedkt.simulations.experiment.cells
    verdict: VerdictSection | None = None


class AttackSection(Section):
    """``[attack]``: the first clients lie in what they upload; other keys are the kind's options.

    ``kind`` is a registered attack or ``path/to/file.py:function``; see
    ``fedkt.simulations.attacks``.
    """

    model_config = ConfigDict(extra="allow")

    kind: str
    clients: AtLeastOne

    @property
    def options(self) -> dict[str, Any]:
        """The options of the kind that are given."""
        return dict(self.model_extra or {})


class AvailabilitySection(Section):
    """``[availability]``: clients that drop out or are late, and what a round would take.

    The simulated time of a client is FLOPs / speed + bytes / bandwidth. Its speed and its bandwidth
    are the medians here times a lognormal factor of its own.
    """

    dropout: Fraction = 0.0  # probability that a client drops out of a round
    flops_per_second: Positive = 1e9
    bytes_per_second: Positive = 1e6
    spread: Factor = 0.0  # standard deviation of the logarithms of the factors
    deadline: Positive | None = None  # seconds until an upload counts as failed; None: no limit


class Experiment(Section):
    """A whole experiment.

    ``strategy`` holds the strategy's ``name`` and its hyper-parameters.
    """

    seed: Annotated[Count, Flag("Seed of every random stream.")] = 0
    rounds: Annotated[AtLeastOne, Flag("Number of rounds.")] = 10
    schedule_rounds: Count = 0  # what follows progress: of a run this long
    models: Annotated[
        tuple[str, ...], Flag("Dealt to the clients in turn: cnn,mlp,forest.", split_references)
    ] = ("cnn",)
    server_model: str = ""  # the server's own; empty: the first network
    strategy: Annotated[
        dict[str, Any], Flag("NAME, NAME(key=value) or FILE.py:Class.", read_strategy)
    ] = {"name": "knfu"}
    data: Annotated[DataOptions, declared(DataOptions)] = DataOptions()
    training: Annotated[TrainingOptions, declared(TrainingOptions)] = TrainingOptions()
    run: RunSection = RunSection()
    compare: CompareSection = CompareSection()
    availability: AvailabilitySection | None = None
    attack: Annotated[
        AttackSection | None, Flag("KIND:CLIENTS, the first so many lie: wrong:3.", read_attack)
    ] = None

    @field_validator("attack", mode="before")
    @classmethod
    def _attack_as_text(cls, value: Any) -> Any:
        return read_attack(value) if isinstance(value, str) else value

    @field_validator("strategy", mode="before")
    @classmethod
    def _name_by_default(cls, section: Any) -> Any:
        return {"name": "knfu", **section} if isinstance(section, Mapping) else section

    def with_values(self, **values: Any) -> Experiment:
        """Return a copy with other top-level values, validated."""
        return parse({**self.model_dump(), **values})


def load(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises
    ------
    ConfigError
        If it is missing or not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error


def save(path: Path, experiment: Experiment) -> None:
    """Write the resolved experiment as TOML; it can be run again."""
    write_atomic(path, tomli_w.dumps(without_none(experiment.model_dump(mode="json"))))


def parse(values: Mapping[str, Any]) -> Experiment:
    """Return a validated experiment.

    Raises
    ------
    ConfigError
        Naming the key, the value and what is allowed; the nearest name for an unknown key.
    """
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise explained(error) from error


def set_path(values: dict[str, Any], path: str, value: Any) -> None:
    """Set ``values["a"]["b"]`` for the path ``"a.b"``."""
    *sections, key = path.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {path}: {section!r} is not a section.")
    values[key] = value


def explained(error: ValidationError) -> ConfigError:
    """Return the first problem as one line that names the key."""
    first = error.errors()[0]
    *sections, key = where = [str(part) for part in first["loc"]] or [""]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, OptionError):
        return ConfigError(cause.at(".".join(filter(None, [*where, cause.option]))))
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        of = f"key in [{'.'.join(sections)}]" if sections else "key"
        return unknown(of, key, inspect.signature(_section_at(sections)).parameters)
    if first["type"] == "missing":
        return ConfigError(f"{'.'.join(where)} is missing.")
    if isinstance(cause, ConfigError):  # a validator of ours has written the whole line
        return cause
    return ConfigError(f"{'.'.join(where)} = {first['input']!r}: {first['msg']}.")


def _section_at(path: Sequence[str]) -> Any:
    """Return the class of a section, by the names that lead to it."""
    section: Any = Experiment
    for name in path:
        hint = get_type_hints(section)[name]
        section = next((a for a in get_args(hint) if a is not type(None)), hint)
    return section


def without_none(value: Any) -> Any:
    """Return a copy without the keys that have no value: TOML has no null."""
    if isinstance(value, Mapping):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_none(v) for v in value]
    return value

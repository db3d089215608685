"""Experiments: what to run, validated before anything happens.

An experiment is a TOML file, command-line options, or both; every run writes the
resolved form of it beside its results.
"""

from __future__ import annotations

import inspect
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from fedkt.errors import ConfigError, FedktError, unknown
from fedkt.simulations.files import write_atomic
from fedkt.strategies.server.bounds import Bounds
from fedkt.text import raised

Grid = Literal["ray", "in-process", "flower"]
Whole = Annotated[int, Field(strict=True)]  # true is no number of rounds


class Section(BaseModel):
    """Base of all sections: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSection(Section):
    """``[data]``: the federation's data; see ``fedkt.data.federation.FederationSpec``."""

    dataset: str = "digits"
    domains: tuple[str, ...] = Field((), description="instead of dataset; client n owns n mod D")
    target: str | None = Field(None, description="the unlabelled domain; each: see cells")
    transductive: bool = Field(False, description="test on what methods adapt to")
    input_shape: tuple[Whole, ...] = Field((), description="empty: of dataset or first domain")
    layout: Literal["image", "series", "vector"] | None = Field(
        None, description="what the axes of samples mean; unset: as the data set says"
    )
    features: Literal["as-stored", "standardise", "log"] = "as-stored"
    scale: Literal["none", "unit", "standardise"] | None = Field(
        None, description="unset: images to [0, 1], all else as stored"
    )
    data_dir: str | None = None
    clients: Whole = Field(10, ge=1)
    partition: str = "dirichlet:0.5"
    samples_per_client: Whole = Field(0, ge=0)
    public_samples: Whole = Field(0, ge=0)
    public_dataset: str | None = None
    test_samples: Whole = Field(0, ge=0)
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    test_fraction: float = Field(0.2, ge=0, lt=1)


class TrainingSection(Section):
    """``[training]``: how clients train; see ``fedkt.clients.TrainingOptions``."""

    optimiser: Literal["adam", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    batch_size: Whole = Field(32, ge=1)
    public_batch_size: Whole = Field(64, ge=1)
    optimiser_state: Literal["keep", "reset"] = "keep"
    compile: bool = Field(False, description="cohorts only: steps under torch.compile")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the products in training; bfloat16: loop only"
    )


class RunSection(Section):
    """``[run]``: where and how it runs."""

    grid: Grid = "ray"
    workers: Whole = Field(0, ge=0, description="0: one for each CPU, at most one a client")
    executor: Literal["auto", "loop", "cohort", "tune"] = "auto"
    plan: dict[str, str] = Field({}, description="executor of each model: loop or cohort:N")
    address: str | None = None
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: a GPU if there is one"
    )
    state: Literal["memory", "disk"] = Field(
        "memory", description="where the clients' states are between messages; flower: disk"
    )
    checkpoint_every: Whole = Field(1, ge=1, description="rounds; the last one has one as well")
    participation: float = Field(1.0, gt=0, le=1)
    quorum: Literal["strict", "majority"] | Whole = Field(
        "strict", description="how many clients must fit for a run to start; strict: all"
    )
    codec: str = "none"
    timeout: float = Field(3600.0, gt=0, description="seconds a phase may take")
    personalised: Literal["split", "matched"] = "split"
    oracle: bool = Field(False, description="also report the best test round, named so")
    group_effect: bool = Field(False, description="measure models before the fusion as well")
    bounds: Bounds = Field(Bounds(), description="what uploads may hold; see its docstring")

    @field_validator("quorum", mode="before")
    @classmethod
    def _some_quorum(cls, value: Any) -> Any:
        from fedkt.strategies import ServerOptions

        try:
            return ServerOptions(quorum=value).quorum
        except ConfigError as error:
            raise ConfigError(str(error).replace("ServerOptions: ", "run.")) from error


class VerdictSection(Section):
    """``[compare.verdict]``: one strategy judged against the others; see ``verdict``."""

    subject: str
    rivals: tuple[str, ...] = Field((), description="empty: all others")
    personalised_bar: tuple[str, ...] = Field((), description="empty: the rivals")
    global_bar: tuple[str, ...] = Field((), description="empty: the rivals")
    tolerance: float = Field(0.003, ge=0, description="accuracy in [0, 1]")


class CompareSection(Section):
    """``[compare]``: several strategies over several seeds, in one setting or several cells."""

    strategies: tuple[str, ...] = ()
    seeds: Whole = Field(3, ge=1)
    processes: Whole = Field(1, ge=1, description="runs at once; above 1: grid = in-process")
    cells: tuple[dict[str, Any], ...] = Field((), description="see simulations.cells")
    verdict: VerdictSection | None = None


class AttackSection(Section):
    """``[attack]``: the first clients lie in what they upload; other keys are the kind's options.

    ``kind`` is a registered attack or ``path/to/file.py:function``; see
    ``fedkt.simulations.attacks``.
    """

    model_config = ConfigDict(extra="allow")

    kind: str
    clients: Whole = Field(ge=1)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the kind that are given."""
        return dict(self.model_extra or {})


class Experiment(Section):
    """A whole experiment.

    ``strategy`` holds the strategy's ``name`` and its hyper-parameters.
    """

    seed: Whole = Field(0, ge=0)
    rounds: Whole = Field(10, ge=1)
    schedule_rounds: Whole = Field(0, description="what follows progress: of a run this long")
    models: tuple[str, ...] = ("cnn",)
    server_model: str = Field("", description="the server's own; empty: the first network")
    strategy: dict[str, Any] = Field(default_factory=lambda: {"name": "knfu"})
    data: DataSection = DataSection()
    training: TrainingSection = TrainingSection()
    run: RunSection = RunSection()
    compare: CompareSection = CompareSection()
    attack: AttackSection | None = None

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
    """Read a TOML file.

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
    """Validate an experiment.

    Raises
    ------
    ConfigError
        Naming the key, the value and what is allowed; the nearest name for an unknown key.
    """
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise _explain(error) from error


def set_path(values: dict[str, Any], path: str, value: Any) -> None:
    """Set ``values["a"]["b"]`` for the path ``"a.b"``."""
    *sections, key = path.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {path}: {section!r} is not a section.")
    values[key] = value


def read_assignment(text: str) -> tuple[str, Any]:
    """Read ``key.path=value``; the value is TOML where it can be, else a string."""
    path, equals, raw = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"--set {text!r}: write key.path=value.")
    return path.strip(), read_value(raw.strip())


def read_value(raw: str) -> Any:
    """Read a TOML value; text that is not TOML stands for itself."""
    try:
        return tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
        return raw


def read_strategy(reference: str) -> dict[str, Any]:
    """Read ``knfu`` or ``knfu(beta=2, temperature=3)`` into a strategy section."""
    name, opening, rest = reference.strip().partition("(")
    section: dict[str, Any] = {"name": name.strip()}
    if opening:
        if not rest.endswith(")"):
            raise ConfigError(f"{reference!r}: write name(key=value, ...).")
        for part in filter(None, (p.strip() for p in rest[:-1].split(","))):
            key, value = read_assignment(part)
            section[key] = value
    return section


def read_entry(text: str) -> tuple[str | None, str]:
    """Read ``LABEL = REFERENCE`` or ``REFERENCE`` into label and reference.

    The label ends at the first equals sign, if that comes before any parenthesis: in
    ``knfu(beta=2)`` there is none. A path is no label.

    Raises
    ------
    ConfigError
        If the label or the reference is empty.
    """
    label, equals, reference = text.partition("=")
    if not equals or "(" in label or "/" in label:
        return None, text.strip()
    if not label.strip() or not reference.strip():
        raise ConfigError(f"strategy {text!r}: write LABEL = NAME or LABEL = NAME(key=value).")
    if ")" in label:
        raise ConfigError(f"strategy {text!r}: a label has no parentheses.")
    return label.strip(), reference.strip()


def read_attack(reference: str) -> dict[str, Any] | None:
    """Read ``wrong:3`` (kind:how many clients) into an attack section; ``none`` is no attack.

    Raises
    ------
    ConfigError
        If there is no number of clients.
    """
    kind, colon, count = reference.strip().rpartition(":")
    if reference.strip() == "none":
        return None
    if not colon or not count.isdecimal():
        raise ConfigError(f"attack {reference!r}: write kind:how many clients, e.g. wrong:3.")
    return {"kind": kind, "clients": int(count)}


def split_references(text: str) -> list[str]:
    """Split ``a,b(x=1,y=2),c`` at the commas outside parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [p.strip() for p in parts if p.strip()]


def make_strategy(section: Mapping[str, Any]) -> Any:
    """Build the strategy that a ``[strategy]`` section describes.

    Returns
    -------
    KnowledgeStrategy
        A new object.

    Raises
    ------
    ConfigError
        For an unknown strategy or hyper-parameter, or a value of the wrong type.
    """
    from fedkt import registry
    from fedkt.strategies import KnowledgeStrategy

    name = str(section.get("name", ""))
    cls = registry.lookup("strategies", name)
    if not (isinstance(cls, type) and issubclass(cls, KnowledgeStrategy)):
        raise ConfigError(f"{name} is not a KnowledgeStrategy (a class with recipe and fuse).")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise ConfigError(f"{name} is not complete: it does not define {missing}.")
    given = {key: value for key, value in section.items() if key != "name"}
    allowed, hints = hyper_parameters(cls), get_type_hints(cls.__init__)
    options = checked_options("strategy", name, given, allowed, hints)
    try:
        return cls(**options)
    except FedktError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise ConfigError(f"strategy {name} cannot be made: {raised(error)}.") from error


def checked_options(
    of: str, name: str, given: Mapping[str, Any], allowed: Sequence[str], hints: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options given for a part, each in the type that its signature says.

    Parameters
    ----------
    of : str
        The section, which is also the word for the part: ``strategy``, ``attack``.
    name : str
        The part's name.
    given : Mapping[str, Any]
        The options by name.
    allowed : Sequence[str]
        The names that the part knows.
    hints : Mapping[str, Any]
        Their types; an option without one is taken as it is.

    Raises
    ------
    ConfigError
        For an unknown option or a value of the wrong type.
    """
    values = {}
    for key, value in given.items():
        if key not in allowed:
            raise unknown(f"option of {of} {name}", key, allowed)
        try:
            values[key] = TypeAdapter(hints.get(key, Any)).validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise ConfigError(f"{of}.{key} = {value!r} ({name}): {problem}.") from error
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{of}.{key} = {value!r} ({name}): must be finite.")
    return values


def hyper_parameters(call: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters of a strategy or another part."""
    parameters = inspect.signature(call).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def resolved_strategy(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``[strategy]`` section with the defaults of all hyper-parameters filled in."""
    from fedkt import registry

    cls = registry.lookup("strategies", str(section["name"]))
    return {"name": section["name"], **plain_defaults(cls), **section}


def plain_defaults(call: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of a part's parameters, as far as TOML can hold them."""
    parameters = inspect.signature(call).parameters
    defaults = {name: parameters[name].default for name in hyper_parameters(call)}
    return {k: v for k, v in defaults.items() if isinstance(v, bool | int | float | str)}


def _explain(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        section: Any = Experiment
        for part in where[:-1]:
            annotation = section.model_fields[part].annotation
            section = next((a for a in get_args(annotation) if a is not type(None)), annotation)
        of = f"key in [{'.'.join(where[:-1])}]" if where[:-1] else "key"
        return unknown(of, where[-1], inspect.signature(section).parameters)
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        allowed = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        return unknown(".".join(where), first["input"], allowed)
    if first["type"] == "missing":
        return ConfigError(f"{'.'.join(where)} is missing.")
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):  # of a validator of ours: it says it all
        return cause
    message = first["msg"].removeprefix("Value error, ")
    return ConfigError(f"{'.'.join(where)} = {first['input']!r}: {message}.")


def without_none(value: Any) -> Any:
    """Return a copy without the keys that have no value: TOML has no null."""
    if isinstance(value, Mapping):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_none(v) for v in value]
    return value

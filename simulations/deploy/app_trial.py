"""A dry run of what an app's author fills in: ``load_data`` and ``build_model``."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedkt.about import of_public
from fedkt.data.samples import ClientData
from fedkt.errors import ConfigError, of_class
from fedkt.text import foreign

_PAIR = re.compile(r"""([A-Za-z][\w.-]*)=("[^"]*"|'[^']*'|\S+)""")


@dataclass(frozen=True)
class TrialContext:
    """What an app reads of Flower's context, without a run."""

    node_config: Mapping[str, Any]
    run_config: Mapping[str, Any]
    run_id: int = 0
    node_id: int = 0
    state: dict[str, Any] = field(default_factory=dict)


def dry_run(app: Path, project: Mapping[str, Any], node_config: str) -> Iterator[tuple[str, str]]:
    """Load an app's data and build its model, as its node would.

    Parameters
    ----------
    app : Path
        The folder of the app.
    project : Mapping[str, Any]
        Its ``pyproject.toml``.
    node_config : str
        As ``flower-supernode --node-config`` takes it.

    Yields
    ------
    tuple[str, str]
        What was looked at, and what was seen.

    Raises
    ------
    ConfigError
        If the app has no such functions.
    """
    settings = project.get("tool", {}).get("flwr", {}).get("app", {})
    component = settings.get("components", {}).get("clientapp")
    if not isinstance(component, str) or ":" not in component:
        raise ConfigError(f"{app}/pyproject.toml has no [tool.flwr.app.components] clientapp")
    package = component.partition(":")[0].rpartition(".")[0]
    name = f"{package}.data" if package else "data"
    context = TrialContext(node_config_of(node_config), _flat(settings.get("config", {})))
    with _importing(app):
        module = importlib.import_module(name)
        yield from trial(_function(module, "load_data"), _function(module, "build_model"), context)


def trial(
    load_data: Callable[..., Any], build_model: Callable[..., Any], context: Any
) -> Iterator[tuple[str, str]]:
    """Call the two functions of an app and say what they give.

    Parameters
    ----------
    load_data, build_model : Callable
        With the context as only argument, or without arguments.
    context : Context
        Flower's, or what stands for it.
    """
    data = of_class(
        _called(load_data, context), ClientData, "load_data() must return a fedkt ClientData"
    )
    parts = {"training": data.train, "validation": data.validation, "test": data.test}
    sizes = ", ".join(f"{len(samples)} {part}" for part, samples in parts.items())
    yield "data", f"{sizes} samples of shape {list(data.input_shape)}"
    yield "classes", foreign(f"{data.num_classes}: {', '.join(data.classes)}")
    public = of_public(data).get("public set")
    yield "public set", f"{public}; the same at every node" if public else "none"
    model = _called(build_model, context)
    count = getattr(model, "parameters", None)
    numbers = f", {sum(p.numel() for p in count()):,} parameters" if callable(count) else ""
    yield "model", foreign(type(model).__name__) + numbers


def node_config_of(text: str) -> dict[str, Any]:
    """Return the values of a node config, ``"key=1 other='text'"``.

    Raises
    ------
    ConfigError
        If it has another form.
    """
    values: dict[str, Any] = {}
    if rest := _PAIR.sub("", text).strip():
        raise ConfigError(f"node-config has {foreign(rest)!r}; allowed is key=value key=value ...")
    for key, value in _PAIR.findall(text):
        try:
            values[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                f"node-config: {key} is {foreign(value)}; text stands in quotes, as in "
                f'{key}="{foreign(value)}"'
            ) from error
    return values


def _called(function: Callable[..., Any], context: Any) -> Any:
    return function(context) if inspect.signature(function).parameters else function()


def _function(module: Any, name: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{module.__name__} has no function {name}")
    return function  # type: ignore[no-any-return]  # a user's, of any signature


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return a run config as Flower gives it: nested tables as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        place = before + key
        flat |= _flat(value, f"{place}.") if isinstance(value, dict) else {place: value}
    return flat


@contextmanager
def _importing(app: Path) -> Iterator[None]:
    """Let modules of a folder be imported for a while."""
    sys.path.insert(0, str(app.resolve()))
    try:
        yield
    finally:
        sys.path.remove(str(app.resolve()))

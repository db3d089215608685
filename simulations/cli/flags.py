"""The flags of the command line, as the options of an experiment declare them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import click

from fedkt.options import Flag
from fedkt.simulations.experiment.config import Experiment

ALONE, TOGETHER = "strategy", "compare."  # places for one run only, for several only


def options_of(command: str) -> list[click.Option]:
    """Return the options of ``simulate`` or ``compare``.

    The given values are left in the context's ``obj``: the values by their place in the
    experiment, ``{"data.clients": 4}``.
    """
    return [
        _option(place, flag, kind)
        for place, flag, kind in declared_flags()
        if not (place == ALONE if command == "compare" else place.startswith(TOGETHER))
    ]


def declared_flags(options: type = Experiment, place: str = "") -> Iterator[tuple[str, Flag, Any]]:
    """Yield place, flag and type of all options that have a flag, in the order of sections."""
    hints = get_type_hints(options, include_extras=True)
    for name in signature(options).parameters:
        kind, *metadata = (
            get_args(hints[name]) if get_origin(hints[name]) is Annotated else [hints[name]]
        )
        flags = [m for m in metadata if isinstance(m, Flag)]
        if flags:
            yield place + name, flags[0], kind
        elif isinstance(kind, type) and not get_origin(kind) and "fedkt." in kind.__module__:
            yield from declared_flags(kind, f"{place}{name}.")


def _option(place: str, flag: Flag, kind: Any) -> click.Option:
    name = "--" + place.rpartition(".")[2].replace("_", "-")
    keep = partial(_keep, place, flag.read or (lambda value: value))
    # Of ``int | None``, too; bounds are checked with the option.
    alternatives = [get_args(a)[0] if get_origin(a) is Annotated else a for a in get_args(kind)]
    whole = int if int in (kind, *alternatives) else str
    return click.Option([name], type=whole, help=flag.help, callback=keep, expose_value=False)


def _keep(
    place: str, read: Callable[[Any], Any], context: click.Context, _: click.Parameter, value: Any
) -> None:
    if value is not None:
        context.ensure_object(dict)[place] = read(value)

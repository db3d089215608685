"""The flags of the command line, as the options of an experiment declare them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, get_args, get_origin

import click

from fedkt.options import Flag
from fedkt.simulations.api.keywords import places
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


def declared_flags(options: type = Experiment) -> Iterator[tuple[str, Flag, Any]]:
    """Yield place, flag and type of all options that have a flag, in the order of sections."""
    for place in places(options):
        if place.flag is not None:
            yield place.path, place.flag, place.type


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

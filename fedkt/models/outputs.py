"""Logits out of whatever a network returns: a tensor, ``.logits``, ``["logits"]`` or a tuple."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fedkt.errors import ConfigError

LOGITS = "logits"


def logits_of(outputs: object) -> Tensor:
    """Return the logits in a network's outputs.

    Parameters
    ----------
    outputs : object
        A tensor, an object or mapping with ``logits``, or a tuple or list that begins with one of
        these.

    Raises
    ------
    ConfigError
        If it is nothing of this.
    """
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(logits := getattr(outputs, LOGITS, None), Tensor):
        return logits
    if isinstance(outputs, Mapping):
        if isinstance(logits := outputs.get(LOGITS), Tensor):
            return logits
        what = f"a {type(outputs).__name__} with {', '.join(map(repr, outputs)) or 'nothing'}"
    elif isinstance(outputs, tuple | list) and outputs:
        return logits_of(outputs[0])
    else:
        what = f"a {type(outputs).__name__}"
    raise ConfigError(
        f'{what}, not logits (a tensor, .logits, ["logits"], or a tuple that begins with them)'
    )


def returning_logits(model: nn.Module) -> nn.Module:
    """Return a network, changed in place, whose calls return logits alone.

    A hook does it and no module around the network: so the names of its state, its class and its
    attributes stay what they are, copies keep it, and ``torch.func`` calls it as everyone does.
    """
    model.register_forward_hook(_unwrapped)
    return model


def _unwrapped(module: nn.Module, inputs: tuple[Any, ...], outputs: object) -> Tensor:
    return logits_of(outputs)

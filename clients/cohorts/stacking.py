"""Stacks of the batches, knowledge and parameters of a cohort's clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedkt.clients.learners.devices import CPU
from fedkt.data.samples import Samples, float_dtype
from fedkt.knowledge import SAMPLE_KINDS, Knowledge

Tensors = dict[str, Tensor]
# By name: tensors [K, ...] with a part for each of K clients, and tensors common to all.
OwnAndCommon = tuple[dict[str, Any], dict[str, Any]]


@dataclass(frozen=True)
class PaddedBatches:
    """The batches of one client: rows ``[S, B]``, of which the first ``widths [S]`` count."""

    rows: Tensor
    widths: Tensor

    @classmethod
    def of_orders(cls, orders: Sequence[Tensor], size: int) -> PaddedBatches:
        """Return the batches of the epochs, given the order of the samples in each.

        The last epoch may be cut after one of its batches.
        """
        steps = -(-len(orders[0]) // size)
        rows = torch.zeros(len(orders), steps * size, dtype=torch.int64)
        widths = torch.zeros(len(orders), steps, dtype=torch.int64)
        for line, width, order in zip(rows, widths, orders, strict=True):
            line[: len(order)] = order
            width[: -(-len(order) // size)] = size
            if len(order) % size:
                width[len(order) // size] = len(order) % size
        taken = int(widths.count_nonzero())
        return cls(rows.view(-1, size)[:taken], widths.view(-1)[:taken])

    @classmethod
    def of_batches(cls, drawn: Sequence[Tensor], size: int) -> PaddedBatches:
        """Return batches of at most ``size`` rows, padded to that size."""
        widths = torch.tensor([len(rows) for rows in drawn])
        rows = nn.utils.rnn.pad_sequence(list(drawn), batch_first=True)
        return cls(nn.functional.pad(rows, (0, size - rows.shape[1])), widths)


class Feed:
    """The batches of K clients on a device, padded to the longest of each step.

    Batches that are the same for all clients are stored once (``shared``).

    Parameters
    ----------
    samples : Sequence[Samples]
        Samples of each client.
    batches : Sequence[PaddedBatches]
        Batches of each client; one and the same object if they are the same for all.
    device : torch.device
        Device of the batches.
    whole : bool
        Whether to pad every step to the longest batch of all steps.
    weights : Sequence[Tensor]
        The weights of each client's samples, ``[n_k]``; empty: all count once.
    """

    def __init__(
        self,
        samples: Sequence[Samples],
        batches: Sequence[PaddedBatches],
        device: torch.device = CPU,
        whole: bool = False,
        weights: Sequence[Tensor] = (),
    ) -> None:
        first = samples[0]
        same = all(s.x is first.x for s in samples)
        self.shared = same and all(padded is batches[0] for padded in batches)
        batches = batches[:1] if self.shared else batches
        pad = nn.utils.rnn.pad_sequence
        rows = pad([padded.rows for padded in batches], batch_first=True)  # [K, S, B]
        widths = pad([padded.widths for padded in batches], batch_first=True)
        wide = rows.shape[2]
        self._widest = [wide if whole else w for w in widths.amax(0).tolist()]
        if same:
            x, y, ids = first.x, first.y, first.ids
        else:  # the samples of one client after those of another
            labels = [s.y for s in samples if s.y is not None]
            x, ids = torch.cat([s.x for s in samples]), torch.cat([s.ids for s in samples])
            y = torch.cat(labels) if labels else None
            sizes = torch.tensor([0, *(len(s) for s in samples[:-1])])
            rows = rows + sizes.cumsum(0)[:, None, None]
        self._rows, self._widths = rows.to(device), widths.to(device)
        in_order = weights[0] if same and weights else torch.cat([*weights]) if weights else None
        self._weights = None if in_order is None else in_order.to(device)
        self._x, self._y, self._ids = x.to(device), y if y is None else y.to(device), ids.to(device)

    def at(self, number: int) -> OwnAndCommon:
        """Return x, y, ids and weight of batch ``number``: for each client, or common if shared."""
        rows = self._rows[:, number, : self._widest[number]]
        columns = torch.arange(rows.shape[1], device=rows.device)
        weight = columns < self._widths[:, number, None]
        if self.shared:
            rows, weight = rows[0], weight[0]
        fields = {
            "x": _pick(self._x, rows),
            "ids": _pick(self._ids, rows),
            "weight": weight.to(float_dtype(self._x)),
        }
        if self._weights is not None:
            fields["weight"] = fields["weight"] * _pick(self._weights, rows)
        if self._y is None:
            return ({}, {**fields, "y": None}) if self.shared else (fields, {"y": None})
        fields["y"] = _pick(self._y, rows)
        return ({}, fields) if self.shared else (fields, {})


def _pick(of: Tensor, rows: Tensor) -> Tensor:
    """Return ``of[rows]``, several times faster."""
    return of.index_select(0, rows.flatten()).view(*rows.shape, *of.shape[1:])


def stacked_knowledge(
    clients: Sequence[Mapping[str, Knowledge]], device: torch.device = CPU, shared: bool = False
) -> OwnAndCommon:
    """Return the parts of the knowledge of K clients, stacked on a device, by name.

    Parameters
    ----------
    clients : Sequence[Mapping[str, Knowledge]]
        Knowledge of each client, of the same names, kinds and shapes; of rows there may be more
        for one client than for another. Parts that are the same for all are not stacked.
    device : torch.device
        Device of the result.
    shared : bool
        Whether all clients look up the same samples. Rows of samples then lie together in
        memory: the stack is a view ``[K, M, ...]`` of a tensor ``[M, K, ...]``.
    """
    separate: dict[str, Any] = {}
    common: dict[str, Any] = {}
    for name, first in clients[0].items():
        parts = [client[name].parts() for client in clients]
        separate[name], common[name] = {}, {}
        for key in parts[0]:
            values = [part[key] for part in parts]
            if all(v is values[0] for v in values) or _equal(values):
                common[name][key] = values[0].to(device)
                continue
            values = _padded(values, key)
            if shared and first.kind in SAMPLE_KINDS and values[0].dim() > 1:
                separate[name][key] = torch.stack(values, 1).to(device).transpose(0, 1)
            else:
                separate[name][key] = torch.stack(values).to(device)
    return separate, common


def _equal(values: Sequence[Tensor]) -> bool:
    """Return whether tensors of ids are equal; others are too large to compare."""
    return values[0].dtype == torch.int64 and all(torch.equal(values[0], v) for v in values[1:])


def _padded(values: Sequence[Tensor], key: str) -> list[Tensor]:
    """Return tensors of rows, or tables from ids to rows, padded to one length."""
    if all(value.shape == values[0].shape for value in values):
        return list(values)
    nothing = -1 if key == Knowledge.TABLE else 0
    padded = nn.utils.rnn.pad_sequence(list(values), batch_first=True, padding_value=nothing)
    return list(padded.unbind())


def stack(states: Sequence[Mapping[str, Tensor]], device: torch.device = CPU) -> Tensors:
    """Return K states with the same names as tensors ``[K, ...]`` on a device."""
    # Contiguous, because vmap cannot keep channels_last for each client.
    stacked = {name: torch.stack([s[name] for s in states]).contiguous() for name in states[0]}
    return {name: tensor.to(device) for name, tensor in stacked.items()}

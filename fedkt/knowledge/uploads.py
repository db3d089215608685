"""Uploads of a round, and the same share of many clients as one stack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor

from fedkt.errors import KnowledgeError, unknown
from fedkt.knowledge.piece import Kind, Knowledge
from fedkt.knowledge.row_union import united
from fedkt.machine import empty, give_back


@dataclass(frozen=True)
class Upload:
    """One client's knowledge, by share name, the number of examples behind it, and its model."""

    client: int
    num_examples: int
    knowledge: Mapping[str, Knowledge]
    architecture: str = ""


@dataclass(frozen=True)
class Stack:
    """The same share of N clients, stacked: the input of a fusion.

    Parameters
    ----------
    name : str
        The share name, e.g. ``"public"``.
    kind : str
        The common kind.
    tensors : Mapping[str, Tensor]
        As in :class:`Knowledge` with a leading axis of N clients.
    ids : Tensor, optional
        int64 ``[M]``, the common ids; where clients sent different rows, the ids that any of them
        sent, ascending.
    clients : tuple[int, ...]
        The N client ids, ascending.
    num_examples : Tensor
        float32 ``[N]``.
    counts : Tensor, optional
        int64 ``[N, M]``: how many examples stand behind each client's row, 0 where the client has
        no such row; 1 for a client that sent no counts. ``None`` if no client sent any.
    """

    name: str
    kind: Kind
    tensors: Mapping[str, Tensor]
    ids: Tensor | None
    clients: tuple[int, ...]
    num_examples: Tensor
    counts: Tensor | None = None

    @property
    def values(self) -> Tensor:
        """The rows of all clients, ``[N, M, ...]``."""
        return self.tensors["values"]

    @property
    def present(self) -> Tensor | None:
        """Which rows each client has, bool ``[N, M]``; ``None`` if every client has all."""
        if self.counts is None or bool((self.counts > 0).all()):
            return None
        return self.counts > 0

    @property
    def covered(self) -> Tensor:
        """Which rows any client has, bool ``[M]``."""
        if self.counts is None:
            return torch.ones(self.values.shape[1], dtype=torch.bool)
        return (self.counts > 0).any(0)

    @property
    def sum_of_counts(self) -> Tensor | None:
        """How many examples of all clients stand behind each row, int64 ``[M]``; or ``None``."""
        return None if self.counts is None else self.counts.sum(0)

    def need_all_rows(self, what: str) -> None:
        """Raise an error if a client lacks rows.

        Parameters
        ----------
        what : str
            Name of the function that needs them, for the message.

        Raises
        ------
        KnowledgeError
            Naming it, and a client that lacks rows.
        """
        present = self.present
        if present is not None:
            client = self.clients[int((~present).any(1).nonzero()[0])]
            raise KnowledgeError(
                f"{what} needs all rows of every client, and client {client} lacks some"
            )

    def __len__(self) -> int:
        return len(self.clients)


class Uploads(Sequence[Upload]):
    """The accepted uploads of one round, ordered by client.

    ``uploads["public"]`` is the :class:`Stack` of one share; ``uploads[0]`` and iteration
    give single uploads. ``uploads.groups("weights")`` are the stacks of each architecture.

    Parameters
    ----------
    uploads : Sequence[Upload]
        At least one; every upload holds the same share names.
    """

    def __init__(self, uploads: Sequence[Upload]) -> None:
        self._uploads = sorted(uploads, key=lambda u: u.client)
        self._stacks: dict[str, Stack] = {}

    @property
    def clients(self) -> tuple[int, ...]:
        """The client ids, ascending."""
        return tuple(u.client for u in self._uploads)

    def __len__(self) -> int:
        return len(self._uploads)

    def __iter__(self) -> Iterator[Upload]:
        return iter(self._uploads)

    @overload
    def __getitem__(self, key: str) -> Stack: ...
    @overload
    def __getitem__(self, key: int) -> Upload: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[Upload]: ...

    def __getitem__(self, key: str | int | slice) -> Stack | Upload | Sequence[Upload]:
        if not isinstance(key, str):
            return self._uploads[key]
        if key not in self._stacks:
            self._stacks[key] = self._stack(key)
        return self._stacks[key]

    def groups(self, name: str) -> Mapping[str, Stack]:
        """Return the stacks of a share by architecture, in the order of the clients."""
        by: dict[str, list[Upload]] = {}
        for upload in self._uploads:
            by.setdefault(upload.architecture, []).append(upload)
        if len(by) == 1:
            return {next(iter(by)): self[name]}
        return {architecture: Uploads(alike)[name] for architecture, alike in by.items()}

    def _stack(self, name: str) -> Stack:
        names = list(self._uploads[0].knowledge)
        if name not in names:
            raise KnowledgeError(str(unknown("share", name, names)))
        examples = torch.tensor([u.num_examples for u in self._uploads], dtype=torch.float32)
        items = [upload.knowledge[name] for upload in self._uploads]
        kind, ids = items[0].kind, [item.ids for item in items if item.ids is not None]
        if all(torch.equal(ids[0], others) for others in ids[1:]):
            common, counts = ids[0] if ids else None, _stacked_counts(items)
            del items  # so that each of them is freed once its rows are in the stack
            tensors = self._whole(name)
        else:
            told = [item.values for item in items], [item.counts for item in items]
            common, rows, counts = united(name, self.clients, ids, *told)
            tensors = {"values": rows}
        return Stack(name, kind, tensors, common, self.clients, examples, counts)

    def _whole(self, name: str) -> dict[str, Tensor]:
        """Return the stacked tensors of uploads that hold the same rows."""
        first = self._uploads[0].knowledge[name]
        count = len(self._uploads)
        tensors = {key: empty((count, *t.shape), t.dtype) for key, t in first.tensors.items()}
        rows_of = {key: stacked.unbind() for key, stacked in tensors.items()}
        for k, upload in enumerate(self._uploads):
            upload_tensors = upload.knowledge[name].tensors
            for key, rows in rows_of.items():
                if upload_tensors[key].shape != rows[k].shape:
                    shape = list(upload_tensors[key].shape)
                    raise KnowledgeError(
                        f"{name}: client {upload.client} has {key} of shape {shape}, "
                        f"client {self._uploads[0].client} of {list(rows[k].shape)}"
                    )
                rows[k].copy_(upload_tensors[key])
            # The upload is a part of the stack from now on: thousands of answers fit once.
            within = {key: rows[k] for key, rows in rows_of.items()}
            knowledge = {**upload.knowledge, name: upload.knowledge[name].with_tensors(within)}
            self._uploads[k] = replace(upload, knowledge=knowledge)
        del upload, upload_tensors, knowledge
        give_back(sum(t.nbytes for t in tensors.values()))
        return tensors


def _stacked_counts(items: Sequence[Knowledge]) -> Tensor | None:
    counts_of_clients = [item.counts for item in items]
    if all(counts is None for counts in counts_of_clients):
        return None
    rows = len(items[0].values)
    whole = torch.ones(rows, dtype=torch.int64)
    return torch.stack([whole if counts is None else counts for counts in counts_of_clients])

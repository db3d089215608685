"""Samples as tensors: what a model trains on and is measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedkt.data.party_arrays import HELD_OUT, Labelled, class_names, party_arrays
from fedkt.data.priors import empirical_bayes_prior
from fedkt.errors import ConfigError, KnowledgeError


def float_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of what is computed with inputs: their own, for token ids float32."""
    return x.dtype if x.is_floating_point() else torch.float32


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples, ready for a model. Treat the tensors as read-only: clients share them.

    Parameters
    ----------
    x : Tensor
        float32 ``[n, C, H, W]`` (images, channels first), ``[n, T, C]`` (series) or ``[n, d]``
        (feature vectors); int64 ``[n, L]`` (token ids).
    y : Tensor, optional
        int64 ``[n]``, labels from 0; ``None`` where they are unknown.
    ids : Tensor
        int64 ``[n]``, each at most once (a client that draws with replacement may hold a
        sample twice).

    Raises
    ------
    ValueError
        If the lengths differ.
    """

    x: Tensor
    y: Tensor | None
    ids: Tensor

    def __post_init__(self) -> None:
        lengths = {len(self.x), len(self.ids)} | (set() if self.y is None else {len(self.y)})
        if len(lengths) > 1:
            raise ValueError(f"x, y and ids differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Tensor) -> Samples:
        """Return the samples at some positions.

        Parameters
        ----------
        rows : Tensor
            int64 ``[k]`` positions or bool ``[n]`` mask.

        Returns
        -------
        Samples
            In the order of ``rows``.
        """
        return Samples(self.x[rows], None if self.y is None else self.y[rows], self.ids[rows])

    def at_ids(self, ids: Tensor) -> Samples:
        """Return the samples with some ids.

        Parameters
        ----------
        ids : Tensor
            int64 ``[k]``.

        Returns
        -------
        Samples
            In the order of ``ids``.

        Raises
        ------
        KnowledgeError
            Naming the first id that is not here.
        """
        # Clients ask a public set for the same samples one after another, mostly for all.
        if torch.equal(ids, self.ids):
            return self
        if self._latest and torch.equal(ids, self._latest[0].ids):
            return self._latest[0]
        sorted_ids, order = self._sorted_ids
        places = torch.searchsorted(sorted_ids, ids)
        present = places < len(sorted_ids)
        present[present.clone()] = sorted_ids[places[present]] == ids[present]
        if not bool(present.all()):
            raise KnowledgeError(f"no sample has the id {int(ids[~present][0])}")
        self._latest[:] = [self.select(order[places])]
        return self._latest[0]

    @cached_property
    def _latest(self) -> list[Samples]:
        return []

    @cached_property
    def _sorted_ids(self) -> tuple[Tensor, Tensor]:
        ids, order = torch.sort(self.ids)
        return ids, order


@dataclass(frozen=True, eq=False)
class ClientData:
    """All the data that one client works with.

    Parameters
    ----------
    train, validation, test : Samples
        The client's own, of one distribution; validation and test may have length 0.
    public : Samples, optional
        The public set, the same for every client: ids 0, 1, ..., M - 1 in order; its ``y``
        may be ``None``.
    common_test : Samples, optional
        The common test set, for global accuracy.
    num_classes : int
        Labels lie in [0, num_classes).
    input_shape : tuple[int, ...]
        The shape of one sample: ``(C, H, W)`` or ``(d,)``.
    class_shares : Tensor, optional
        float64 ``[C]``: the class distribution that the client's samples were drawn from,
        where a simulation knows it.
    domain_test : Samples, optional
        The common test samples of the client's own domain, in a federation of domains.
    classes : tuple[str, ...]
        The class names, in the order of the labels; by default ``"0"``, ``"1"``, ... Clients
        whose names or whose order differ do not run together.
    columns : Mapping[str, str]
        Of a table the columns in order, each name with its dtype; compared like the classes.
    preprocessing : Mapping[str, str]
        What was done to the inputs before they came here, by column or step: encoders and
        scalers with their parameters, e.g. ``{"age": "mean 54.2, deviation 9.1"}``. Clients that
        exchange weights must have done the same.
    own_counts : Tensor, optional
        int64 ``[C]``: the client's own training samples of each class, where ``train`` holds those
        of other clients too, as in a reference of a simulation.

    Raises
    ------
    ConfigError
        If there is not one class name for each class.
    """

    train: Samples
    validation: Samples
    test: Samples
    public: Samples | None
    common_test: Samples | None
    num_classes: int
    input_shape: tuple[int, ...]
    class_shares: Tensor | None = None
    domain_test: Samples | None = None
    classes: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    preprocessing: Mapping[str, str] = field(default_factory=dict)
    own_counts: Tensor | None = None

    def __post_init__(self) -> None:
        names = tuple(self.classes) or tuple(str(k) for k in range(self.num_classes))
        if len(names) != self.num_classes:
            raise ConfigError(f"{len(names)} class names for {self.num_classes} classes.")
        object.__setattr__(self, "classes", names)

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        y: Any,
        *,
        classes: int | Sequence[str],
        validation: Labelled | float = HELD_OUT[0],
        test: Labelled | float = HELD_OUT[1],
        public: Any = None,
        common_test: Labelled | None = None,
        columns: Mapping[str, str] | None = None,
        preprocessing: Mapping[str, str] | None = None,
    ) -> ClientData:
        """Return the data of a party from arrays, with ids, checked.

        Parameters
        ----------
        x : array or Tensor
            The party's samples ``[n, ...]`` as models see them: floats, or int64 token ids.
        y : array or Tensor
            Their labels ``[n]``: whole numbers from 0, or the names in ``classes``.
        classes : int or Sequence[str]
            How many classes there are, or their names in the order of the labels; the same at
            every party, whether it has samples of each or not.
        validation, test : tuple or float
            Samples ``(x, y)`` of the party's own to choose rounds by, and to be tested on; or the
            part of ``x`` that is held out for it, stratified, always the same rows.
        public : array or Tensor, optional
            Inputs of the public set ``[M, ...]``, the same in the same order at every party.
        common_test : tuple, optional
            Samples ``(x, y)`` for global accuracy, the same at every party.
        columns, preprocessing : Mapping[str, str], optional
            See :class:`ClientData`.

        Raises
        ------
        ConfigError
            If lengths, shapes, dtypes or labels do not fit, in one line.
        """
        names = class_names(classes)
        own = {"validation": validation, "test": test}
        arrays = party_arrays((x, y), own, public, common_test, names)
        first = 0  # ids in one row: those of the public set begin at 0
        sets = {}
        for name, (inputs, labels) in arrays.items():
            sets[name] = Samples(inputs, labels, torch.arange(first, first + len(inputs)))
            first += len(inputs)
        return cls(
            sets["train"],
            sets["validation"],
            sets["test"],
            public=sets.get("public"),
            common_test=sets.get("common_test"),
            num_classes=len(names),
            input_shape=tuple(sets["train"].x.shape[1:]),
            classes=names,
            columns=dict(columns or {}),
            preprocessing=dict(preprocessing or {}),
        )

    @property
    def matched_test(self) -> Samples | None:
        """The common test samples of the client's own domain; without domains all of them."""
        return self.common_test if self.domain_test is None else self.domain_test

    @cached_property
    def class_counts(self) -> Tensor:
        """The client's own training samples of each class, int64 ``[C]``; they never leave it."""
        if self.own_counts is not None:
            return self.own_counts
        assert self.train.y is not None
        return torch.bincount(self.train.y, minlength=self.num_classes)

    @cached_property
    def log_prior(self) -> Tensor:
        """The log of the client's own class prior, float32 ``[C]``; see ``fedkt.data.priors``."""
        return empirical_bayes_prior(self.class_counts).log()

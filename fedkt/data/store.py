"""A federation as arrays: what it holds, and how it is kept in files."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedkt.data.samples import ClientData, Samples
from fedkt.data.scaling import model_inputs
from fedkt.data.splits import Array, Ints
from fedkt.disk import writing
from fedkt.errors import ConfigError
from fedkt.text import reason_of

FORMAT = 6
ARRAYS = ("pool_x", "pool_y", "test_x", "test_y", "public_x", "rows", "bounds")
TUPLES = (
    "classes",
    "input_shape",
    "domains",
    "notes",
    "columns",
    "preprocessing",
    "client_names",
)
# Of how the arrays came to be, or of who is given which; not part of the content.
SAID = ("notes", "preprocessing", "pools")
OPTIONAL = ("public_y", "class_shares", "client_domain", "test_domain")

# Tensors that clients share, by federation and then role or domain. Ray hands every task a
# new Federation object, so the object itself cannot keep them.
_shared: OrderedDict[str, dict[str | int, Samples | None]] = OrderedDict()
MOST_FEDERATIONS = 2


@dataclass(frozen=True, eq=False)
class Federation:
    """The data of all clients as numpy arrays.

    Built by :func:`fedkt.data.federation.build_federation`. It pickles to its arrays and
    little else, and works on read-only and memory-mapped ones.
    Sample ids are unique within the federation: public samples have 0, ..., M - 1, the
    clients' samples follow (M + row of ``pool_x``), then the common test samples.

    Parameters
    ----------
    name : str
        The data set.
    classes : tuple[str, ...]
        The class names.
    input_shape : tuple[int, ...]
        ``(C, H, W)``, ``(T, C)`` or ``(d,)``.
    pool_x, pool_y : ndarray
        The clients' samples, scaled (see :func:`fedkt.data.scaling.scaled`); images in bytes
        are still to be divided by 255.
    test_x, test_y : ndarray
        The common test set.
    public_x, public_y : ndarray
        The public set, ``public_x`` of length 0 where there is none; ``public_y`` is ``None``
        without a public set, where its labels are unknown or mean other classes, and of a target.
    rows : ndarray
        int64: the rows of ``pool_x`` of client 0 (training, validation, test), client 1, ...
    bounds : ndarray
        int64 ``[clients, 4]``: where in ``rows`` each client's training, validation and
        test rows start, and where the latter end.
    public_name : str
        The data set that the public set comes from; empty where there is none.
    class_shares : ndarray, optional
        float64 ``[clients, classes]``: the class distributions that the clients' samples were
        drawn from, where the partition knows them.
    domains : tuple[str, ...]
        The names of the domains; empty where clients do not own domains.
    client_domain, test_domain : ndarray, optional
        int64 ``[clients]`` and ``[T]``: the domain (place in ``domains``) that each client
        owns, and that each common test sample is of. ``None`` without domains.
    target : str
        The domain that no client owns and all common test samples are of; empty without one.
    transductive : bool
        Whether the common test samples are the public ones.
    notes : tuple[str, ...]
        What a reader of the results should know.
    columns : tuple[str, ...]
        The names of a table's columns; empty where they have none.
    preprocessing : tuple[Mapping, ...]
        What was done to the inputs of each domain, see :mod:`fedkt.data.preprocessing`; one without
        domains.
    client_names : tuple[str, ...]
        The names of natural clients; empty where clients have numbers alone.
    pools : bool
        Whether every client is given the training samples of all: no federation, but a reference
        for others (:meth:`pooled`). What else it has is its own, its class prior too.
    token : str
        Names the content within this process; the fingerprint by default.
    """

    name: str
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    pool_x: Array
    pool_y: Array
    test_x: Array
    test_y: Array
    public_x: Array
    public_y: Array | None
    rows: Ints
    bounds: Ints
    public_name: str
    class_shares: Array | None = None
    domains: tuple[str, ...] = ()
    client_domain: Ints | None = None
    test_domain: Ints | None = None
    target: str = ""
    transductive: bool = False
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    preprocessing: tuple[Mapping[str, Any], ...] = ()
    client_names: tuple[str, ...] = ()
    pools: bool = False
    token: str = ""

    def __post_init__(self) -> None:
        if not self.token:
            object.__setattr__(self, "token", self.fingerprint())

    @property
    def num_clients(self) -> int:
        """The number of clients."""
        return len(self.bounds)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def input_dtype(self) -> torch.dtype:
        """The dtype of inputs as models see them: float32, for token ids int64."""
        return torch.int64 if self.pool_x.dtype == np.int64 else torch.float32

    def gaps(self) -> int:
        """Return how many rows of the clients', the test and the public samples miss a value."""
        arrays = (self.pool_x, self.test_x, self.public_x)
        floats = (x.reshape(len(x), -1) for x in arrays if x.dtype.kind == "f" and x.size)
        return sum(int(np.isnan(x).any(1).sum()) for x in floats)

    def client(self, i: int) -> ClientData:
        """Return the data of client ``i`` as tensors; the shared sets are made once a process.

        Raises
        ------
        ConfigError
            If there is no such client.
        """
        if not 0 <= i < self.num_clients:
            raise ConfigError(f"There is no client {i}; there are 0 to {self.num_clients - 1}.")
        own, validation, test = (self._own(self._rows_of(i, split)) for split in range(3))
        everyone = self._cached("everyone") if self.pools else None
        assert own.y is not None
        return ClientData(
            train=own if everyone is None else everyone,
            validation=validation,
            test=test,
            public=self._cached("public"),
            common_test=self._cached("common-test"),
            num_classes=self.num_classes,
            input_shape=self.input_shape,
            class_shares=None if self.class_shares is None else torch.tensor(self.class_shares[i]),
            domain_test=None if self.client_domain is None else self._cached(self.domain_of(i)),
            classes=self.classes,
            columns=dict.fromkeys(self.columns, str(self.pool_x.dtype)),
            own_counts=torch.bincount(own.y, minlength=self.num_classes) if self.pools else None,
        )

    def pooled(self) -> Federation:
        """Return the same clients, each of which trains on the training samples of all."""
        return replace(self, pools=True, token=f"{self.token}/pooled")

    def domain_of(self, i: int) -> int:
        """Return the domain of client ``i``, by its place in ``domains``; 0 without domains."""
        return 0 if self.client_domain is None else int(self.client_domain[i])

    def preprocessing_of(self, i: int) -> Mapping[str, Any]:
        """Return what was done to the inputs of client ``i``, for ``prepared_rows``."""
        return self.preprocessing[self.domain_of(i)]

    def label_counts(self) -> Ints:
        """Return int64 ``[clients, classes]``: how many training samples of each class."""
        return np.stack(
            [
                np.bincount(self.pool_y[self._rows_of(i, 0)], minlength=self.num_classes)
                for i in range(self.num_clients)
            ]
        ).astype(np.int64)

    def describe(self) -> dict[str, Any]:
        """Return the facts of the data that a report shows, as values that JSON knows.

        Returns
        -------
        dict
            ``dataset``, ``clients`` (number), ``classes`` (names), ``input_shape``,
            ``label_counts`` (lists, clients x classes), ``sizes`` (``train``,
            ``validation``, ``test``: one number per client), ``public`` and ``common_test``
            (numbers of samples), ``public_dataset``, ``target`` (names or None),
            ``transductive``, ``notes``; with domains also
            ``domains`` (one name per client), with natural clients ``client_names``;
            ``preprocessing`` (by domain; without domains by the name of the data set).
        """
        sizes = np.diff(self.bounds, axis=1)
        owned = [self.domains[self.domain_of(i)] for i in range(self.num_clients) if self.domains]
        return {
            "dataset": self.name,
            "clients": self.num_clients,
            "classes": list(self.classes),
            "input_shape": list(self.input_shape),
            "label_counts": self.label_counts().tolist(),
            "sizes": {
                split: sizes[:, column].tolist()
                for column, split in enumerate(("train", "validation", "test"))
            },
            "public": len(self.public_x),
            "public_dataset": self.public_name or None,
            "common_test": len(self.test_x),
            "target": self.target or None,
            "transductive": self.transductive,
            "notes": list(self.notes),
            "preprocessing": dict(
                zip(self.domains or (self.name,), self.preprocessing, strict=False)
            ),
            **({"domains": owned} if owned else {}),
            **({"client_names": list(self.client_names)} if self.client_names else {}),
        }

    def fingerprint(self) -> str:
        """Return the SHA-256 of the content (arrays and names) in hexadecimal."""
        header = {key: value for key, value in self._header().items() if key not in SAID}
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        for key, array in self._arrays().items():
            digest.update(f"{key}/{array.dtype.str}/{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data if array.size else b"")
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the federation into a folder: one ``.npy`` file per array and a JSON file."""
        header = {"format": FORMAT, **self._header(), "token": self.token}
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for key, array in self._arrays().items():
                np.save(folder / f"{key}.npy", array, allow_pickle=False)
            # Last, so that a folder with this file is complete.
            (folder / "federation.json").write_text(json.dumps(header, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Federation:
        """Return a saved federation; its arrays stay in their files until they are used.

        Raises
        ------
        ConfigError
            If the folder holds no federation, or a broken one.
        """
        try:
            header = json.loads((folder / "federation.json").read_text(encoding="utf-8"))
            if header.pop("format") != FORMAT:
                raise ConfigError(f"{folder} was saved by another version of fedkt.")
            keys = (*ARRAYS, *header.pop("optional"))
            arrays = {key: _open(folder / f"{key}.npy") for key in keys}
            for key in TUPLES:
                header[key] = tuple(header.get(key, ()))
            return cls(**{"public_y": None, **arrays, **header})
        except ConfigError:
            raise
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            reason = reason_of(error)
            raise ConfigError(f"{folder} holds no readable federation: {reason}.") from error

    def _arrays(self) -> dict[str, Array]:
        arrays = {key: getattr(self, key) for key in (*ARRAYS, *OPTIONAL)}
        return {key: array for key, array in arrays.items() if array is not None}

    def _header(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "classes": list(self.classes),
            "input_shape": list(self.input_shape),
            "public_name": self.public_name,
            "optional": [key for key in OPTIONAL if getattr(self, key) is not None],
            "domains": list(self.domains),
            "target": self.target,
            "transductive": self.transductive,
            "notes": list(self.notes),
            "preprocessing": list(self.preprocessing),
            **({"columns": list(self.columns)} if self.columns else {}),
            **({"client_names": list(self.client_names)} if self.client_names else {}),
            **({"pools": True} if self.pools else {}),
        }

    def _rows_of(self, client: int, split: int) -> Ints:
        return self.rows[self.bounds[client, split] : self.bounds[client, split + 1]]

    def _own(self, rows: Ints) -> Samples:
        return self._samples(self.pool_x[rows], self.pool_y[rows], len(self.public_x) + rows)

    def _cached(self, role: str | int) -> Samples | None:
        """Return the public or common test set, all training samples, or the test of a domain."""
        sets = _shared.setdefault(self.token, {})
        if role not in sets:
            if isinstance(role, int):
                sets[role] = self._domain_test(role)
            else:
                made = {"public": self._public, "everyone": self._everyone}
                sets[role] = made.get(role, self._common_test)()
        while len(_shared) > MOST_FEDERATIONS:
            _shared.popitem(last=False)
        return sets[role]

    def _public(self) -> Samples | None:
        ids = np.arange(len(self.public_x))
        return self._samples(self.public_x, self.public_y, ids) if len(ids) else None

    def _everyone(self) -> Samples:
        rows = np.concatenate([self._rows_of(i, 0) for i in range(self.num_clients)])
        _, first = np.unique(rows, return_index=True)  # clients may share rows
        return self._own(rows[np.sort(first)])

    def _common_test(self) -> Samples | None:
        ids = len(self.public_x) + len(self.pool_x) + np.arange(len(self.test_x))
        return self._samples(self.test_x, self.test_y, ids) if len(ids) else None

    def _domain_test(self, domain: int) -> Samples | None:
        common = self._cached("common-test")
        if common is None or self.test_domain is None:
            return common
        of_domain = torch.tensor(self.test_domain) == domain
        return common if bool(of_domain.all()) else common.select(of_domain)

    def _samples(self, x: Array, y: Array | None, ids: Ints) -> Samples:
        # torch.tensor copies, which from_numpy does not: the arrays may be read-only.
        return Samples(
            torch.tensor(model_inputs(x, self.input_shape)),
            None if y is None else torch.tensor(y, dtype=torch.int64),
            torch.tensor(ids, dtype=torch.int64),
        )


def _open(file: Path) -> Array:
    try:
        array: Array = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError:  # an empty array cannot be mapped
        array = np.load(file, allow_pickle=False)
    return array

"""The identity of a specification's data, by content: a name may come to mean other rows."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedkt.data.columns import ALL, base_of
from fedkt.data.dataset import Dataset, Unlabelled
from fedkt.data.readers.image_folders import named_images
from fedkt.data.sources import data_path, npz_file, open_dataset
from fedkt.data.spec import FederationSpec, check_spec
from fedkt.digests import digest_of
from fedkt.registry import file_digest, version


def content_of(spec: FederationSpec) -> str:
    """Return a digest of the data that the names in a specification stand for at present.

    A file counts by its bytes, a folder of images by the names and bytes of its images, a function
    or an object of Python by its rows, a partition in a file by that file. A set of the hub counts
    by its name, since its library keeps it by version.

    Raises
    ------
    ConfigError
        If a set cannot be opened.
    """
    check_spec(spec)
    named = [*(spec.domains or (spec.dataset,)), *filter(None, [spec.public_dataset])]
    bases = {base_of(reference.removesuffix(ALL), spec.data_dir)[0] for reference in named}
    parts = [f"{base} {_digest(base, spec)}" for base in sorted(bases)]
    path, in_file, _ = spec.partition.partition(".py:")
    parts += [file_digest(f"{path}.py")] if in_file else []
    return hashlib.sha256("\n".join([*parts, f"parts {version()}"]).encode()).hexdigest()


def _digest(reference: str, spec: FederationSpec) -> str:
    if reference.startswith("hub:"):
        return reference
    path = npz_file(reference, spec.data_dir) or data_path(reference, spec.data_dir)
    if path is None:
        return _rows(open_dataset(reference, spec.data_dir, spec.seed, spec.reading))
    return _images(path) if path.is_dir() else file_digest(path)


def _images(folder: Path) -> str:
    lines = [f"{name} {file_digest(file)}" for name, file in named_images(folder)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _rows(dataset: Dataset | Unlabelled) -> str:
    return digest_of(vars(dataset), lambda module: False)

"""Folders of images, one folder a class: ``CLASS/name.png``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedkt.data.dataset import Dataset, Unlabelled
from fedkt.data.readers.data_frames import PARTS
from fedkt.data.readers.pictures import pixels_of
from fedkt.data.reading import Reader, Reading, Rows, data_of
from fedkt.errors import ConfigError
from fedkt.registry import register
from fedkt.text import reason_of

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


@register(name="image-folder")
class ImageFolderReader(Reader):
    """Folders of images: CLASS/name.png, or train/CLASS/name.png and test/CLASS/name.png."""

    @staticmethod
    def takes(source: Any) -> bool:
        """Return whether the source is the path of a folder."""
        return isinstance(source, Path) and source.is_dir()

    @staticmethod
    def read(source: Any, reading: Reading) -> Dataset | Unlabelled:
        """Return the images below a folder, in the order of their paths.

        Images directly in the folder have no labels.

        Raises
        ------
        ConfigError
            If there is no image, one cannot be read, or they have several sizes and
            ``input_shape`` says none.
        """
        parts = _folders(source)
        if parts and all(folder.name.lower() in PARTS for folder in parts):
            return _of_parts(source, parts, reading)
        files, labels = _labelled(source)
        if not files:
            files = _images(source)
            labels = []
        if not files:
            raise ConfigError(
                f"{source} holds no images; allowed are CLASS/NAME with {', '.join(ENDINGS)}."
            )
        return data_of(
            reading,
            Rows(_pixels(files, reading), np.array(labels) if labels else None),
            layout="image",
        )


def named_images(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the path below the folder and the file of each image, in order."""
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in ENDINGS:
            yield file.relative_to(folder).as_posix(), file


def _of_parts(folder: Path, parts: list[Path], reading: Reading) -> Dataset | Unlabelled:
    """Return a data set whose training and test part are folders."""
    files: dict[str, list[Path]] = {"train": [], "test": []}
    labels: dict[str, list[str]] = {"train": [], "test": []}
    for part in parts:
        side = PARTS[part.name.lower()]
        found, names = _labelled(part)
        files[side] += found
        labels[side] += names
    if empty := [side for side, images in files.items() if not images]:
        raise ConfigError(f"{folder} has no images below {empty[0]}/CLASS.")
    pixels = _pixels(files["train"] + files["test"], reading)
    count = len(files["train"])
    train = Rows(pixels[:count], np.array(labels["train"]))
    return data_of(reading, train, Rows(pixels[count:], np.array(labels["test"])), layout="image")


def _labelled(folder: Path) -> tuple[list[Path], list[str]]:
    pairs = [(file, below.name) for below in _folders(folder) for file in _images(below)]
    return [file for file, _ in pairs], [label for _, label in pairs]


def _folders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.suffix.lower() in ENDINGS)


def _pixels(files: list[Path], reading: Reading) -> Any:
    return pixels_of(map(_opened, files), reading.input_shape, reading.name)


def _opened(file: Path) -> Any:
    from PIL import Image

    try:
        with Image.open(file) as picture:
            picture.load()
            return picture
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(f"{file} is not a readable image: {reason_of(error)}.") from error

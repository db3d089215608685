"""The list of pinned apps: kept, compared, and refused where it is at fault."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from fedkt.deploy.pinned import LIST, OTHERS, PROGRAM, check, pin
from fedkt.errors import ConfigError


def bundle(folder: Path, name: str, content: bytes) -> Path:
    file = folder / name
    file.write_bytes(content)
    return file


def test_what_is_pinned_stays_and_runs(tmp_path: Path) -> None:
    folder = tmp_path / "pinned"
    pin(folder, [bundle(tmp_path, "a.fab", b"PK a")])
    lines = pin(folder, [bundle(tmp_path, "b.fab", b"PK b")])
    digests = [hashlib.sha256(content).hexdigest() for content in (b"PK a", b"PK b")]
    assert lines[:2] == [f"a.fab: sha256:{digests[0]}", f"b.fab: sha256:{digests[1]}"]
    assert (folder / LIST).read_text(encoding="utf-8") == (
        f"{digests[0]}  a.fab\n{digests[1]}  b.fab\n"
    )
    for name in (PROGRAM, *OTHERS):
        assert os.access(folder / name, os.X_OK)
    for content in (b"PK a", b"PK b"):
        check(content, folder / LIST)
    with pytest.raises(ConfigError, match=r"this node does not run the app sha256:[0-9a-f]{64};"):
        check(b"PK c", folder / LIST)


def test_without_a_list_nothing_runs(tmp_path: Path) -> None:
    file = tmp_path / LIST
    with pytest.raises(ConfigError, match=r"apps\.sha256 cannot be read: .*No such file"):
        check(b"PK", file)
    file.write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="does not run the app"):
        check(b"PK", file)
    file.write_text("sha256:abc\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"has 'sha256:abc'; allowed are lines of sha256sum"):
        check(b"PK", file)


def test_bundles_that_are_none(tmp_path: Path) -> None:
    for file in (bundle(tmp_path, "a.zip", b"PK"), bundle(tmp_path, "a.fab", b"no zip")):
        with pytest.raises(ConfigError, match=r"is no app bundle; wanted is the \.fab file of"):
            pin(tmp_path / "pinned", [file])
    with pytest.raises(ConfigError, match=r"none\.fab cannot be read: No such file"):
        pin(tmp_path / "pinned", [tmp_path / "none.fab"])
    assert not (tmp_path / "pinned").exists()

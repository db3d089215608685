"""The content of a run: digests of its data and of the user's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedkt.calls import files_in
from fedkt.errors import ConfigError
from fedkt.registry import file_digest
from fedkt.simulations.results.run_folder import read_content


def user_files(*references: str) -> dict[str, str]:
    """Return the user's Python files among references, each with the digest of its content."""
    paths = [name.rpartition(":")[0] for text in references for name in files_in(text)]
    return {str(Path(path).resolve()): file_digest(path) for path in paths}


def check_content(folder: Path, now: Mapping[str, Any], baseline: Path | None = None) -> None:
    """Refuse to go on with a run whose data or user's files have changed since it was begun.

    Parameters
    ----------
    folder : Path
        The run directory; one in which nothing has been computed passes.
    now : Mapping
        ``data`` (the federation's fingerprint) and ``files`` (digests by path).
    baseline : Path, optional
        The run directory of the local training, which must be on the same data.

    Raises
    ------
    ConfigError
        Naming the data or the file that differs.
    """
    before = read_content(folder)
    if before == {}:
        raise ConfigError(f"{folder} does not say which data it was begun with; begin it anew.")
    if before:
        files = before["files"], now["files"]
        changed = [f for f in sorted({*files[0], *files[1]}) if files[0].get(f) != files[1].get(f)]
        if changed or before["data"] != now["data"]:
            what = f"another content of {changed[0]}" if changed else "other data"
            raise ConfigError(f"{folder} was begun with {what}; begin anew with another --out.")
    if baseline and (alone := read_content(baseline)) and alone["data"] != now["data"]:
        raise ConfigError(f"{baseline} was run on other data: their source gives new rows now.")

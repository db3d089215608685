"""What a run is made of: digests of its data and of the user's files, kept beside its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedkt.errors import ConfigError
from fedkt.registry import file_digest


def user_files(*references: str) -> dict[str, str]:
    """Return the user's Python files among references, each with the digest of its content."""
    paths = [r.rpartition(":")[0] for r in references if ".py:" in r]
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
        Naming what is another.
    """
    before = _recorded(folder)
    if before == {}:
        raise ConfigError(f"{folder} does not say which data it was begun with; begin it anew.")
    if before:
        files = before["files"], now["files"]
        changed = [f for f in sorted({*files[0], *files[1]}) if files[0].get(f) != files[1].get(f)]
        if changed or before["data"] != now["data"]:
            what = f"another content of {changed[0]}" if changed else "other data"
            raise ConfigError(f"{folder} was begun with {what}; begin anew with another --out.")
    if baseline and (alone := _recorded(baseline)) and alone["data"] != now["data"]:
        raise ConfigError(f"{baseline} was run on other data: their source gives new rows now.")


def _recorded(folder: Path) -> dict[str, Any] | None:
    """Return what a run was begun with, empty if it does not say; None if it was not begun."""
    path = folder / "federation.json"
    if not path.is_file():
        return {} if (folder / "rounds.jsonl").is_file() else None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")).get("content", {})
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}.") from error
    return content

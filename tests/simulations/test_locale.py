"""Whatever the locale: names of files are UTF-8, and what the console cannot show is replaced."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkt.disk import write_atomic
from fedkt.errors import ConfigError

STRATEGY = """
from fedkt.strategies.baselines.local import Local

class Éclair(Local):
    "Löcal – trained alone."
"""


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-m", "fedkt.simulations.cli", *arguments],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        env={**kept, **environment},
    )


@pytest.fixture
def folder(tmp_path: Path, write_toml: Any) -> Path:
    """Return a folder with an accent, in which everything else has one, too."""
    folder = tmp_path / "données"
    (folder / "jeux").mkdir(parents=True)
    rng = np.random.default_rng(0)
    x, y = rng.random((300, 6), dtype=np.float32), np.arange(300) % 3
    parts = {"x_train": x[:200], "y_train": y[:200], "x_test": x[200:], "y_test": y[200:]}
    np.savez(folder / "jeux" / "été.npz", **parts)
    (folder / "mien.py").write_text(STRATEGY, encoding="utf-8")
    data = {"dataset": "été", "data_dir": "jeux", "clients": 2, "samples_per_client": 30}
    data |= {"public_samples": 20, "test_samples": 30}
    write_toml(folder, data=data, rounds=1, strategy={"name": "mien.py:Éclair"})
    return folder


def test_in_a_folder_with_an_accent_under_a_locale_without(folder: Path) -> None:
    """The console gets the ASCII that it can show, the files UTF-8."""
    ascii_ = {"PYTHONUTF8": "0", "LC_ALL": "C"}
    done = run(folder, "simulate", "tiny.toml", "--out", "résultat", **ascii_)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "?clair, round 1: personalised accuracy" in done.stdout
    assert "Report: r?sultat/report.html" in done.stdout
    written = tomllib.loads((folder / "résultat" / "config.toml").read_text(encoding="utf-8"))
    assert written["data"]["data_dir"] == str(folder / "jeux")
    assert written["strategy"]["name"] == f"{folder}/mien.py:Éclair"
    page = (folder / "résultat" / "report.html").read_text(encoding="utf-8")
    assert "fedkt simulate tiny.toml --out &#39;résultat&#39;" in page
    more = ["--resume", "--rounds", "2"]
    again = run(folder, "simulate", "--out", "résultat", *more, **ascii_)
    assert (again.returncode, again.stderr) == (0, "")
    assert "round 2/2" in again.stdout


def test_a_console_that_cannot_show_it_gets_something_else(folder: Path) -> None:
    done = run(folder, "simulate", "é.toml", LC_ALL="C.UTF-8", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert done.stderr == "error: ?.toml cannot be read: No such file or directory.\n"


def test_names_that_are_not_utf8_are_refused_where_they_would_be_written(tmp_path: Path) -> None:
    text = f'data_dir = "{tmp_path}/donn\udce9es/x"\nrounds = 3\n'
    with pytest.raises(ConfigError) as refused:
        write_atomic(tmp_path / "config.toml", text)
    assert "donn\\udce9es/x' is no name in UTF-8" in str(refused.value)
    assert "rounds" not in str(refused.value)
    assert list(tmp_path.iterdir()) == [], "not even an empty file"


def test_one_bad_name_is_one_line(folder: Path) -> None:
    bad = os.fsencode(folder) + b"/donn\xe9es"
    os.rename(folder / "jeux", bad)
    options = ["tiny.toml", "--data-dir", os.fsdecode(b"donn\xe9es"), "--out", "run"]
    done = run(folder, "simulate", *options, LC_ALL="C.UTF-8")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "is no name in UTF-8" in line
    assert not (folder / "run").exists()

"""The scripts and the notebook of examples/, as they are but for the number of rounds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDS = {"own_table": "lightgbm", "own_images": "PIL", "token_ids": "transformers"}
SAYS = {
    "own_table": ["| fedmd |", "fedmd − local, Personalised accuracy", "AUROC"],
    "own_images": ["<fedkt run fedmd, seed 0, round 2", "client-1.safetensors"],
    "token_ids": ["<fedkt run fedmd, seed 0, round 2"],
    "four_hospitals": ["| knfu |", "fedmd − local, Global AUROC"],
    "own_method": ["| Confident |", "Confident − fedmd, Personalised accuracy"],
}
LONGEST = 40  # lines
ROUNDS = {"own_method": "1"}  # nine runs


@pytest.mark.parametrize("name", SAYS)
def test_scripts(name: str, tmp_path: Path) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    file = EXAMPLES / f"{name}.py"
    assert len(file.read_text(encoding="utf-8").splitlines()) < LONGEST
    command = [sys.executable, str(file), ROUNDS.get(name, "2")]
    # A socket of Ray takes no long path.
    with TemporaryDirectory(prefix="fedkt-") as folder:
        environment = {**os.environ, "TMPDIR": folder}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8"
        )
    assert done.returncode == 0, done.stderr
    assert [line for line in SAYS[name] if line not in done.stdout] == []


def test_every_script_is_tried() -> None:
    assert sorted(SAYS) == sorted(file.stem for file in EXAMPLES.glob("*.py"))


def test_the_notebook(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook: Any = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    cells[0].source = cells[0].source.replace("ROUNDS = 10", "ROUNDS = 2")
    resources = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=300, resources=resources).execute()
    shown = "".join(str(cell.outputs) for cell in cells)
    assert "<table>" in shown
    assert "image/png" in shown
    assert "fedmd − local, Global accuracy" in shown

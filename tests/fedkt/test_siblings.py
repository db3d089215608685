"""Files of the user's that import modules next to them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedkt import registry
from fedkt.errors import ConfigError
from fedkt.models import build_model

MODEL = """
from blocks_of_mine import head, torch

def net(input_shape, num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), head(input_shape, num_classes))
"""
BLOCKS = """
import torch
from parts_of_mine.widths import WIDTH

def head(input_shape, num_classes):
    return torch.nn.Linear(input_shape[0], num_classes, bias=WIDTH == 7)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield mine(tmp_path / "mine")
    for name in [
        m for m in sys.modules if m.partition(".")[0] in ("blocks_of_mine", "parts_of_mine")
    ]:
        del sys.modules[name]


def mine(folder: Path, width: int = 7) -> Path:
    (folder / "parts_of_mine").mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    (folder / "blocks_of_mine.py").write_text(BLOCKS, encoding="utf-8")
    (folder / "parts_of_mine" / "__init__.py").touch()
    (folder / "parts_of_mine" / "widths.py").write_text(f"WIDTH = {width}\n", encoding="utf-8")
    return folder


def test_a_file_imports_what_lies_next_to_it(folder: Path) -> None:
    before = list(sys.path)
    model = build_model(f"{folder / 'model.py'}:net", (4,), 3)
    assert model[1].bias is not None
    assert sys.path == before
    assert not list(folder.rglob("__pycache__"))


def test_siblings_belong_to_the_content_of_a_file(folder: Path) -> None:
    file = folder / "model.py"
    first, module = registry.file_digest(file), registry.load_file(file)
    assert registry.load_file(file, first) is module
    mine(folder, width=8)  # of the same size within the same second
    second = registry.file_digest(file)

    assert second != first
    with pytest.raises(ConfigError, match="another content than when this run was planned"):
        registry.load_file(file, first)
    assert build_model(f"{file}:net", (4,), 3)[1].bias is None, "the sibling is imported anew"
    mine(folder)
    assert registry.file_digest(file) == first


def test_what_is_installed_is_no_sibling(folder: Path) -> None:
    file = folder / "plain.py"
    file.write_text(
        "import torch, json\nvalue = torch.__version__, json.dumps(1)", encoding="utf-8"
    )
    before = registry.file_digest(file)
    for name in ("torch.py", "json.py"):
        (folder / name).write_text("raise RuntimeError", encoding="utf-8")
    assert registry.file_digest(file) == before
    assert registry.load_file(file).value == (torch.__version__, "1")


def test_two_modules_of_one_name_are_refused(folder: Path) -> None:
    registry.load_file(folder / "model.py")
    other = mine(folder.parent / "other", width=8)
    with pytest.raises(ConfigError, match=r"imports 'blocks_of_mine', .*: rename one of them\."):
        registry.load_file(other / "model.py")


def test_a_model_object_in_a_file_is_the_same_in_every_process(tmp_path: Path) -> None:
    file = tmp_path / "drawn.py"
    file.write_text("import torch\nnet = torch.nn.Linear(4, 3)\n", encoding="utf-8")
    here = build_model(f"{file}:net", (4,), 3).weight
    code = (
        "import torch; torch.manual_seed(5); from fedkt.models import build_model; "
        f"print(build_model({str(file) + ':net'!r}, (4,), 3).weight.tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout.strip() == str(here.tolist())

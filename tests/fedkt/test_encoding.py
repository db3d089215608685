"""Text is UTF-8 whatever the locale: every file and every pipe says so. Read from the source.

The linter has the rule too (PLW1514), but sees it only where it knows what is opened.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("fedkt", "strategies", "clients", "simulations", "benchmarks", "tests")
FILES = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
ALWAYS_TEXT = {"read_text", "write_text", "TextIOWrapper"}
OPENS = {"open": "r", "fdopen": "r", "NamedTemporaryFile": "w+b", "TemporaryFile": "w+b"}
PIPES = {"text", "universal_newlines"}
NO_TEXT = {"Image.open", "os.open"}


def offences(source: str) -> Iterator[int]:
    """Yield the lines of calls that open text without saying its encoding."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in NO_TEXT:
            continue
        if isinstance(node, ast.Call) and not any(k.arg == "encoding" for k in node.keywords):
            name = (
                node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            )
            pipe = any(k.arg in PIPES and ast.unparse(k.value) == "True" for k in node.keywords)
            if pipe or name in ALWAYS_TEXT or (name in OPENS and "b" not in mode(node, name)):
                yield node.lineno


def mode(call: ast.Call, name: str) -> str:
    """Return the mode of a call that opens a file, as it is written."""
    named = [k.value for k in call.keywords if k.arg == "mode"]
    of_a_path = isinstance(call.func, ast.Attribute) and name == "open"  # it names no file
    placed = call.args[0 if of_a_path or name.endswith("File") else 1 :][:1]
    return next((ast.unparse(m) for m in (*named, *placed)), OPENS[name])


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_text_has_an_encoding(file: Path) -> None:
    assert list(offences(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("p.read_text()", True),
        ("p.read_text(encoding='utf-8')", False),
        ("p.write_text(json.dumps(x))", True),
        ("p.open()", True),
        ("p.open('a')", True),
        ("p.open('rb')", False),
        ("open(p)", True),
        ("open(p, mode='wb')", False),
        ("open(p, 'w', encoding='utf-8')", False),
        ("NamedTemporaryFile()", False),
        ("NamedTemporaryFile('w')", True),
        ("subprocess.run(c, text=True)", True),
        ("subprocess.run(c, text=True, encoding='utf-8')", False),
    ],
)
def test_the_rule_knows_text_from_bytes(line: str, found: bool) -> None:
    assert bool(list(offences(line))) is found

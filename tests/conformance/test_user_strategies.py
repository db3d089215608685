"""The option ``--fedkt-strategy``: the suite runs on a strategy in a file of one's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SUITE = Path(__file__).parent
ROOT = SUITE.parents[1]
QUICK = "same_seed_same_run or recipe_is"
FAST_ENGINES = "not ray and not flower"

NOISY = '''
import torch

from fedkt.knowledge import Fused
from fedkt.strategies.answers.fedmd import FedMD


class Noisy(FedMD):
    """Draws from torch's global generator, which is against the law."""

    def fuse(self, uploads):
        mean = super().fuse(uploads).shared["public"]
        values = mean.values + torch.randn(mean.values.shape)
        return Fused(shared={"public": mean.with_tensors({"values": values})})
'''


def run_pytest(folder: Path, *arguments: object) -> tuple[int, str]:
    """Run pytest in a folder, as from a shell; return its exit code and all it prints."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


def test_own_strategies_from_the_root(tmp_path: Path) -> None:
    noisy = tmp_path / "noisy.py"
    noisy.write_text(NOISY, encoding="utf-8")
    example = (SUITE / "example_strategy.py").relative_to(ROOT)
    code, output = run_pytest(
        ROOT,
        "--fedkt-strategy",
        f"{example}:Median",
        f"--fedkt-strategy={noisy}:Noisy(local_epochs=1)",
        *("-k", QUICK, "-m", FAST_ENGINES, "-rA", "-q"),
    )
    assert code == 1, f"the lawless strategy fails\n{output}"
    failed = [line for line in output.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1, output
    assert "test_same_seed_same_run[noisy.py:Noisy(local_epochs=1)]" in failed[0], output
    law = "noisy.py:Noisy(local_epochs=1): the same seed gives the same run; but"
    assert law in output, "the message names the strategy and the law"
    passed = [line for line in output.splitlines() if line.startswith("PASSED")]
    assert len(passed) == 3, output
    assert any("test_same_seed_same_run[example_strategy.py:Median]" in p for p in passed), output
    assert "knfu" not in output, "only what was asked for runs"


def test_relative_to_where_one_is(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        (SUITE / "example_strategy.py").read_text(encoding="utf-8"), encoding="utf-8"
    )
    code, output = run_pytest(
        tmp_path, "--fedkt-strategy", "mine.py:Median", "-k", "recipe_is", "-q"
    )
    assert code == 0, output
    assert "1 passed" in output


def test_wrong_reference_is_one_clear_line(tmp_path: Path) -> None:
    reference = f"{SUITE / 'example_strategy.py'}:Mediam"
    code, output = run_pytest(tmp_path, "--fedkt-strategy", reference)
    assert code == 4, f"a wrong option is a usage error, before any test\n{output}"
    lines = [line for line in output.splitlines() if line.strip()]
    assert len(lines) == 1, f"one line, no traceback\n{output}"
    for text in ("--fedkt-strategy", "Mediam", "Did you mean 'Median'?"):
        assert text in lines[0]

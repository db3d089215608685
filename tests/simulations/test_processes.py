"""Several processes: what they do, and what is said when one dies. Real processes, small work."""

from __future__ import annotations

import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedkt.errors import ConfigError, RunFailedError
from fedkt.simulations.engines.stopping import Stopped, stop, stoppable
from fedkt.simulations.runs.processes import in_processes

SCRIPT = """
from fedkt.simulations.runs.processes import in_processes

def main():
    for item, done in in_processes(abs, [-1, -2], 2):
        print(item, done)

{call}
"""


def run_script(file: Path, call: str) -> subprocess.CompletedProcess[str]:
    file.write_text(SCRIPT.format(call=call), encoding="utf-8")
    command = [sys.executable, str(file)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    failed = run_script(tmp_path / "bare.py", "main()")
    assert failed.returncode == 1
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("fedkt.errors.ConfigError: The processes of the comparison end before")
    assert 'if __name__ == "__main__":' in last
    assert "--resume" not in last


def test_the_import_of_an_unguarded_script_makes_nothing_that_a_kill_would_leave(
    tmp_path: Path,
) -> None:
    """The pool kills the others when one process dies; these would leak what they had made."""
    killed = """
try:
    main()
except BaseException:
    if __name__ == "__mp_main__":
        os.kill(os.getpid(), signal.SIGKILL)
    raise
"""
    failed = run_script(tmp_path / "killed.py", "import os, signal" + killed)
    assert failed.stderr.splitlines()[-1].startswith("fedkt.errors.ConfigError: The processes")
    assert "leaked" not in failed.stderr


def test_a_script_with_one_runs(tmp_path: Path) -> None:
    done = run_script(tmp_path / "guarded.py", 'if __name__ == "__main__": main()')
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == ["-1 1", "-2 2"]


def test_what_a_process_died_of_is_said() -> None:
    with pytest.raises(RunFailedError, match=r"ended with exit status 3\.$"):
        list(in_processes(os._exit, [3], 1))
    with pytest.raises(RunFailedError, match=r"killed by SIGKILL, as when memory runs out\.$"):
        list(in_processes(signal.raise_signal, [signal.SIGKILL], 1))


def test_an_error_comes_through_and_nobody_waits_for_the_others() -> None:
    began = time.monotonic()
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        list(in_processes(time.sleep, ["soon", 600, 600, 600], 2))
    assert time.monotonic() - began < 300
    assert multiprocessing.active_children() == []


def test_a_stopped_process_does_not_go_on_with_the_next_item() -> None:
    with pytest.raises(RunFailedError, match=f"exit status {128 + signal.SIGTERM}"):
        list(in_processes(signal.raise_signal, [signal.SIGTERM, 0, 0], 1))


# --- stopping --------------------------------------------------------------------------------


def test_sigterm_unwinds_once_and_is_given_back() -> None:
    before, unwound = signal.getsignal(signal.SIGTERM), []

    @stoppable()
    def work() -> None:
        assert signal.getsignal(signal.SIGTERM) is stop
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # impatient: nothing is left half undone
            unwound.append(True)

    with pytest.raises(Stopped) as stopped:
        work()
    assert stopped.value.status == stopped.value.code == 143
    assert unwound == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_items_are_matched_with_what_was_done() -> None:
    assert sorted(in_processes(operator.neg, [1, 2, 3], 2)) == [(1, -1), (2, -2), (3, -3)]


def test_nothing_begins_without_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that is none: the process ends before its work."""
    before = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable("/bin/false")
    try:
        with pytest.raises(ConfigError, match="end before they begin"):
            list(in_processes(abs, [1], 1))
    finally:
        multiprocessing.set_executable(before)

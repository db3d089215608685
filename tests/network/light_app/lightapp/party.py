"""A light client: all that it says depends on every bit that it has ever received."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CLASSES = 10
TRAIN, EVALUATE = 0, 1  # the phases of a round, in their order


@dataclass(frozen=True)
class Party:
    """A client whose model is a digest.

    Training and absorbing put the digest of the one before, and of what was received, in its
    place. Answers and accuracies are random numbers with the digest as their seed. States are
    files named by run, round and phase, and a message starts from the newest of before, as with
    a real client.

    Parameters
    ----------
    client : int
        Its id.
    folder : Path
        The folder of its files.
    public : int
        M, the size of the public set.
    """

    client: int
    folder: Path
    public: int

    def greet(self, run: str, round_: int) -> None:
        """Forget what came of a round that a dead server had begun."""
        for file in self._files(run):
            if file.name >= f"{round_:04d}":
                file.unlink()

    def learn(self, run: str, round_: int) -> np.ndarray:
        """Train; return the answers, float32 ``[M, CLASSES]``, on the simplex."""
        state = self._next(run, round_, TRAIN, b"learn")
        draws = np.random.default_rng(list(state)).random((self.public, CLASSES), np.float32)
        answers = draws / draws.sum(1, keepdims=True)
        self.keep(run, f"sent-{round_}", answers)
        return answers

    def absorb(self, run: str, round_: int, fused: np.ndarray) -> None:
        """Take in fused knowledge."""
        self.keep(run, f"received-{round_}", fused)
        self._next(run, round_, EVALUATE, fused.tobytes())

    def accuracies(self, run: str, round_: int) -> list[float]:
        """Return three accuracies of the model as it stands at the end of a round."""
        state = self._before(run, round_, EVALUATE + 1)
        return np.random.default_rng(list(state)).random(3).tolist()

    def keep(self, run: str, name: str, array: np.ndarray) -> None:
        """Keep an array for the tests."""
        file = self.folder / run / f"{name}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, array)

    def kept(self, run: str, name: str) -> np.ndarray:
        """Return an array that was kept."""
        array: np.ndarray = np.load(self.folder / run / f"{name}.npy")
        return array

    def state(self, run: str) -> bytes:
        """Return the newest state in a run; empty if there is none."""
        return self._before(run, 9999, TRAIN)

    def _next(self, run: str, round_: int, phase: int, received: bytes) -> bytes:
        before = self._before(run, round_, phase)
        state = hashlib.sha256(b"%d %d " % (self.client, round_) + before + received).digest()
        file = self.folder / run / f"{round_:04d}-{phase}.state"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(state)
        return state

    def _before(self, run: str, round_: int, phase: int) -> bytes:
        """Return the newest state of before a phase of a round."""
        earlier = [f for f in self._files(run) if f.name < f"{round_:04d}-{phase}"]
        return earlier[-1].read_bytes() if earlier else b""

    def _files(self, run: str) -> list[Path]:
        return sorted((self.folder / run).glob("*.state"))

"""A learner for any ``nn.Module`` whose forward returns logits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedkt.clients.learners import loop
from fedkt.clients.learners.base import Learner, Work
from fedkt.clients.learners.feature_hook import feature_width
from fedkt.clients.learners.norms import adapt_norms, norms_of
from fedkt.clients.learners.optimisers import ModelDescent
from fedkt.clients.learners.probe import Nature, examine
from fedkt.knowledge import Knowledge
from fedkt.objectives.heads import PREFIX as HEADS
from fedkt.objectives.heads import Head
from fedkt.optimisers import optimiser_of
from fedkt.recipe import Recipe, Train
from fedkt.registry import register
from fedkt.rng import global_torch_stream
from fedkt.training import TrainingOptions


@register
class TorchLearner(Learner):
    """A torch model as a learner, trained by gradient descent.

    Convolutional nets run in ``channels_last`` memory format, which is up to 1.6 times
    faster on CPUs.

    Parameters
    ----------
    build : callable
        Returns a new, untrained module; draws from torch's global generator only.
    num_classes : int
        C, the width of its logits.
    name : str
        The architecture's name, for messages.
    device : str
        torch's name of the device for training; state and answers are on the CPU.
    """

    name: ClassVar[str] = "torch"
    is_network: ClassVar[bool] = True

    def __init__(
        self, build: Callable[[], nn.Module], num_classes: int, name: str, device: str = "cpu"
    ) -> None:
        self.build, self.num_classes, self._name = build, num_classes, name
        self.device = torch.device(device)
        self._optimiser: ModelDescent | None = None
        self._optimiser_state: dict[int, Any] = {}
        self._heads: tuple[Head, ...] = ()
        self.tried: Nature | None = None  # see nature()
        self._answered: tuple[Tensor, bytes, Tensor] | None = None  # samples, weights, logits
        with global_torch_stream(0, "template"):
            self._adopt(build())
        shapes = {n: tuple(t.shape) for n, t in self.model.state_dict().items()}
        fingerprint = hashlib.sha256(repr(sorted(shapes.items())).encode()).hexdigest()[:12]
        self.architecture = f"{name}#{fingerprint}"

    @staticmethod
    def takes(model: Any) -> bool:
        """Return whether the model is a torch module."""
        return isinstance(model, nn.Module)

    def refuses(self, recipe: Recipe) -> str | None:
        """Return None: a torch model follows every recipe."""
        return None

    def nature(self, x: Tensor | None = None) -> Nature:
        """Return the nature of the network, which is tried once.

        Parameters
        ----------
        x : Tensor, optional
            Real inputs to try it on, float32 ``[n, ...]``, n ≥ 1; needed the first time.

        Raises
        ------
        ConfigError
            If it cannot serve several clients; see :func:`fedkt.clients.learners.probe.examine`.
        """
        if self.tried is None:
            if x is None or not len(x):
                return Nature()  # nothing to try it on, and nothing to train it on
            self.tried = examine(self.build, x, self.num_classes, self._name)
        return self.tried

    def follow(self, recipe: Recipe) -> None:
        """Put a recipe's heads beside a new model; heads of another recipe are dropped."""
        heads = tuple(recipe.heads)
        if heads != self._heads:
            self._heads = heads
            with global_torch_stream(0, "template"):
                self._adopt(self.build())

    def reset(self, seed: int, client: int) -> None:
        """Become the untrained model of a client."""
        with global_torch_stream(seed, "model", 0, client):
            self._adopt(self.build())

    def train(self, step: Train, work: Work, stream: str) -> float | None:
        """Train by gradient descent; return the mean loss of the last epoch, None without one."""
        optimiser = self.optimiser(work.options)
        samples = work.data.train if len(work.data.train) else work.data.public
        open_ended = self.nature(None if samples is None else samples.x).open_ended
        return loop.train(self.model, optimiser, step, work, stream, self.heads, open_ended)

    def optimiser(self, options: TrainingOptions) -> ModelDescent:
        """Return the optimiser of the model and the heads, which goes on or starts anew."""
        reset = options.optimiser_state == "reset"
        if self._optimiser is None or reset:
            trained = [p for p in self._parameters() if p.requires_grad]
            state = {} if reset else self._optimiser_state
            self._optimiser = ModelDescent(trained, optimiser_of(options), state)
        return self._optimiser

    def predict(self, x: Tensor) -> Tensor:
        """Return logits ``[n, C]`` in evaluation mode."""
        if not len(x):
            return torch.zeros(0, self.num_classes)
        # After an average all clients have the same weights and predict on the same test set.
        # Hashing the weights costs a hundredth of predicting again. The largest set is kept.
        if self._answered is not None and len(x) < len(self._answered[0]):
            return loop.predict(self.model, self._layout(x))
        state = self._digest()
        if self._answered is None or self._answered[0] is not x or self._answered[1] != state:
            self._answered = x, state, loop.predict(self.model, self._layout(x))
        return self._answered[2].clone()

    def features(self, x: Tensor) -> Tensor:
        """Return features ``[n, d]`` in evaluation mode."""
        return loop.features(self.model, self._layout(x))

    def adapt_norms(self, x: Tensor) -> None:
        """Replace the statistics of batch normalisation by those of samples ``[n, ...]``."""
        adapt_norms(self.model, self._layout(x))

    def weights(self, local_norms: bool = False) -> Knowledge:
        """Return parameters and float buffers in float32; integer buffers are only counters.

        Parameters
        ----------
        local_norms : bool
            Whether to leave out batch normalisation.
        """
        return self.weights_in({"model": self._tensors()}, local_norms)

    def weights_in(self, state: Mapping[str, Any], local_norms: bool = False) -> Knowledge:
        """Return the weights in a state of this learner; see :meth:`weights`."""
        floats = {n: t for n, t in state["model"].items() if t.is_floating_point()}
        if local_norms:
            floats = {n: t for n, t in floats.items() if n.rpartition(".")[0] not in self._norms}
        copies = {n: t.to("cpu", torch.float32, copy=True) for n, t in floats.items()}
        return Knowledge("weights", copies)

    def load_weights(self, weights: Knowledge) -> None:
        """Load weights; the optimiser starts anew."""
        self._load(weights.tensors, strict=False)
        self._optimiser, self._optimiser_state = None, {}

    def state(self) -> dict[str, Any]:
        """Return a copy of the model's and the optimiser's state."""
        moments = self._optimiser.state() if self._optimiser else self._optimiser_state
        return {
            "model": {n: _copied(t) for n, t in self._tensors().items()},
            "optimiser": {i: {k: _copied(v) for k, v in m.items()} for i, m in moments.items()},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become the client that ``state`` describes."""
        self._load(state["model"])
        self._optimiser, self._optimiser_state = None, state["optimiser"]

    def _adopt(self, model: nn.Module) -> None:
        self._images = any(isinstance(m, nn.Conv2d) for m in model.modules())
        if self._images:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self._norms = set(norms_of(model))
        width = feature_width(model) if self._heads else 0
        built = {h.name: h.build(width, self.num_classes) for h in self._heads}
        self.model, self.heads = model.to(self.device), nn.ModuleDict(built).to(self.device)
        self._optimiser, self._optimiser_state = None, {}

    def _tensors(self) -> dict[str, Tensor]:
        """Return the state of the model, and of the heads with their prefix."""
        heads = {f"{HEADS}.{n}": t for n, t in self.heads.state_dict().items()}
        return {**self.model.state_dict(), **heads}

    def _load(self, tensors: Mapping[str, Tensor], strict: bool = True) -> None:
        """Load the tensors of :meth:`_tensors`; heads that this learner lacks are left out.

        A learner that only predicts after a run does not know the recipe.
        """
        heads = {n.removeprefix(f"{HEADS}."): t for n, t in tensors.items() if _of_a_head(n)}
        self.model.load_state_dict(
            {n: t for n, t in tensors.items() if not _of_a_head(n)}, strict=strict
        )
        if len(self.heads):
            self.heads.load_state_dict(heads, strict=strict)

    def _digest(self) -> bytes:
        digest = hashlib.blake2b(digest_size=16)
        # Integer buffers are only counters.
        floats = (t for t in self.model.state_dict().values() if t.is_floating_point())
        for tensor in floats:
            layout = tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor
            digest.update(layout.contiguous().cpu().numpy())
        return digest.digest()

    def _parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *self.heads.parameters()]

    def _layout(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self._images else x


def _copied(value: Any) -> Any:
    """Return a copy on the CPU; plain values as they are."""
    return value.to("cpu", copy=True) if isinstance(value, Tensor) else value


def _of_a_head(name: str) -> bool:
    return name.startswith(f"{HEADS}.")

"""A learner for any ``nn.Module`` whose forward returns logits."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedkt.clients.learners import loop
from fedkt.clients.learners.base import Learner, Work
from fedkt.clients.learners.feature_hook import selected
from fedkt.clients.learners.nets import answers_of, built_heads, in_layout
from fedkt.clients.learners.norms import adapt_norms, norms_of
from fedkt.clients.learners.optimisers import ModelDescent
from fedkt.clients.learners.probe import Nature, examine
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.objectives.heads import PREFIX as HEADS
from fedkt.objectives.heads import HeadPart, answering
from fedkt.optimisers import optimiser_of
from fedkt.recipe import Recipe, Train, trainings
from fedkt.registry import register
from fedkt.rng import global_torch_stream
from fedkt.training import TrainingOptions


@register
class TorchLearner(Learner):
    """A torch model as a learner, trained by gradient descent.

    Convolutional nets run in ``channels_last`` memory format, which is up to 1.6 times
    faster on CPUs.

    Frozen parameters (``requires_grad`` is False, as of a pretrained backbone) are constants of the
    architecture: the same for all clients, as the first build has them, and neither shared nor part
    of a client's state. Their values belong to the architecture's fingerprint.

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
        self,
        build: Callable[[], nn.Module],
        num_classes: int,
        name: str,
        device: str = "cpu",
    ) -> None:
        self.build, self.num_classes, self._name = build, num_classes, name
        self.device = torch.device(device)
        self._optimiser: ModelDescent | None = None
        self._optimiser_state: dict[int, Any] = {}
        self.head_parts: tuple[HeadPart, ...] = ()
        self.tried: Nature | None = None  # see nature()
        self._answered: tuple[Tensor, bytes, Tensor] | None = None  # samples, weights, logits
        self.constants: dict[str, Tensor] = {}  # frozen parameters, of nets too, all clients' own
        with global_torch_stream(0, "template"):
            self._adopt(build())
        self.constants = {n: p.data for n, p in _named(self.model) if not p.requires_grad}
        shapes = {n: tuple(t.shape) for n, t in self.model.state_dict().items()}
        fingerprint = hashlib.sha256(repr(sorted(shapes.items())).encode())
        if self.constants:
            fingerprint.update(_digest(self.constants.values()))
        self.architecture = f"{name}#{fingerprint.hexdigest()[:12]}"

    @property
    def follows_options(self) -> frozenset[str]:
        """All three."""
        return frozenset(("class_weights", "clip_norm", "augment"))

    @staticmethod
    def takes(model: Any) -> bool:
        """Return whether the model is a torch module."""
        return isinstance(model, nn.Module)

    def refuses(self, recipe: Recipe) -> str | None:
        """Return why no head of a recipe, or no part of the model, can be as it says; else None.

        The learner follows the recipe from then on.
        """
        try:
            self.follow(recipe)
            shares = {share.name: share for share in (*recipe.share, *recipe.remembered)}
            if refusals := [line for s in recipe.steps if (line := s.refuses(self, shares))]:
                return refusals[0]
            for step in trainings(recipe.steps):
                if step.only and not self.names_in(step.only, self.trained):
                    return f"Train(only={step.only!r}): {self._name} has no parameter there"
        except ConfigError as error:
            return str(error).rstrip(".")
        return None

    @property
    def trained(self) -> list[str]:
        """Names of the trainable parameters, in the order of the optimiser."""
        names = [n for n, p in self.model.named_parameters() if p.requires_grad]
        return names + [f"{HEADS}.{n}" for n, p in self.heads.named_parameters() if p.requires_grad]

    def names_in(self, pattern: str, names: Iterable[str]) -> set[str]:
        """Return those names that a pattern means; see ``feature_hook.selected``."""
        return selected(names, pattern, self.model)

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
        before, self.head_parts = self.head_parts, tuple(recipe.heads)
        if self.head_parts == before:
            return
        constants = self.constants
        self.constants = {n: t for n, t in constants.items() if not _of_a_head(n)}
        try:
            with global_torch_stream(0, "template"):
                self._adopt(self.build())
        except ConfigError:
            self.head_parts, self.constants = before, constants
            raise
        for head in self.head_parts:
            named = _named(self.heads[head.name]) if head.answers() else ()
            names = {f"{HEADS}.{head.name}.{n}": p.data for n, p in named if not p.requires_grad}
            self.constants |= names

    def reset(self, seed: int, client: int) -> None:
        """Become the untrained model of a client."""
        with global_torch_stream(seed, "model", 0, client):
            self._adopt(self.build())

    def train(self, step: Train, work: Work, stream: str) -> float | None:
        """Train by gradient descent; return the mean loss of the last epoch, None without one."""
        optimiser = self.optimiser(work.options)
        samples = work.data.train if len(work.data.train) else work.data.public
        open_ended = self.nature(None if samples is None else samples.x).open_ended
        outside = set(self.trained) - self.names_in(step.only, self.trained)
        answers = answers_of(self.head_parts, self.heads)
        parts = self.model, optimiser, step, work, stream
        with answering(answers), self._frozen(outside):
            return loop.train(*parts, self.heads.train(), open_ended, self.constants)

    def optimiser(self, options: TrainingOptions) -> ModelDescent:
        """Return the optimiser of the model and the heads, which goes on or starts anew."""
        reset = options.optimiser_state == "reset"
        if self._optimiser is None or reset:
            parameters = (*self.model.parameters(), *self.heads.parameters())
            trained = [p for p in parameters if p.requires_grad]
            state = {} if reset else self._optimiser_state
            self._optimiser = ModelDescent(trained, optimiser_of(options), state, options.clip_norm)
        return self._optimiser

    def predict(self, x: Tensor, world: str = "model") -> Tensor:
        """Return logits ``[n, C]`` in evaluation mode.

        Parameters
        ----------
        x : Tensor
            float32 ``[n, ...]``.
        world : str
            Whose: ``"model"``, or a net of the recipe's, ``"heads.NAME"``.
        """
        if not len(x):
            return torch.zeros(0, self.num_classes)
        if world != "model":
            return loop.predict(self._net(world), self._layout(x))
        # After an average all clients have the same weights and predict on the same test set.
        # Hashing the weights costs a hundredth of predicting again. The largest set is kept.
        if self._answered is not None and len(x) < len(self._answered[0]):
            return loop.predict(self.model, self._layout(x))
        # Integer buffers are only counters, and constants the same at any time.
        named = self.model.state_dict().items()
        floats = (t for n, t in named if t.is_floating_point() and n not in self.constants)
        state = _digest(floats)
        if self._answered is None or self._answered[0] is not x or self._answered[1] != state:
            self._answered = x, state, loop.predict(self.model, self._layout(x))
        return self._answered[2].clone()

    def features(self, x: Tensor) -> Tensor:
        """Return features ``[n, d]`` in evaluation mode."""
        return loop.features(self.model, self._layout(x))

    def adapt_norms(self, x: Tensor) -> None:
        """Replace the statistics of batch normalisation by those of samples ``[n, ...]``."""
        adapt_norms(self.model, self._layout(x))

    def weights(self, local_norms: bool = False, of: str = "", but: str = "") -> Knowledge:
        """Return parameters and float buffers in float32; integer buffers are only counters.

        Parameters
        ----------
        local_norms : bool
            Whether to leave out batch normalisation.
        of, but : str
            Which part of the model or its heads, and which part of that to leave out; see
            ``feature_hook.selected``.
        """
        return self.weights_in({"model": self._tensors()}, local_norms, of, but)

    def weights_in(
        self, state: Mapping[str, Any], local_norms: bool = False, of: str = "", but: str = ""
    ) -> Knowledge:
        """Return the weights in a state of this learner; see :meth:`weights`."""
        floats = {n: t for n, t in state["model"].items() if t.is_floating_point()}
        if local_norms:
            floats = {n: t for n, t in floats.items() if n.rpartition(".")[0] not in self._norms}
        chosen = self.names_in(of, floats) - (self.names_in(but, floats) if but else set())
        floats = {n: t for n, t in floats.items() if n in chosen}
        copies = {n: t.to("cpu", torch.float32, copy=True) for n, t in floats.items()}
        return Knowledge("weights", copies)

    def load_weights(
        self, weights: Knowledge, of: str = "", rate: float = 1.0, moments: bool = False
    ) -> None:
        """Load weights; the optimiser starts anew where they go.

        Parameters
        ----------
        weights : Knowledge
            The weights; what they lack stays.
        of : str
            Which part of them to load.
        rate : float
            The step towards them: w + rate (weights - w).
        moments : bool
            Whether the optimiser's moments stay.
        """
        before = self._optimiser.state() if self._optimiser else self._optimiser_state
        tensors, kept = self.loaded(self._tensors(), before, weights, of, rate)
        self._load(tensors, strict=False)
        self._optimiser, self._optimiser_state = None, dict(before) if moments else kept

    def loaded(
        self,
        tensors: Mapping[str, Tensor],
        moments: Mapping[int, Any],
        weights: Knowledge,
        of: str = "",
        rate: float = 1.0,
    ) -> tuple[dict[str, Tensor], dict[int, Any]]:
        """Return the tensors that change by loading weights, and the moments that stay.

        Batch normalisation begins anew with the model's other parameters, even if it stays.
        """
        chosen = self.names_in(of, weights.tensors) & tensors.keys()
        new = {n: w.to(tensors[n].dtype) for n, w in weights.tensors.items() if n in chosen}
        if rate != 1:
            new = {
                n: tensors[n] + rate * (w.to(tensors[n].device) - tensors[n])
                for n, w in new.items()
            }
        of_model = any(not _of_a_head(n) for n in new)
        again = {
            n for n in self.trained if of_model and n.rpartition(".")[0] in self._norms
        } | new.keys()
        return new, {
            i: moments[i] for i, n in enumerate(self.trained) if i in moments and n not in again
        }

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

    def fitted(self) -> nn.Module:
        """Return a copy of the module on the CPU, in evaluation mode, without nets beside it."""
        model = copy.deepcopy(self.model).cpu().eval()
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.contiguous()  # as the module was built
        return model

    def freeze(self, model: nn.Module, prefix: str = "") -> nn.Module:
        """Return a model, or the heads, with the frozen parameters of all; they are not copied."""
        for name, parameter in _named(model) if self.constants else ():
            if f"{prefix}{name}" in self.constants:
                parameter.data = self.constants[f"{prefix}{name}"]
        return model

    def _adopt(self, model: nn.Module) -> None:
        self._images = any(isinstance(m, nn.Conv2d) for m in model.modules())
        model = in_layout(model)
        self._norms = set(norms_of(model))
        shape, classes = self.input_shape, self.num_classes
        built = built_heads(
            self.head_parts, model, lambda: self.freeze(self.build()), shape, classes
        )
        self.model, self.heads = model.to(self.device), nn.ModuleDict(built).to(self.device)
        self.freeze(self.model)
        self.freeze(self.heads, f"{HEADS}.")
        self._optimiser, self._optimiser_state = None, {}

    def _tensors(self) -> dict[str, Tensor]:
        """Return the state of the model and of the heads, with their prefix, but the constants."""
        heads = {f"{HEADS}.{n}": t for n, t in self.heads.state_dict().items()}
        state = {**self.model.state_dict(), **heads}
        return {n: t for n, t in state.items() if n not in self.constants}

    def _load(self, tensors: Mapping[str, Tensor], strict: bool = True) -> None:
        """Load the tensors of :meth:`_tensors`; heads that this learner lacks are left out.

        A learner that only predicts after a run does not know the recipe.
        """
        heads = {n.removeprefix(f"{HEADS}."): t for n, t in tensors.items() if _of_a_head(n)}
        apart = self.constants
        of_model = {n: t for n, t in tensors.items() if not _of_a_head(n) and n not in apart}
        lacking, _ = self.model.load_state_dict(of_model, strict=strict and not apart)
        if strict and (lost := set(lacking) - apart.keys()):
            raise ConfigError(f"a state of {self._name} has no {min(lost)!r}.")
        if len(self.heads):
            named = [n for n in apart if _of_a_head(n)]
            lacking, _ = self.heads.load_state_dict(heads, strict=strict and not named)
            if strict and (lost := {f"{HEADS}.{n}" for n in lacking} - set(named)):
                raise ConfigError(f"a state of {self._name} has no {min(lost)!r}.")

    def _net(self, world: str) -> nn.Module:
        name = world.removeprefix(f"{HEADS}.")
        nets = [head.name for head in self.head_parts if head.answers()]
        if name not in nets:
            raise ConfigError(
                f"{self._name} has no network {world!r} that answers; it follows no "
                "recipe with one."
            )
        return self.heads[name]

    @contextmanager
    def _frozen(self, names: Collection[str]) -> Iterator[None]:
        """Keep parameters out of training while inside."""
        found = {
            **dict(self.model.named_parameters()),
            **{f"{HEADS}.{n}": p for n, p in self.heads.named_parameters()},
        }
        for name in names:
            found[name].requires_grad_(False)
        try:
            yield
        finally:
            for name in names:
                found[name].requires_grad_(True)

    def _layout(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self._images else x


def _copied(value: Any) -> Any:
    """Return a copy on the CPU; plain values as they are."""
    return value.to("cpu", copy=True) if isinstance(value, Tensor) else value


def _named(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    """Return all parameters by name, as the state has them: a shared one under each name."""
    return model.named_parameters(remove_duplicate=False)


def _digest(tensors: Iterable[Tensor]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        layout = tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor
        digest.update(layout.detach().contiguous().cpu().numpy().data)
    return digest.digest()


def _of_a_head(name: str) -> bool:
    return name.startswith(f"{HEADS}.")

"""The features of a model: the layer that takes them in, and a hook on that layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn
from torch.func import functional_call

from fedkt.errors import ConfigError
from fedkt.objectives.heads import PREFIX as HEADS

# From features [n, d], and weights that replace the model's, by its names, to logits [n, C].
Classify = Callable[..., Tensor]


def feature_layer(model: nn.Module) -> nn.Module | None:
    """Return the layer whose input is a model's features; None if it has none.

    It is the submodule that the model's attribute ``feature_layer`` names, else its last
    linear layer.

    Raises
    ------
    ConfigError
        If the model names a layer that it does not have.
    """
    name = getattr(model, "feature_layer", None)
    if name is not None:
        try:
            return model.get_submodule(str(name))
        except AttributeError:
            raise ConfigError(
                f"{type(model).__name__}.feature_layer is {name!r}; it has no such submodule."
            ) from None
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    return linear[-1] if linear else None


def selected(names: Iterable[str], pattern: str, model: nn.Module) -> set[str]:
    """Return the names of a model's tensors, those of its heads included, that a pattern means.

    Parameters
    ----------
    names : Iterable[str]
        All names.
    pattern : str
        The beginning of a name (``""``: of all); ``"@head"``: the layer behind the features, which
        classifies; ``"@body"``: the rest of the model, without heads of the recipe.
    model : torch.nn.Module
        The model.

    Raises
    ------
    ConfigError
        If the pattern begins with ``@`` and is neither.
    """
    if not pattern.startswith("@"):
        return {name for name in names if name.startswith(pattern)}
    if pattern not in ("@head", "@body"):
        raise ConfigError(f"{pattern!r} is no part of a model: @head, @body or a name's beginning.")
    layer = feature_layer(model)
    own = {name for name in names if not name.startswith(f"{HEADS}.")}
    head = {n for n in own if n.startswith(_place_of(layer, model))} if layer else set()
    return head if pattern == "@head" else own - head


def _place_of(layer: nn.Module | None, model: nn.Module) -> str:
    """Return what the names of a layer's tensors begin with."""
    name = next((place for place, module in model.named_modules() if module is layer), "")
    return f"{name}." if name else ""


def feature_width(model: nn.Module) -> int:
    """Return d, the width of a model's features, flat.

    Raises
    ------
    ConfigError
        If the model has no features ``[n, d]``.
    """
    layer = feature_layer(model)
    linear = [m for m in layer.modules() if isinstance(m, nn.Linear)] if layer else []
    if not linear:
        raise ConfigError(f"{type(model).__name__} has no linear layer, so no features to align.")
    return linear[0].in_features


class FeatureTap:
    """A hook that keeps the features ``[n, d]`` of a model, the input of its feature layer.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    wanted : bool
        Whether to keep the features.
    open_ended : bool
        Whether the model goes on behind the feature layer. Then this layer does not classify.
    """

    def __init__(self, model: nn.Module, wanted: bool = True, open_ended: bool = False) -> None:
        self.layer = feature_layer(model) if wanted else None
        self.features: Tensor | None = None
        self._model, self._open_ended = type(model).__name__, open_ended
        self._prefix = _place_of(self.layer, model)

    def __enter__(self) -> FeatureTap:
        if self.layer is not None:
            self._hook = self.layer.register_forward_pre_hook(self._take)
        return self

    def __exit__(self, *exc: object) -> None:
        if self.layer is not None:
            self._hook.remove()

    def classifier(self, replaced: Mapping[str, Tensor]) -> Classify | None:
        """Return the part of the model behind its features as a function; None without one.

        ``classify(z, weights=None)`` maps features ``[n, d]`` to logits ``[n, C]``. It changes
        nothing, not even running statistics.

        Parameters
        ----------
        replaced : Mapping[str, Tensor]
            The client's parameters and buffers by the model's names; the module has the others.

        Raises
        ------
        ConfigError
            On a call, if the model goes on behind its feature layer.
        """
        layer, prefix = self.layer, self._prefix
        if layer is None:
            return None

        def classify(z: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
            if self._open_ended:
                raise ConfigError(
                    f"{self._model} goes on behind the layer that takes its features in, so this "
                    "layer alone does not classify; name another as its feature_layer."
                )
            buffers = {f"{prefix}{name}": buffer for name, buffer in layer.named_buffers()}
            merged = {**buffers, **replaced, **(weights or {})}
            tensors = {n: t for n, t in merged.items() if n.startswith(prefix)}
            tensors = {
                n.removeprefix(prefix): t.clone() if n in buffers else t for n, t in tensors.items()
            }
            logits: Tensor = functional_call(layer, tensors, (z,))
            return logits

        return classify

    def _take(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.features = inputs[0].flatten(1)

"""Where a model's features are: the layer that takes them in, and a hook that taps it."""

from __future__ import annotations

from torch import Tensor, nn

from fedkt.errors import ConfigError


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


def feature_width(model: nn.Module) -> int:
    """Return d, the width of a model's features, flat.

    Raises
    ------
    ConfigError
        If it has no features ``[n, d]``.
    """
    layer = feature_layer(model)
    linear = [m for m in layer.modules() if isinstance(m, nn.Linear)] if layer else []
    if not linear:
        raise ConfigError(f"{type(model).__name__} has no linear layer, so no features to align.")
    return linear[0].in_features


class FeatureTap:
    """Takes a model's features ``[n, d]``, the input of its feature layer, by a hook."""

    def __init__(self, model: nn.Module, wanted: bool = True) -> None:
        self.layer = feature_layer(model) if wanted else None
        self.features: Tensor | None = None

    def __enter__(self) -> FeatureTap:
        if self.layer is not None:
            self._hook = self.layer.register_forward_pre_hook(self._take)
        return self

    def __exit__(self, *exc: object) -> None:
        if self.layer is not None:
            self._hook.remove()

    def _take(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.features = inputs[0].flatten(1)

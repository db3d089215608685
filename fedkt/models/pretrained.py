"""Networks of Hugging Face's transformers, pretrained or from a config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fedkt.calls import read_call
from fedkt.data import hub
from fedkt.data.tokens import unpack_tokens
from fedkt.errors import ConfigError
from fedkt.registry import register
from fedkt.text import reason_of

TYPE = re.compile(r"[a-z0-9_-]+")  # of a config, as bert
EXAMPLE = "transformers:bert(hidden_size=64, num_hidden_layers=2, num_attention_heads=2)"


@register(part="models", name="transformers")
def transformers(input_shape: tuple[int, ...], num_classes: int, source: str = "") -> nn.Module:
    """Classifier of token ids or images from Hugging Face's transformers (transformers:NAME).

    ``transformers:OWNER/NAME`` or ``transformers:./folder`` has the weights of a model on the hub
    or on this machine, and a new last layer. ``transformers:TYPE(option=value, ...)``, as
    ``bert`` or ``vit``, is made from a config with these options and needs no network. In both,
    ``freeze=true`` leaves only the last layers to training.

    Raises
    ------
    ConfigError
        If transformers is not installed, or there is no such model for inputs of the shape.
    """
    name, options = read_call(source)
    if not name:
        raise ConfigError(f"model 'transformers': write transformers:NAME, or {EXAMPLE}")
    try:
        import transformers as library
    except ImportError as error:
        raise ConfigError(f"transformers:{name} needs: pip install transformers") from error
    options = dict(options)
    freeze = bool(options.pop("freeze", False))
    whole = {**options, "num_labels": num_classes}
    try:
        model: nn.Module = _model(library, name, whole, input_shape)
    except ConfigError:
        raise
    except Exception as error:  # the library and its HTTP client raise many kinds
        raise ConfigError(
            f"transformers:{name} cannot be loaded: {reason_of(error)}. A config needs no network: "
            f"{EXAMPLE}"
        ) from error
    if freeze:
        base: nn.Module = model.get_submodule(str(model.base_model_prefix))
        base.requires_grad_(False)
    if len(input_shape) == 1:
        model.register_forward_pre_hook(_unpacked, with_kwargs=True)
    return model


def _model(
    library: Any, name: str, options: Mapping[str, Any], input_shape: tuple[int, ...]
) -> Any:
    """Return a model: with weights where the name is of a folder or of a model on the hub."""
    on_disk = Path(name).is_dir()
    if not on_disk and TYPE.fullmatch(name) and name in library.CONFIG_MAPPING:
        config = library.AutoConfig.for_model(name, **_fitting(options, input_shape))
        return _auto(library, name, config, input_shape).from_config(config)
    # The library itself would try for half a minute.
    offline = {"local_files_only": on_disk or not hub.reachable()}
    config = library.AutoConfig.from_pretrained(name, **options, **offline)
    cls = _auto(library, name, config, input_shape)
    model: nn.Module = cls.from_pretrained(
        name, config=config, ignore_mismatched_sizes=True, **offline
    )
    return model


def _fitting(options: Mapping[str, Any], input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Return options of a config with the size of images in them, if these are the inputs."""
    if len(input_shape) != 3:
        return dict(options)
    channels, height, width = input_shape
    size = height if height == width else (height, width)
    whole = {"image_size": size, "num_channels": channels, **options}
    return whole


def _auto(library: Any, name: str, config: Any, input_shape: tuple[int, ...]) -> Any:
    """Return the library's class of classifiers for inputs of a shape, if a config is of one."""
    kinds = {1: "SEQUENCE", 3: "IMAGE"}
    kind = kinds.get(len(input_shape), "")
    mapping = getattr(library, f"MODEL_FOR_{kind}_CLASSIFICATION_MAPPING", {})
    if type(config) not in mapping:
        wanted = [
            what
            for what, other in (("token ids (L,)", "SEQUENCE"), ("images (C, H, W)", "IMAGE"))
            if type(config) in getattr(library, f"MODEL_FOR_{other}_CLASSIFICATION_MAPPING")
        ]
        takes = f"takes {' or '.join(wanted)}" if wanted else "has no classifier"
        raise ConfigError(
            f"transformers:{name} {takes}; the data has samples of shape {list(input_shape)}"
        )
    patch = getattr(config, "patch_size", 0)
    if len(input_shape) == 3 and isinstance(patch, int) and patch > min(input_shape[1:]):
        raise ConfigError(
            f"transformers:{name}: patches of {patch} pixels are larger than images of "
            f"{list(input_shape[1:])}; give patch_size"
        )
    return getattr(library, f"AutoModelFor{kind.capitalize()}Classification")


def _unpacked(
    module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return ids and mask of packed tokens by name; other calls of a model stay as they are."""
    if len(inputs) != 1 or named:
        return None
    if inputs[0].is_floating_point():
        raise TypeError("token ids are needed, integers [N, L]")
    ids, mask = unpack_tokens(inputs[0])
    return (), {"input_ids": ids, "attention_mask": mask}

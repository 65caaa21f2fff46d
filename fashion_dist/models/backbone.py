"""Backbones by name: ours, torchvision's and timm's, each without its classifier."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fashion_dist.config import ModelConfig
from fashion_dist.errors import ConfigError
from fashion_dist.models import registry
from fashion_dist.models.heads import Head, Network


def build_network(config: ModelConfig, heads: Mapping[str, Head], image_px: int) -> Network:
    """The network of `config` with fresh heads.

    Raises:
        ConfigError: an unknown name, settings that the network does not take, or no linear classifier to replace.
    """
    backbone, num_features = build_backbone(config, image_px)
    return Network(backbone, num_features, heads, config.dropout)


def build_backbone(config: ModelConfig, image_px: int) -> tuple[nn.Module, int]:
    """The backbone of `config` with random weights, and its number of features; `load_initial` gives it others."""
    config = registry.resolve_model(config)
    source, name = registry.locate(config.name)
    if source == "ours":
        module = importlib.import_module(f"{__package__}.{name}")
        built: tuple[nn.Module, int] = module.build(config, image_px)
        return built
    if source == "torchvision":
        import torchvision

        model = torchvision.models.get_model(name, weights=None)
        return model, _drop_classifier(model, name)
    model = create_timm(name, config.args)
    return model, int(model.num_features)


def create_timm(name: str, args: Mapping[str, Any]) -> Any:
    """Timm's network `name`, without its classifier.

    Raises:
        ConfigError: it does not take one of the keyword arguments `args`, or not with that value.
    """
    import timm

    try:
        return timm.create_model(name, num_classes=0, **args)
    except Exception as error:  # a network may reject a value with any of them
        if not args:
            raise
        with torch.device("meta"):
            taken = inspect.signature(type(timm.create_model(name, num_classes=0)).__init__).parameters
        own = sorted(set(taken) - {"self", "args", "kwargs", "cfg", *registry.TIMM_RESERVED})
        known = [*registry.COMMON, *(f"model.{key}" for key in own)]
        given = ", ".join(f"model.{key} = {value!r}" for key, value in args.items())
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"timm's {name!r} cannot be built with {given} ({reason}); it takes {', '.join(known)}"
        ) from error


def check_timm(config: ModelConfig) -> None:
    """Refuse keyword arguments that a timm network does not take; a second or two, because timm is imported.

    The network is built without memory for its weights.
    """
    source, name = registry.locate(config.name)
    if source == "timm" and config.args:
        with torch.device("meta"):
            create_timm(name, config.args)


def _drop_classifier(model: nn.Module, name: str) -> int:
    """Replace the last linear layer by the identity; returns how many features it took."""
    linear = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1][1].out_features != 1000:
        raise ConfigError(f"model {name!r} does not end in a linear classifier; choose a classification network")
    path, classifier = linear[-1]
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return classifier.in_features

"""Backbones by name: ours, torchvision's and timm's, each without its classifier."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fashion_dist.config import ModelConfig
from fashion_dist.errors import ConfigError
from fashion_dist.models import registry
from fashion_dist.models.heads import Head, Network
from shards.errors import import_file


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
        module = import_file(f"{__package__}.{name}")
        built: tuple[nn.Module, int] = module.build(config, image_px)
        return built
    if source == "torchvision":
        import torchvision

        sized: dict[str, Any] = {}
        if name.startswith("vit_"):
            sized = {"image_size": image_px}
        elif name.startswith("maxvit"):
            sized = {"input_size": (image_px, image_px)}
        elif name in ("googlenet", "inception_v3"):  # without what only answers in training; as their weights see it
            sized = {"aux_logits": False, "transform_input": True, "init_weights": True}
        model = torchvision.models.get_model(name, weights=None, **sized)
        return model, _drop_classifier(model, name)
    model = create_timm(name, config.args, image_px)
    return model, int(getattr(model, "head_hidden_size", 0) or model.num_features)


def create_timm(name: str, args: Mapping[str, Any], image_px: int) -> Any:
    """Timm's network `name`, without its classifier; one of a fixed image size is made for `image_px`.

    Raises:
        ConfigError: it does not take one of the keyword arguments `args`, or not with that value.
    """
    import timm

    cfg: Any = timm.get_pretrained_cfg(name)
    fixed = cfg is not None and cfg.fixed_input_size and cfg.input_size[-1] != image_px
    sized = {"img_size": image_px} if fixed and "img_size" not in args else {}
    try:
        return timm.create_model(name, num_classes=0, **sized, **args)
    except Exception as error:  # a network may reject a value with any of them
        if not args and not sized:
            raise
        if "img_size" in sized and "img_size" in str(error):
            raise ConfigError(f"timm's {name!r} takes images of {cfg.input_size[-1]} px only") from error
        with torch.device("meta"):
            taken = inspect.signature(type(timm.create_model(name, num_classes=0)).__init__).parameters
        own = sorted(set(taken) - {"self", "args", "kwargs", "cfg", *registry.TIMM_RESERVED})
        known = [*registry.COMMON, *(f"model.{key}" for key in own)]
        given = ", ".join(f"model.{key} = {value!r}" for key, value in args.items())
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"timm's {name!r} cannot be built with {given} ({reason}); it takes {', '.join(known)}"
        ) from error


def require_built(config: ModelConfig, image_px: int) -> nn.Module:
    """The backbone of `config` when it takes images of `image_px`; a library's on the meta device, without memory.

    Raises:
        ConfigError: it cannot be built, or a batch of such images cannot pass; says which sizes it takes.
    """
    source, name = registry.locate(config.name)
    libraries = ("torchvision", "timm")
    if source == "ours" and (theirs := [library for library in libraries if name in registry.library_models(library)]):
        raise ConfigError(f"{name}.py in fashion_dist/models has the name of {theirs[0]}'s network; allowed: another")
    try:
        return _passed(config, image_px)
    except ConfigError:
        raise
    except Exception as error:  # a network may fail at a size with any of them
        reason = " ".join(str(error).split()) or type(error).__name__
        args = "".join(f", model.{key} = {value!r}" for key, value in config.args.items())
        near = sorted({*range(32, 513, 32), 28, 112, 299, 336, 518}, key=lambda px: abs(px - image_px))
        taken, end = list[int](), time.monotonic() + _TRYING_S
        for px in near:
            if len(taken) < _SHOWN and time.monotonic() < end and _takes(config, px):
                taken.append(px)
        sizes = f"it takes for example {', '.join(map(str, sorted(taken)))}" if taken else "nor with any usual size"
        whose = f"the network {name!r}" if source == "ours" else f"{source}'s {name!r}"
        raise ConfigError(
            f"{whose} cannot be built with data.image_px = {image_px}{args} ({reason[:200]}); {sizes}"
        ) from error


_SHOWN, _TRYING_S = 4, 4.0
"""How many sizes are named, and how long they are looked for."""


def _takes(config: ModelConfig, image_px: int) -> bool:
    try:
        _passed(config, image_px)
    except Exception:  # as in `require_built`
        return False
    return True


def _passed(config: ModelConfig, image_px: int) -> nn.Module:
    # Ours are small, and may compute what the meta device cannot.
    ours = registry.locate(config.name)[0] == "ours"
    device = torch.device("cpu" if ours else "meta")
    with device, torch.random.fork_rng(devices=()), torch.set_grad_enabled(ours), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is computed, and older networks warn of their initialisation
        try:
            backbone, num_features = build_backbone(config, image_px)
        except NotImplementedError:  # it reads tensors as it is made, as torchvision's RegNets do
            with torch.device("cpu"):
                backbone, num_features = build_backbone(config, image_px)
            backbone = backbone.to(device)
        patch: Any = getattr(getattr(backbone, "patch_embed", None), "patch_size", 1)
        if image_px % (patch[0] if isinstance(patch, tuple) else patch):
            raise ValueError(f"patches of {patch[0]} px would leave a border out")
        if any(map(nn.parameter.is_lazy, backbone.parameters())):
            raise ValueError("its lazy layers have no size yet when build returns it")
        for training in (True, False) if ours else (True,):
            try:
                features: Any = backbone.train(training)(torch.rand(2, 3, image_px, image_px))
            except NotImplementedError:  # an operator that only works on real numbers: nothing is known
                return backbone
            when = "" if training else " in evaluation"
            if not isinstance(features, Tensor) or features.shape != (2, num_features):
                raise ValueError(f"its output{when} is not a tensor of {num_features} features an image")
            if features.dtype != torch.float32:
                raise ValueError(f"its output{when} is {features.dtype}, not torch.float32")
            if ours and training:
                require_learning(backbone, features)
    return backbone


def require_learning(backbone: nn.Module, features: Tensor) -> Tensor:
    """Refuse what DistributedDataParallel would wait for in vain, and features that no loss can use."""
    parts = {name: part for name, part in backbone.named_parameters() if part.requires_grad}
    known = features.requires_grad and torch.autograd.grad(features.sum(), list(parts.values()), allow_unused=True)
    if idle := [name for name, gradient in zip(parts, known or [None] * len(parts), strict=True) if gradient is None]:
        raise ValueError(f"of its parameters {', '.join(idle)} take no part in its output")
    if not features.isfinite().all():
        raise ValueError("its output is not finite")
    return features


def _drop_classifier(model: nn.Module, name: str) -> int:
    """Replace the last linear layer by the identity; returns how many features it took."""
    linear = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1][1].out_features != 1000:
        raise ConfigError(f"model {name!r} does not end in a linear classifier; choose a classification network")
    path, classifier = linear[-1]
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return classifier.in_features

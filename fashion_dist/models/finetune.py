"""The recipe of a run that begins with trained weights: settings in place of a task's recipe from scratch.

    what weights want     size, mean, std, interpolation, crop: a JSON file beside them, else their library's
                          configuration, else the run that they are of
    RECIPE                learning rates, freezing, weight decay, epochs; DEEP for transformers and ConvNeXt,
                          UNNORMALISED for networks in which nothing is normalised

Each is a mapping of settings as `Config.override` takes them; what the user sets comes after and always wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashion_dist.config import Config
from fashion_dist.errors import ConfigError
from fashion_dist.io import read_object
from fashion_dist.models import registry

RECIPE: Mapping[str, str] = {
    "model.dropout": "0.2",
    "optim.name": "adamw",
    "optim.lr": "0.001",
    "optim.beta2": "0.999",
    "optim.weight_decay": "0.05",
    "optim.no_decay": "network",
    "optim.schedule": "cosine",
    "optim.warmup_epochs": "1",
    "optim.clip_norm": "1",
    "optim.stages": "",
    "data.crop_scale": "0.5,1",
    "data.eval_order": "resize_crop",
    "data.cache_px": "0",
    "train.epochs": "20",
    "train.ema": "0.99",
    "train.patience": "0",
}
"""All of the network learns at one rate. Colours, mixing and the loss stay the task's: without mixup and CutMix a small
set was known by heart after six epochs (65 classes of clip art, 3,033 images: validation 0.765 instead of 0.79)."""
DEEP: Mapping[str, str] = {"optim.lr": "0.0005", "optim.layer_decay": "0.75"}
"""In place of these for networks whose lower layers are best changed little (Bao et al. 2022, Liu et al. 2022)."""
UNNORMALISED: Mapping[str, str] = {"optim.backbone_lr": "0.1"}
"""In place of it for networks in which nothing is normalised while they learn (VGG, AlexNet, or batch normalisation
folded into the convolutions): at one rate a MobileNetV2 of that kind gave every pair of garments one answer from the
sixth epoch on; at this one the AUC of validation was 0.754 (frozen 0.600)."""
_DEEP = re.compile(r"vit|deit|beit|eva|cait|swin|maxvit|convnext|mixer|xcit|hiera|davit")
_BICUBIC = ("bicubic", "lanczos", "random")


@dataclass(frozen=True)
class Wants:
    """What weights were trained with, as `origin` says: settings for `Config.override`, `model.name` and its args."""

    origin: str
    settings: Mapping[str, str]
    network: str = ""
    args: Mapping[str, Any] | None = None


def beside(path: Path) -> Wants | None:
    """What the JSON file beside a weights file says, in the form of timm's config.json; None where there is none.

    Raises:
        ConfigError: it cannot be read, or a value cannot be: `FILE: why`.
    """
    file = path.with_suffix(".json")
    values = read_object(file) if file.is_file() else {}
    if "pretrained_cfg" not in values:
        return None
    cfg, name = values["pretrained_cfg"], str(values.get("architecture", ""))
    if not isinstance(cfg, dict):
        raise ConfigError(f"{file}: pretrained_cfg is no object")
    try:
        found = of_cfg(cfg, file.name)
        network = registry.canonical(name if "/" in name else f"timm/{name}") if name else ""
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    return Wants(found.origin, found.settings, network)


def of_cfg(cfg: Mapping[str, Any], origin: str) -> Wants:
    """What a configuration in the words of timm's pretrained_cfg says; raises ConfigError for what cannot be."""

    def numbers(key: str, count: int) -> list[float]:
        value = cfg[key]
        good = isinstance(value, list | tuple) and len(value) == count
        if not good or not all(type(each) in (int, float) and abs(each) < 1e6 for each in value):
            raise ConfigError(f"{key} = {value!r} is not possible; allowed: {count} numbers")
        return list(value)

    made: dict[str, str] = {}
    if "input_size" in cfg:
        channels, _, width = numbers("input_size", 3)
        if channels != 3:
            raise ConfigError(f"input_size = {cfg['input_size']!r} is not possible; allowed: 3 channels")
        made["data.image_px"] = str(int(width))
    for key in ("mean", "std"):
        if key in cfg:
            made[f"data.{key}"] = ",".join(str(value) for value in numbers(key, 3))
    if "interpolation" in cfg:
        made["data.interpolation"] = "bicubic" if cfg["interpolation"] in _BICUBIC else "bilinear"
    if "crop_pct" in cfg:
        part = cfg["crop_pct"]
        if type(part) not in (int, float) or not 0.25 <= part <= 1:
            raise ConfigError(f"crop_pct = {part!r} is not possible; allowed: 0.25 to 1")
        made["data.eval_resize"] = f"{1 / part:.4f}"
    return Wants(origin, made)


def of_run(config: Config, origin: str) -> Wants:
    """What the backbone of a run of ours was trained with."""
    data = config.data
    plain = {
        "image_px": data.image_px, "eval_resize": data.eval_resize, "interpolation": data.interpolation,
        "mean": ",".join(map(str, data.mean)), "std": ",".join(map(str, data.std)),
    }  # fmt: skip
    # Dropout within a network of ours is a layer, which counts in the names of those behind it.
    settings = {f"data.{key}": str(value) for key, value in plain.items()} | {
        "model.dropout": str(config.model.dropout)
    }
    return Wants(origin, settings, config.model.name, config.model.args)


def settings(network: str, wants: Wants | None, folded: bool, normalised: bool) -> dict[str, tuple[str, str]]:
    """Key -> (value, where it comes from) of everything that finetuning has in place of a recipe.

    `wants` is what the weights were trained with, where that is known. Where their batch normalisation is `folded` into
    the convolutions, its statistics have to stay. `normalised`: the network has layers that normalise.
    """
    made = {key: (value, "finetuning recipe") for key, value in RECIPE.items()}
    if _DEEP.search(network):
        made |= {key: (value, f"finetuning recipe of {network}'s kind") for key, value in DEEP.items()}
    if folded or not normalised:
        why = "finetuning recipe of networks that nothing normalises"
        made |= {key: (value, why) for key, value in UNNORMALISED.items()}
    if wants is not None:
        made |= {key: (value, wants.origin) for key, value in wants.settings.items()}
    if folded:
        made["train.freeze_bn"] = ("true", "the weights, whose batch normalisation is folded")
    return made

"""Networks: a backbone that turns images into features, and named linear heads on it.

Our own backbones are the modules of this folder, found by file name; other names are torchvision's, then timm's.
Plain `nn.Module`s: nothing here knows of ranks.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fashion_dist.config import ModelConfig
from fashion_dist.errors import ConfigError, unknown
from fashion_dist.model_names import known_models, library_name, own_models
from fashion_dist.models._dropout import Dropout


@dataclass(frozen=True)
class Head:
    """One output of a network.

    Args:
        width: logits.
        part: the part of the features it rests on, where the backbone names parts; empty is all of them.
        hidden: width of a hidden layer; 0 is none.
    """

    width: int
    part: str = ""
    hidden: int = 0


class Network(nn.Module):
    """A backbone and one head per output.

    Where a backbone has several parts that are to answer by themselves, an output that rests on all of them has a head
    on each: their logits are given as `NAME/PART`, and `NAME` is their sum. A loss of each of them trains every part as
    if it were alone; of the sum alone, the part that learns fastest would leave nothing to learn to the others.

    Args:
        backbone: images [N, 3, H, W] -> features [N, C]; may name parts of them in `parts: dict[str, slice]`, and those
            that are to answer by themselves in `voters: tuple[str, ...]`.
        num_features: C.
        heads: what each named output rests on.
        dropout: probability of dropping a feature before the heads, in training.
    """

    def __init__(self, backbone: nn.Module, num_features: int, heads: Mapping[str, Head], dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_features = num_features
        self.dropout = Dropout(dropout)
        parts: dict[str, slice] = getattr(backbone, "parts", {})
        heads = {
            name if part == head.part else f"{name}/{part}": Head(head.width, part, head.hidden)
            for name, head in heads.items()
            for part in ([head.part] if head.part else getattr(backbone, "voters", None) or [""])
        }
        self._slices = {name: parts.get(head.part, slice(0, num_features)) for name, head in heads.items()}
        self.heads = nn.ModuleDict({name: self._head(head, self._slices[name]) for name, head in heads.items()})

    @staticmethod
    def _head(head: Head, features: slice) -> nn.Module:
        width_in = features.stop - features.start
        if not head.hidden:
            return nn.Linear(width_in, head.width)
        return nn.Sequential(nn.Linear(width_in, head.hidden), nn.ReLU(), nn.Linear(head.hidden, head.width))

    def features(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> what the heads see, [N, C]."""
        features: Tensor = self.backbone(images)
        return features

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images [N, 3, H, W] -> logits [N, width] by the name of the head."""
        features = self.dropout(self.features(images))
        outputs = {name: head(features[:, self._slices[name]]) for name, head in self.heads.items()}
        for name, logits in list(outputs.items()):
            output, voter, _ = name.partition("/")
            if voter:
                outputs[output] = outputs[output] + logits if output in outputs else logits
        return outputs


def build_network(config: ModelConfig, heads: Mapping[str, Head], image_px: int) -> Network:
    """The network of `config` with fresh heads.

    Raises:
        ConfigError: an unknown name, a network without a linear classifier to replace, or weights that do not fit.
    """
    backbone, num_features = build_backbone(config, image_px)
    return Network(backbone, num_features, heads, config.dropout)


def build_backbone(config: ModelConfig, image_px: int) -> tuple[nn.Module, int]:
    """The backbone of `config` with random weights, and its number of features; `load_weights` gives it others."""
    if config.name in own_models():
        built: tuple[nn.Module, int] = importlib.import_module(f"{__name__}.{config.name}").build(config, image_px)
        return built
    return _from_library(library_name(config.name))


def _from_library(name: str) -> tuple[nn.Module, int]:
    import torchvision

    if name in torchvision.models.list_models(module=torchvision.models):
        model = torchvision.models.get_model(name, weights=None)
        return model, _drop_classifier(model, name)
    import timm

    if not timm.is_model(name):
        raise unknown("model", name, known_models())
    model = timm.create_model(name, num_classes=0)
    return model, int(model.num_features)


def _drop_classifier(model: nn.Module, name: str) -> int:
    """Replace the last linear layer by the identity; returns how many features it took."""
    linear = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1][1].out_features != 1000:
        raise ConfigError(f"model {name!r} does not end in a linear classifier; choose a classification network")
    path, classifier = linear[-1]
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return classifier.in_features


def load_weights(backbone: nn.Module, path: Path) -> None:
    """Load a state dict (.pt, .pth or .safetensors) into the backbone; the file's own classifier is left out.

    Raises:
        ConfigError: the file does not fit; missing and unexpected keys are named.
    """
    state = _read_state_dict(path)
    own = backbone.state_dict()
    matched = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    missing = sorted(own.keys() - matched.keys() - {key for key in own if key.endswith("num_batches_tracked")})
    unexpected = sorted(state.keys() - matched.keys())
    # A published file has the classifier that ours has not: at most one layer's weight and bias.
    if missing or len({key.rpartition(".")[0] for key in unexpected}) > 1:
        raise ConfigError(
            f"{path} does not fit the model: missing {_some(missing)}; "
            f"unexpected or of another shape {_some(unexpected)}"
        )
    backbone.load_state_dict(matched, strict=False)


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ConfigError(f"weights {path} are not a file")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds; each means that this is no state dict
        raise ConfigError(f"weights {path} are not a state dict: {error}") from error
    loaded = loaded.get("state_dict", loaded.get("model", loaded)) if isinstance(loaded, dict) else loaded
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ConfigError(f"weights {path} are not a state dict of tensors")
    return {key.removeprefix("module."): value for key, value in loaded.items()}


def _some(names: list[str], shown: int = 6) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return (", ".join(names[:shown]) or "nothing") + rest

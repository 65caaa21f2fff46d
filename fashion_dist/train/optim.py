"""Optimiser, learning rate and weight average.

The learning rate is a pure function of the step, and with the plateau schedule of the evaluations so far.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fashion_dist.config import OptimConfig, Stage


@dataclass(frozen=True)
class OptimPhase:
    """The part of a run that one optimiser does.

    Args:
        number: from 0.
        first: the epoch it begins with.
        epochs: how many it takes.
        config: its optimiser, learning rate and schedule.
    """

    number: int
    first: int
    epochs: int
    config: OptimConfig


def optim_phase_at(config: OptimConfig, epochs: int, epoch: int) -> OptimPhase:
    """The phase that `epoch` (from 0) of `epochs` belongs to: the stage of `optim.stages`, or the whole run."""
    first = 0
    for number, text in enumerate(config.stages):
        stage = Stage.parse(text)
        if epoch < first + stage.epochs or number == len(config.stages) - 1:
            warmup = config.warmup_epochs if number == 0 else 0.0
            decay = config.weight_decay if stage.weight_decay is None else stage.weight_decay
            own = replace(
                config, name=stage.name, lr=stage.lr, warmup_epochs=warmup, weight_decay=decay, stages=()
            )  # fmt: skip
            return OptimPhase(number, first, stage.epochs, own)
        first += stage.epochs
    return OptimPhase(0, 0, epochs, config)


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """The parameters in groups: with and without weight decay, of the heads and of each layer of the backbone.

    Biases and normalisation weights (fewer than two dimensions) do not decay (Goyal et al. 2017, section 5.3), nor does
    what the network itself names where `no_decay` is `network`. Parameters whose name starts with `backbone.` get
    `backbone_lr` times the learning rate, times `layer_decay` to the power of their layers' distance from the heads.
    Each group's `scale` is that factor. Without `layer_decay` the backbone is one layer.
    """
    backbone: Any = getattr(model, "backbone", None)
    layers = layer_depths(backbone) if backbone is not None and config.layer_decay < 1 else {}
    above = 1 + max(layers.values(), default=-1)
    kept: Collection[str] = ()
    if config.no_decay == "network" and hasattr(backbone, "no_weight_decay"):
        kept = backbone.no_weight_decay()  # names, some with wildcards
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        in_backbone = name.startswith("backbone.")
        inner = name.removeprefix("backbone.")
        below = above - layers.get(inner, above) if in_backbone else 0
        named = in_backbone and any(fnmatch.fnmatch(inner, pattern) for pattern in kept)
        groups.setdefault((in_backbone, below, parameter.ndim >= 2 and not named), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decays else 0.0,
            "scale": config.backbone_lr * config.layer_decay**below if in_backbone else 1.0,
        }
        for (in_backbone, below, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


_LAYER = re.compile(r"(?:[a-z_]+\.)*?\w*\d(?:\.\d+)*(?=\.|$)")


def layer_depths(backbone: nn.Module) -> dict[str, int]:
    """Name of a parameter -> number of its layer, from 0 at the input.

    A network of timm's says so itself (`group_matcher`); what it counts as its head is left out. Elsewhere a layer is
    what its name's first number ends, such as `layer1.0` or `features.1.0`, in the order of definition; a part without
    a number behind the last layer of a stack, such as a transformer's norm, is of that layer.
    """
    matcher: Any = getattr(backbone, "group_matcher", None)
    if matcher is not None:
        from timm.models import group_parameters

        depths: dict[str, int] = group_parameters(backbone, matcher(coarse=False), reverse=True)
        return {name: depth for name, depth in depths.items() if not name.startswith(("head", "fc"))}
    names = [name for name, _ in backbone.named_parameters()]
    layers, last = list[str](), ""
    for name in names:
        found, part = _LAYER.match(name), name.partition(".")[0]
        if found or not (_LAYER.match(last) and last.startswith(f"{part}.")):
            last = found[0] if found else part
        layers.append(last)
    order = list(dict.fromkeys(layers))
    return {name: order.index(layer) for name, layer in zip(names, layers, strict=True)}


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser of `config` over the model's parameters; fused kernels. Frozen ones have no gradient and stay."""
    groups = parameter_groups(model, config)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=(config.momentum, config.beta2), fused=True)


def learning_rate(step: int, steps_per_epoch: int, epochs: int, config: OptimConfig) -> float:
    """Learning rate of optimiser step `step` (from 0) of `steps_per_epoch * epochs`.

    `cosine`: Loshchilov & Hutter 2017, after linear warm-up; `onecycle`: up for 30 % of the steps and down to
    `final_lr`, both by half a cosine (Smith & Topin 2018); `step`: a tenth at 60 % and again at 85 % of the steps;
    `constant`: with `lr_decay` Keras' inverse-time decay; `plateau`: to be multiplied by `plateau_scale`.
    """
    total = steps_per_epoch * epochs
    if config.schedule == "onecycle":
        rise = max(1, round(0.3 * total))
        if step < rise:
            return config.lr * (0.04 + 0.96 * _half_cosine(1 - step / rise))
        return config.lr * (
            config.final_lr + (1 - config.final_lr) * _half_cosine((step - rise) / max(1, total - rise))
        )
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule in ("constant", "plateau"):
        return config.lr / (1 + config.lr_decay * step)
    if config.schedule == "step":
        return config.lr * (0.1 if step >= 0.6 * total else 1.0) * (0.1 if step >= 0.85 * total else 1.0)
    progress = (step - warmup) / max(1, total - warmup)
    return config.lr * (config.final_lr + (1 - config.final_lr) * _half_cosine(progress))


def plateau_scale(goodness: Sequence[float], patience: int, factor: float) -> float:
    """What the plateau schedule multiplies the learning rate by after evaluations of this `goodness`, more is better.

    As torch's ReduceLROnPlateau with a threshold of 0: lowered after more than `patience` evaluations in a row that
    are no better than the best before; then they are counted anew. NaN is no better than anything.
    """
    scale, best, waited = 1.0, -math.inf, 0
    for value in goodness:
        if value > best:
            best, waited = value, 0
        else:
            waited += 1
        if waited > patience:
            scale, waited = scale * factor, 0
    return scale


def _half_cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its own `scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


class WeightAverage(AveragedModel):
    """The exponential moving average of the weights and the normalisation statistics.

    The decay of update n is min(decay, (1 + n) / (10 + n)), so that a short run is not dominated by its first weights
    (Tan & Le 2019, following TensorFlow's ExponentialMovingAverage). The first update copies.

    Args:
        model: whose weights; they stay the same tensors.
        decay: of the average, above 0 and below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self._decay = decay
        pairs = list(zip(_values(self.module), _values(model), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._others = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the model's values in; the count is the host's, so that a GPU is asked nothing."""
        del model  # its tensors are known
        n = int(self.n_averaged)
        averages, values = [average for average, _ in self._floats], [value for _, value in self._floats]
        if n == 0:
            torch._foreach_copy_(averages, values)
        else:
            torch._foreach_lerp_(averages, values, 1 - min(self._decay, (1 + n) / (10 + n)))
        for average, value in self._others:
            average.copy_(value)
        self.n_averaged += 1


def _values(module: nn.Module) -> list[Tensor]:
    return [value.detach() for value in (*module.parameters(), *module.buffers())]

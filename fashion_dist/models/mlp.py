"""A multilayer perceptron on the flattened pixels, which are taken as gray: three hidden layers, each normalised.

It knows nothing of neighbouring pixels; that it gets far on small centred pictures is the point of comparing it. With
`model.edges` it is told one thing of them: how much each pixel differs from the one to its right and the one below. Its
layers could learn the differences, but a sum of pixels cannot be an edge's strength whichever side is the darker.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fashion_dist.config import ModelConfig
from fashion_dist.models._dropout import Dropout

WIDTHS = (1024, 512, 256)
_EDGE_SCALE = 1.4
"""Brings the edges of a normalised image about to the spread of its pixels."""


@dataclass(frozen=True)
class Args:
    """The network's own settings."""

    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation after each layer."""
    init: Literal["kaiming", "xavier", "normal", "orthogonal"] = "kaiming"
    """Weight initialisation."""
    edges: bool = False
    """Whether the network also sees how much each pixel differs from the next across and down."""


def build(config: ModelConfig, image_px: int) -> tuple[nn.Module, int]:
    """The backbone with the `Args` of `config` and its dropout, and its number of features."""
    args = Args(**config.args)  # type: ignore[arg-type]
    backbone = MLP(image_px, args.norm, config.dropout, args.edges)
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            _INIT[args.init](module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return backbone, WIDTHS[-1]


class MLP(nn.Module):
    """Images [N, 3, `image_px`, `image_px`] -> features [N, 256].

    Args:
        image_px: height and width.
        norm: `batch`, `group` or `none`, after each layer.
        dropout: probability of dropping a value after each layer but the last, in training.
        edges: put the differences of neighbouring pixels beside the pixels.
    """

    def __init__(self, image_px: int, norm: str = "batch", dropout: float = 0.0, edges: bool = False) -> None:
        super().__init__()
        self.edges = edges
        layers: list[nn.Module] = []
        width_in = image_px * image_px + (2 * image_px * (image_px - 1) if edges else 0)
        for width in WIDTHS:
            layers += [nn.Linear(width_in, width, bias=norm == "none")]
            layers += [nn.BatchNorm1d(width)] if norm == "batch" else []
            layers += [nn.GroupNorm(8, width)] if norm == "group" else []
            layers += [nn.ReLU(inplace=True)]
            layers += [Dropout(dropout)] if dropout and width != WIDTHS[-1] else []
            width_in = width
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> features [N, C]."""
        red, green, blue = images.unbind(1)
        gray = (red + green + blue) / 3  # the mean over channels that lie side by side takes five times as long
        pixels = gray.flatten(1)
        features: Tensor = self.layers(torch.cat([pixels, *_edges(gray)], dim=1) if self.edges else pixels)
        return features


def _edges(gray: Tensor) -> tuple[Tensor, Tensor]:
    """How much each pixel of [N, H, W] differs from the next across and down: [N, H * (W - 1)], [N, (H - 1) * W]."""
    across, down = gray.diff(dim=2), gray.diff(dim=1)
    return across.abs().flatten(1) * _EDGE_SCALE, down.abs().flatten(1) * _EDGE_SCALE


_INIT: dict[str, Callable[[Tensor], Tensor]] = {
    "kaiming": functools.partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "xavier": nn.init.xavier_normal_,
    "normal": functools.partial(nn.init.normal_, std=0.02),
    "orthogonal": nn.init.orthogonal_,
}

"""A dense network on the flattened pixels, which are taken as gray: three hidden layers, each normalised.

It knows nothing of neighbouring pixels; that it gets far on small centred pictures is the point of comparing it.
"""

from __future__ import annotations

from torch import Tensor, nn

from fashion_dist.config import ModelConfig
from fashion_dist.models._dropout import Dropout

WIDTHS = (1024, 512, 256)


def build(config: ModelConfig, image_px: int) -> tuple[nn.Module, int]:
    """The backbone with the switches `model.norm`, `model.dropout` and `model.init`, and its number of features."""
    backbone = Dense(image_px, config.norm, config.dropout)
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            _INIT[config.init](module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return backbone, WIDTHS[-1]


class Dense(nn.Module):
    """Images [N, 3, `image_px`, `image_px`] -> features [N, 256].

    Args:
        image_px: height and width.
        norm: `batch`, `group` or `none`, after each layer.
        dropout: probability of dropping a value after each layer but the last, in training.
    """

    def __init__(self, image_px: int, norm: str = "batch", dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width_in = image_px * image_px
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
        features: Tensor = self.layers(gray.flatten(1))
        return features


def _normal(weight: Tensor) -> None:
    nn.init.normal_(weight, std=0.02)


def _kaiming(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def _xavier(weight: Tensor) -> None:
    nn.init.xavier_normal_(weight)


def _orthogonal(weight: Tensor) -> None:
    nn.init.orthogonal_(weight)


_INIT = {"kaiming": _kaiming, "xavier": _xavier, "normal": _normal, "orthogonal": _orthogonal}

"""FashionNet: a small residual network that also names colours.

What is new against the mainstream: beside the residual trunk, which sees shape, a *palette* branch sees colour alone.
It names the colour of every pixel softly (two 1x1 convolutions and a softmax over learned colour names), and counts
the names in windows of learned size about the middle of the picture, where the garment is. Its counts join the
trunk's features before the heads. The branch costs a few per cent of the trunk and gives the attribute head what a deep trunk
has to unlearn its invariances for.

The trunk is a ResNet-D (He et al. 2019) of dense 3x3 convolutions with squeeze-and-excitation (Hu et al. 2018): dense
convolutions run at several times the speed of depthwise ones on CPUs, so a narrow dense network beats a wide separable
one of the same time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fashion_dist.config import ModelConfig

WIDTHS = (32, 64, 128, 256)
DEPTHS = (1, 2, 2, 1)
STEM_WIDTH = 24

Norm = Callable[[int], nn.Module]


def build(config: ModelConfig, image_px: int) -> tuple[nn.Module, int]:  # noqa: ARG001  every network's signature
    """The backbone with the switches `model.pool`, `model.norm` and `model.init`, and its number of features."""
    backbone = FashionNet(norm=_NORMS[config.norm], pool=config.pool)
    initialise(backbone, config.init)
    return backbone, backbone.num_features


class FashionNet(nn.Module):
    """Images [N, 3, H, W] -> features [N, `num_features`].

    Args:
        norm: makes the normalisation layer of so many channels.
        pool: `avg` or `max`, over the trunk's last map.
    """

    def __init__(self, norm: Norm = nn.BatchNorm2d, pool: str = "avg") -> None:
        super().__init__()
        bias = norm is nn.Identity
        self.stem = nn.Sequential(
            _conv(3, STEM_WIDTH, norm, stride=2, bias=bias), nn.ReLU(inplace=True),
            _conv(STEM_WIDTH, WIDTHS[0], norm, stride=2, bias=bias), nn.ReLU(inplace=True),
        )  # fmt: skip
        blocks: list[nn.Module] = []
        width_in = WIDTHS[0]
        for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
            for block in range(depth):
                blocks.append(Block(width_in, width, 2 if stage and block == 0 else 1, norm))
                width_in = width
        self.trunk = nn.Sequential(*blocks)
        self.pool = pool
        self.palette = Palette()
        self.num_features = WIDTHS[-1] + self.palette.num_features

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> the trunk's pooled map beside the palette's counts, [N, C]."""
        trunk = self.trunk(self.stem(images))
        shape = trunk.mean((2, 3)) if self.pool == "avg" else trunk.amax((2, 3))
        return torch.cat([shape, self.palette(images)], dim=1)


class Block(nn.Module):
    """Two 3x3 convolutions with squeeze-and-excitation beside a shortcut that averages before it projects."""

    def __init__(self, width_in: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        bias = norm is nn.Identity
        self.first = _conv(width_in, width, norm, stride=stride, bias=bias)
        self.second = _conv(width, width, norm, bias=bias)
        squeezed = max(8, width // 4)
        self.squeeze = nn.Conv2d(width, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, width, 1)
        shortcut: list[nn.Module] = [nn.AvgPool2d(2, 2, ceil_mode=True)] if stride > 1 else []
        if width_in != width:
            shortcut.append(_conv(width_in, width, norm, kernel=1, bias=bias))
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, width, H / stride, W / stride]."""
        y = self.second(F.relu(self.first(x)))
        gate = self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        return F.relu(self.shortcut(x) + y * gate)


class Palette(nn.Module):
    """Shares of softly named colours in windows about the middle: [N, 3, H, W] -> [N, 2 * names * windows].

    Args:
        names: how many colour names to learn.
        halves: first half-widths of the windows, as fractions of the image; learned.
    """

    def __init__(self, names: int = 24, halves: tuple[float, ...] = (0.15, 0.22, 0.32)) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 32, 1)
        self.name = nn.Conv2d(32, names, 1)
        self.log_half = nn.Parameter(torch.tensor(halves).log())
        self.log_aspect = nn.Parameter(torch.zeros(len(halves)))
        self.num_features = 2 * names * len(halves)

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> shares and their logarithms."""
        height = images.shape[2]
        middle = F.avg_pool2d(images[:, :, height // 8 : height - height // 8, height // 8 : height - height // 8], 2)
        named = self.name(F.relu(self.mix(middle))).float().softmax(dim=1)
        reach = torch.linspace(-0.375, 0.375, named.shape[2], device=images.device).abs()
        inside_y = ((self.log_half + self.log_aspect).exp()[:, None] - reach).mul(50).sigmoid()
        inside_x = ((self.log_half - self.log_aspect).exp()[:, None] - reach).mul(50).sigmoid()
        weight = inside_y[:, :, None] * inside_x[:, None, :]
        shares = torch.einsum("nchw,khw->nkc", named, weight / weight.sum((1, 2), keepdim=True)).flatten(1)
        return torch.cat([4 * shares, 0.4 * shares.clamp_min(1e-4).log()], dim=1)


def _conv(width_in: int, width: int, norm: Norm, kernel: int = 3, stride: int = 1, bias: bool = False) -> nn.Module:
    conv = nn.Conv2d(width_in, width, kernel, stride, kernel // 2, bias=bias)
    return nn.Sequential(conv, norm(width))


def _group_norm(width: int) -> nn.Module:
    return nn.GroupNorm(8, width)


_NORMS: dict[str, Norm] = {"batch": nn.BatchNorm2d, "group": _group_norm, "none": nn.Identity}


def initialise(backbone: nn.Module, scheme: str) -> None:
    """Draw the trunk's convolutions anew by `scheme`: kaiming, xavier, normal (std 0.02) or orthogonal."""
    draw: Callable[[Tensor], Tensor] = {
        "kaiming": functools.partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"),
        "xavier": nn.init.xavier_normal_,
        "normal": functools.partial(nn.init.normal_, std=0.02),
        "orthogonal": nn.init.orthogonal_,
    }[scheme]
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            draw(module.weight)
    for module in backbone.modules():
        if isinstance(module, Block) and isinstance(module.second[1], nn.BatchNorm2d | nn.GroupNorm):
            # Blocks begin as their shortcuts (Goyal et al. 2017, section 5.1).
            nn.init.zeros_(module.second[1].weight)
        if isinstance(module, Palette):
            nn.init.normal_(module.mix.weight, std=1.0)
            nn.init.uniform_(module.mix.bias, -1, 1)  # type: ignore[arg-type]
            nn.init.normal_(module.name.weight, std=0.5)
